"""Methods from strangers: a package of its own, import paths, broken plug-ins, quarrels about names, options."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from riebench.cli import main
from riebench.engine.pair_worker import PairWorker
from riebench.engine.request import resolve
from riebench.engine.run_options import RunOptions
from riebench.instruments.loading import HandedIn, Instruments
from riebench.methods import create, find, method_names
from riebench.methods.options import options_of
from riebench.methods.registry import METHODS, catalogue
from riebench.methods.scaffold import write_method
from riebench.metrics.catalogue import find_metric
from riebench.models import entry_named
from riebench.records import Record, code, read_records
from riebench.records.code import code_hash
from riebench.util.errors import UserError
from riebench.util.plugins import load_object

METHOD = """
from typing import Annotated, Literal
from pydantic import Field
from riebench.methods import Observed, Plan, method

@method("{name}")
class Mine:
    '''Adds nothing.'''

    scale: Annotated[float, Field(gt=0, le=3, description="Factor on nothing.")] = 1.5
    kind: Literal["a", "b"] = "a"
    count: int | None = None
    flag: bool = True

    def plan(self, seen: Observed) -> Plan:
        return Plan()
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a distribution on the path: its module and its entry points."""
    monkeypatch.setattr(METHODS, "registered", dict(METHODS.registered))

    def put(distribution: str, module: str, code: str, **points: str) -> None:
        site = tmp_path / "site"
        info = site / f"{distribution}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = [f"{name.replace('_', '-')} = {module}:{attribute}" for name, attribute in points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[riebench.methods]", *lines, ""]))
        (site / f"{module}.py").write_text(code)
        monkeypatch.syspath_prepend(site)
        METHODS.__dict__.pop("installed", None)

    yield put
    monkeypatch.undo()
    METHODS.__dict__.pop("installed", None)


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    out = capsys.readouterr()
    return int(left.value.code or 0), out.out, out.err


ON_MINI = ("--block", "down.2.1", "--limit", "1", "--category", "colour", "--strength", "1", "--keep-images", "0")


def test_a_package_from_the_template_is_installed_and_runs_by_name(tmp_path: Path) -> None:
    package, site, out = tmp_path / "package", tmp_path / "site", tmp_path / "run"
    written = write_method("mean-shift", package)
    assert len(written) == 4
    for words in (["check", "--isolated"], ["format", "--isolated", "--check"]):
        subprocess.run([sys.executable, "-m", "ruff", *words, package], check=True, capture_output=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", site, package], check=True, capture_output=True)
    path = os.pathsep.join([str(site), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    # Its own test follows in the same process, as importing takes most of the time.
    code = "import sys, pytest; from riebench.cli import main\n"
    code += (
        "try: main(sys.argv[2:])\nexcept SystemExit as left: sys.exit(left.code or pytest.main(['-q', sys.argv[1]]))"
    )
    words = ["run", "--method", "mean-shift", *ON_MINI, "--out", str(out), "--option", "scale=2"]
    done = subprocess.run(
        [sys.executable, "-c", code, str(package), *words],
        check=False,
        env=os.environ | {"PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    (record,) = read_records(out)
    assert record.status == "ok", record.reason
    assert record.setting.method == "mean-shift"
    assert record.setting.options == {"scale": 2.0}
    assert record.metrics["lpips_base"]


def test_new_method_refuses(capsys: pytest.CaptureFixture[str], tmp_path: Path, install: Install) -> None:
    assert run(capsys, "new-method", "mine", "--out", tmp_path / "p")[0] == 0
    before = (tmp_path / "p" / "riebench_mine.py").read_text()
    install("stranger", "strange", METHOD.format(name="taken"), taken="Mine")
    for words, said in {
        ("mine", "--out", tmp_path / "p"): "exists and is not empty",
        ("sae",): "is taken by riebench",
        ("taken",): "is taken by stranger 1.0 (strange:Mine)",
        ("all",): "stands for every method",
        ("Mean Shift",): "expected at most 30 letters: lower-case words with dashes between, as 'mean-shift'",
        ("../up",): "as 'up'",
        ("x" * 31,): "at most 30",
        ("mine", "--out", "/proc/nowhere"): "cannot be written",
    }.items():
        code, _, err = run(capsys, "new-method", *words)
        assert code == 2
        assert said in err
        assert len(err.splitlines()) == 1
    assert (tmp_path / "p" / "riebench_mine.py").read_text() == before


def test_broken_plugins_are_listed_and_spare_the_others(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, install: Install, tmp_path: Path
) -> None:
    half = METHOD.format(name="half") + "\nraise RuntimeError('no such\\nthing')\n"
    install("half", "half_way", half, half="Mine")
    install("quits", "quitter", "import sys; sys.exit(3)", quits="Mine")
    install("plain", "plainly", "class Mine: pass", plain="Mine")
    install("idle", "idly", METHOD.format(name="idle").replace("def plan", "def plans"), idle="Mine")
    install("liar", "lying", METHOD.format(name="truth"), lie="Mine")
    install("odd", "oddly", METHOD.format(name="odd").replace("bool = True", "dict = None"), odd="Mine")
    install("fine", "finely", METHOD.format(name="fine"), fine="Mine")
    said = {
        "half": "RuntimeError: no such thing",
        "quits": "SystemExit: 3",
        "plain": "is not a method",
        "idle": "has no plan",
        "lie": "calls itself 'truth'",
        "odd": "the option 'flag' has a type that a record cannot keep",
    }
    for _ in range(2):  # what a module registered before it broke must not count the second time
        found = {known.name: known for known in catalogue()}
        for name, reason in said.items():
            assert found[name].entry is None
            assert reason in found[name].error
            assert "\n" not in found[name].error
        assert found["fine"].entry is not None
    code, text, _ = run(capsys, "methods")
    assert code == 0
    assert text.count("BROKEN") == len(said)
    with caplog.at_level(logging.WARNING):
        usable = method_names()
    assert {"fine", "sae"} <= set(usable)
    assert not set(said) & set(usable)
    # The method of pictures of another editor is there too, once another test has scored such pictures.
    assert len([message for message in caplog.messages if "'pictures'" not in message]) == len(said)
    code, text, err = run(capsys, "run", "--method", "quits", *ON_MINI, "--out", tmp_path / "r")
    assert code == 2
    assert "SystemExit: 3" in err
    assert "Traceback" not in text + err


def test_all_runs_what_can_be_run(capsys: pytest.CaptureFixture[str], install: Install, tmp_path: Path) -> None:
    """Left out is what cannot be loaded, and what needs an option.

    As the method that stands for pictures of another editor, once such pictures were scored in this process.
    """
    install("broken", "broken_one", "1 / 0", broken="Mine")
    install("fine", "finely_too", METHOD.format(name="fine"), fine="Mine")
    needy = METHOD.format(name="needy").replace("    scale:", "    name: str\n    scale:")
    install("needy", "needy_one", needy, needy="Mine")
    code, _, err = run(capsys, "run", "--method", "all", *ON_MINI, "--option", "count=4", "--out", tmp_path / "r")
    assert code == 0
    assert "left out: the method 'broken' cannot be loaded (ZeroDivisionError: division by zero)" in err
    assert "left out: the method 'needy' needs its option 'name'" in err
    found = {record.setting.method for record in read_records(tmp_path / "r")}
    assert {"fine", "sae", "steering"} <= found
    assert not {"broken", "needy"} & found


def test_a_name_that_two_distributions_have_is_refused(capsys: pytest.CaptureFixture[str], install: Install) -> None:
    install("first", "one", METHOD.format(name="same"), same="Mine")
    install("second", "two", METHOD.format(name="same"), same="Mine")
    both = ("first 1.0 (one:Mine)", "second 1.0 (two:Mine)")
    with pytest.raises(UserError, match="is taken twice") as refused:
        find("same")
    assert all(one in str(refused.value) for one in both)
    text = run(capsys, "methods")[1]
    assert all(one.split()[0] in text for one in both)
    assert "same" not in method_names()
    # The way out: its import path.
    assert find("two:Mine").name == "same"
    with pytest.raises(UserError, match="is taken twice"):
        find("same")


def test_an_entry_point_may_name_where_a_class_is_imported(install: Install, tmp_path: Path) -> None:
    install("folded", "folded_up", "", folded="Mine")
    site = tmp_path / "site"
    (site / "folded_up.py").unlink()
    (site / "folded_up").mkdir()
    (site / "folded_up" / "__init__.py").write_text("from folded_up.deep import Mine")
    (site / "folded_up" / "deep.py").write_text(METHOD.format(name="folded"))
    assert find("folded").place == "folded_up.deep:Mine"


def test_a_file_cannot_take_an_installed_name(tmp_path: Path, install: Install) -> None:
    (tmp_path / "thief.py").write_text(METHOD.format(name="steering"))
    with pytest.raises(UserError, match=r"is taken by riebench .*riebench_baselines\.steering:Steering"):
        find("thief:Mine")


def test_a_file_where_one_stands_runs_by_its_path(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, install: Install
) -> None:
    (tmp_path / "standing.py").write_text(METHOD.format(name="standing"))
    words = ("run", "--method", "standing:Mine", *ON_MINI, "--option", "scale=2", "--out", tmp_path / "r")
    assert run(capsys, *words)[0] == 0
    (record,) = read_records(tmp_path / "r")
    assert record.setting.method == "standing"
    assert record.setting.options == {"scale": 2.0, "kind": "a", "count": None, "flag": True}
    assert "did you mean 'standing'" in run(capsys, "methods", "standign")[2]


def test_a_file_anywhere_runs_by_its_path(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)  # so that what is added to the path is taken off again
    for folder, name in (("deep", "deeply"), ("other", "otherly")):
        (tmp_path / folder).mkdir()
        text = "import beside_stem\nUNHASHABLE = ([],)\n" + METHOD.format(name=name)
        (tmp_path / folder / "same_stem.py").write_text(text)
        (tmp_path / folder / "beside_stem.py").write_text("")
    words = ("run", "--method", "deep/same_stem.py:Mine", *ON_MINI, "--option", "scale=2", "--out", "r")
    monkeypatch.chdir(tmp_path)
    assert run(capsys, *words)[0] == 0
    (record,) = read_records(tmp_path / "r")
    assert (record.setting.method, record.method_class) == ("deeply", "same_stem:Mine")
    assert find("deep/same_stem:Mine") is find(f"{tmp_path}/deep/same_stem.py:Mine") is find("same_stem:Mine")
    with pytest.raises(UserError, match=r"another module is called same_stem .*rename .*other/same_stem\.py"):
        find("other/same_stem.py:Mine")
    with pytest.raises(UserError, match=r"the method 'deep/no_such\.py:Mine' cannot be loaded \(FileNotFoundError"):
        find("deep/no_such.py:Mine")
    with pytest.raises(UserError, match="unknown method 'Mines' in deep/same_stem; did you mean 'Mine'"):
        find("deep/same_stem:Mines")


def test_every_kind_of_extension_is_loaded_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cracked_file.py").write_text("1 / 0\n")
    (tmp_path / "leaving_file.py").write_text("import sys; sys.exit('bye\\nbye')\n")
    (tmp_path / "whole_file.py").write_text("def toy(): pass\n")
    loaders: dict[str, Callable[[str], Any]] = {
        "method": find,
        "model": entry_named,
        "metric": find_metric,
        "dictionary": lambda place: load_object("dictionary", place),
    }
    for kind, load in loaders.items():
        for place, reason in {
            "cracked_file:toy": "ZeroDivisionError: division by zero",
            "cracked_file.py:toy": "ZeroDivisionError: division by zero",
            "leaving_file:toy": "SystemExit: bye bye",
            "nowhere_file:toy": "ModuleNotFoundError",
            "nowhere_file.py:toy": "FileNotFoundError",
        }.items():
            with pytest.raises(UserError, match=f"the {kind} '{place}' cannot be loaded") as refused:
                load(place)
            assert reason in str(refused.value)
            assert "\n" not in str(refused.value)
        with pytest.raises(UserError, match=f"unknown {kind} 'tyo' in whole_file"):
            load("whole_file:tyo")


def test_options_are_shown(capsys: pytest.CaptureFixture[str], install: Install) -> None:
    install("shown", "showing", METHOD.format(name="shown"), shown="Mine")
    rows = {
        "scale": ("number > 0 and <= 3", "1.5", "Factor on nothing."),
        "kind": ("a or b", "a", ""),
        "count": ("whole number", "not set", ""),
        "flag": ("true or false", "true", ""),
    }
    assert {o.name: (o.type, o.default, o.doc) for o in options_of(find("shown").cls)} == rows
    text = run(capsys, "methods", "shown")[1]
    assert "Adds nothing." in text
    for name, cells in rows.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"│ {name} ")]
        assert all(cell in line for cell in cells)
    assert "SAEs" in run(capsys, "methods", "sae")[1]
    assert "no options" in run(capsys, "methods", "none")[1]
    with pytest.raises(UserError, match="option 'scale' of method 'shown' is '4'"):
        create("shown", {"scale": "4"})


def test_an_option_without_a_default_must_be_given(install: Install) -> None:
    code = METHOD.format(name="strict").replace("    flag: bool = True\n", "")
    install("strict", "strictly", code.replace("    scale", "    flag: bool\n    scale"), strict="Mine")
    assert options_of(find("strict").cls)[0].default == ""
    with pytest.raises(UserError, match="'strict' needs its option 'flag'; give --option flag=value"):
        create("strict", {})


def test_every_option_of_the_baselines_is_documented() -> None:
    for known in catalogue():
        assert known.entry is not None, known.error
        if known.origin.startswith("riebench "):
            assert known.entry.cls.__doc__
            assert all(option.doc for option in options_of(known.entry.cls)), known.name


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("sae", {"k": "7", "only_add": "true", "score": "mean"}),
        ("neurons", {"spatial": "false"}),
        ("steering", {}),
        ("none", {}),
    ],
)
def test_a_record_rebuilds_its_method(mini: Instruments, name: str, given: dict[str, str]) -> None:
    request, pairs = resolve(RunOptions(name, "up.0.1", strength=1, options=given, steps=1, limit=1, category=1))
    worker = PairWorker(request, HandedIn(mini.model, scorers=mini.scorers))
    (record,) = worker.work(worker.recorder.task(pairs[0])).records
    again = Record.model_validate_json(record.model_dump_json())
    read, ran = again.setting, worker.recorder.methods[0].method
    assert again.method_class is not None
    assert create(again.method_class, read.options) == ran  # as an import path, too
    assert create(read.method, read.options) == ran
    assert type(create(read.method, read.options)) is type(ran)


def test_a_change_anywhere_in_a_package_makes_new_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "registered", dict(METHODS.registered))
    package = tmp_path / "edited_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "helper.py").write_text("FACTOR = 1\n")
    (package / "inside.py").write_text("from edited_package.helper import FACTOR\n" + METHOD.format(name="edited"))
    monkeypatch.syspath_prepend(tmp_path)
    cls = find("edited_package.inside:Mine").cls
    before = code_hash(cls)
    assert code_hash(cls) == before
    (package / "helper.py").write_text("FACTOR = 2\n")
    with pytest.raises(UserError, match=r"helper\.py was edited"):
        code_hash(cls)
    monkeypatch.setattr(code, "_LOADED", {})  # as in a new process
    monkeypatch.setattr("edited_package.helper.FACTOR", 2)
    assert code_hash(cls) != before


def test_a_method_in_no_file_is_another_in_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "registered", dict(METHODS.registered))
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    lines = METHOD.format(name="in-no-file")
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(lines, scope)
    before = code_hash(scope["Mine"])
    assert before
    assert code_hash(scope["Mine"]) == before
    scope = {"__name__": "__main__"}
    exec(lines, scope)  # the cell again, perhaps edited
    assert code_hash(scope["Mine"]) not in ("", before)


def test_an_option_that_is_not_finite_is_refused(install: Install) -> None:
    install("endless", "endlessly", METHOD.format(name="endless").replace(", le=3", ""), endless="Mine")
    with pytest.raises(UserError, match="option 'scale' of method 'endless' is inf, expected a finite number"):
        resolve(RunOptions("endless", "mid.0", options={"scale": "inf"}))


def test_a_change_in_a_file_beside_makes_new_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "registered", dict(METHODS.registered))
    (tmp_path / "beside_helper.py").write_text("import beside_deep\n")
    (tmp_path / "beside_deep.py").write_text("FACTOR = 1\n")
    (tmp_path / "beside_other.py").write_text("FACTOR = 1\n")
    (tmp_path / "beside_method.py").write_text("import torch, beside_helper\n" + METHOD.format(name="beside"))
    monkeypatch.syspath_prepend(tmp_path)
    cls = find("beside_method:Mine").cls
    before = code_hash(cls)
    (tmp_path / "beside_other.py").write_text("FACTOR = 2\n")
    assert code_hash(cls) == before
    (tmp_path / "beside_deep.py").write_text("FACTOR = 2\n")
    monkeypatch.setattr(code, "_LOADED", {})  # as in a new process
    monkeypatch.setattr("beside_deep.FACTOR", 2)
    assert code_hash(cls) != before
    with pytest.raises(UserError, match="unknown method 'Mines' in beside_method; did you mean 'Mine'"):
        find("beside_method:Mines")


def test_a_default_of_the_wrong_type_is_refused(install: Install) -> None:
    code = METHOD.format(name="wrong").replace("= 1.5", "= 'much'")
    install("wrong", "wrong_default", code, wrong="Mine")
    with pytest.raises(UserError, match="option 'scale' of method 'wrong' is 'much': Input should be a valid number"):
        create("wrong", {})
