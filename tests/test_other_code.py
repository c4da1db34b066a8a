"""Records made by other code, masks, metrics or pairs than before: refused before anything is made."""

from __future__ import annotations

import functools
import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import toy_family

import riebench
from riebench.ablation.ablation_folder import read_zeroings
from riebench.cli import main
from riebench.engine import recorder
from riebench.engine.forecast import forecast, timed_work
from riebench.engine.pair_worker import PairWorker
from riebench.engine.request import resolve
from riebench.engine.run import carry_out
from riebench.engine.run_options import RunOptions
from riebench.instruments.loading import HandedIn, Instruments, model_instruments
from riebench.masks.region import Image, Mask
from riebench.methods.registry import METHODS
from riebench.metrics import METRICS
from riebench.metrics.clip import ClipScorer
from riebench.models.entries import entry_named
from riebench.paint.paint_instruments import PaintInstruments
from riebench.pairs import Pair, load_pairs
from riebench.records import code, read_records, record_key
from riebench.records.schema import measures_alike
from riebench.settings.protocols import PROTOCOLS
from riebench.settings.settings import Settings, parse_settings
from riebench.util.code_files import imported_files, module_files
from riebench.util.errors import UserError
from riebench.util.live_code import live_hash

METHOD = """
from riebench.methods import Plan, method
{imports}
@method("edited")
class Edited:
    table: str = ""

    def plan(self, seen):
        return Plan({{site: {factor} * (seen.source[site] - seen.base[site]) for site in seen.sites}})
"""
METRIC = """
from riebench.metrics import metric
{imports}
@metric("height", "rows of the picture", needs=())
def height(seen):
    return [{factor} * float(len(picture)) for picture in seen.pictures]
"""


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test loads is forgotten after it."""
    before, path = dict(METRICS), list(sys.path)
    monkeypatch.setattr(METHODS, "registered", dict(METHODS.registered))
    yield
    METRICS.clear()
    METRICS.update(before)
    sys.path[:] = path
    new_process()


def new_process() -> None:
    """Forget the files that tests write, as a new process would."""
    code._LOADED.clear()
    for name in list(sys.modules):
        if name.partition(".")[0] in ("edited_method", "factors", "own", "units", "scale", "edited_family"):
            del sys.modules[name]
    METRICS.pop("height", None)
    entry_named.cache_clear()
    importlib.invalidate_caches()


def write_method(factor: object = 1, imports: str = "") -> None:
    Path("edited_method.py").write_text(METHOD.format(factor=factor, imports=imports))
    shutil.rmtree("__pycache__", ignore_errors=True)


@pytest.fixture
def run(mini: Instruments) -> Callable[..., list[float | None]]:
    """Runs a method in a folder, by default on one pair at strength 1; gives LPIPS of each record."""

    def go(method: str = "edited_method.py:Edited", **more: Any) -> list[float | None]:
        loaded = {"model": mini.model, "scorers": mini.scorers}
        options = {"strength": 1, "category": 1, "limit": 1, "steps": 1, "keep_images": 0, "out": "r", "quiet": True}
        records = riebench.run(method, **{"block": "mid.0", **loaded, **options, **more}).records
        return [record.metrics.get("lpips_base") for record in records]

    return go


Run = Callable[..., list[float | None]]
OTHERS: list[dict[str, Any]] = [{"strength": 1}, {"strength": 2}, {"category": 6}]
"""The same pair and strength, another strength, another pair."""


def refused_everywhere(run: Run, *names: str, **more: Any) -> None:
    """Check that the folder ``r`` takes no further record: not of the same setting, a strength or a pair."""
    before = Path("r/records.jsonl").read_bytes()
    for other in OTHERS:
        new_process()
        with pytest.raises(UserError) as refused:
            run(**{**more, **other})
        assert all(name in str(refused.value) for name in (*names, "--out", "--force")), refused.value
    assert Path("r/records.jsonl").read_bytes() == before


def test_another_code_of_a_method(run: Run) -> None:
    write_method()
    run()
    new_process()
    assert len(run(strength=2)) == 2
    write_method(factor=3)
    refused_everywhere(run, "'edited'")
    assert run(out="other") != run(out="r2", strength=2)


@pytest.mark.parametrize("module", ["edited_method", "factors"])
def test_a_constant_that_was_set_in_memory(run: Run, module: str) -> None:
    Path("factors.py").write_text("F = 2.0\n")
    write_method(factor="F * G", imports="from factors import F\nG = 1.0")
    run()
    setattr(sys.modules[module], "F" if module == "factors" else "G", 3.0)
    with pytest.raises(UserError, match=rf"is 3\.0 in this process and [12]\.0 in .*{module}.py"):
        run(strength=2)


DATA = {
    "data": ("factors.txt", "F = float(Path(__file__).with_name('factors.txt').read_text())"),
    "data by a relative path": ("factors.txt", "F = float(open('factors.txt').read())"),
    "data in a folder": ("tables/factors.txt", "F = float((HERE / 'tables' / 'factors.txt').read_text())"),
}


@pytest.mark.parametrize("layout", ["package", "namespace", "called", "inside", "elsewhere", "without source", *DATA])
def test_another_code_of_what_a_method_imports(run: Run, layout: str, tmp_path: Path) -> None:
    names = {"elsewhere": "elsewhere/factors.py"} | {data: name for data, (name, _) in DATA.items()}
    file = tmp_path / names.get(layout, "factors/__init__.py")
    imports, factor = "from factors import F", "F"
    if layout == "namespace":
        file, imports = tmp_path / "factors/deep/numbers.py", "from factors.deep.numbers import F"
    elif layout == "called":
        imports = 'import importlib\nF = importlib.import_module("factors").F'
    elif layout == "inside":
        imports = "def factor():\n    import factors\n    return factors.F"
        factor = "factor()"
    elif layout in DATA:
        imports = f"from pathlib import Path\nHERE = Path(__file__).parent\n{DATA[layout][1]}"
    elif layout == "elsewhere":
        sys.path.append(str(file.parent))
    file.parent.mkdir(parents=True, exist_ok=True)

    def write(number: int) -> None:
        new_process()
        shutil.rmtree(file.parent / "__pycache__", ignore_errors=True)
        if layout == "without source":
            import py_compile

            source = tmp_path / "source.py"
            source.write_text(f"F = {number}\n")
            file.parent.mkdir(exist_ok=True)
            py_compile.compile(str(source), str(file.with_suffix(".pyc")))
        else:
            file.write_text(str(number) if layout in DATA else f"F = {number}\n")

    write_method(factor, imports)
    write(1)
    first = run()
    new_process()
    assert len(run(strength=2)) == 2
    write(3)
    refused_everywhere(run, "'edited'")
    assert run(out="other") != first


def test_a_file_that_code_writes_is_none_that_it_reads(tmp_path: Path) -> None:
    code = tmp_path / "writing.py"
    code.write_text("open('log.txt', 'w')\ntable.to_csv('table.csv')\nnumbers = open('read.txt')\n")
    for name in ("log.txt", "table.csv", "read.txt"):
        (tmp_path / name).write_text("1")
    assert [file.name for file in imported_files([code])] == ["read.txt"]


def test_another_file_that_an_option_names(run: Run) -> None:
    write_method("float(open(self.table).read())")
    Path("t.txt").write_text("1")
    Path("u.txt").write_text("2")
    run(options={"table": "t.txt"})
    assert len(run(options={"table": "u.txt"})) == 2  # another option is another method
    Path("t.txt").write_text("3")
    refused_everywhere(run, "'edited'", options={"table": "t.txt"})
    run(options={"table": "u.txt"}, strength=2)


def test_code_edited_in_a_process_is_refused(run: Run) -> None:
    Path("factors.py").write_text("F = 1\n")
    write_method("factors.F", "import factors")
    run()
    write_method("2 * factors.F", "import factors")
    for folder in ("r", "new"):
        with pytest.raises(UserError, match=r"edited_method\.py was edited.*new process"):
            run(out=folder, strength=2)
    write_method("factors.F", "import factors")
    Path("factors.py").write_text("F = 2\n")
    with pytest.raises(UserError, match=r"factors\.py was edited"):
        run(out="new")
    Path("factors.py").write_text("F = 1\n")
    assert len(run(strength=2)) == 2


def test_a_module_that_is_loaded_again_is_new_code(run: Run) -> None:
    write_method()
    first = run()
    write_method(3)
    importlib.reload(sys.modules["edited_method"])
    assert run(out="new") != first


def test_records_of_an_earlier_version_are_gone_on_with(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("factors").mkdir()
    Path("factors/__init__.py").write_text("F = 1\n")
    write_method("F", "from factors import F")

    def key_before(made_by: object = None, **content: Any) -> str:
        return record_key(**content)

    with monkeypatch.context() as earlier:
        earlier.setattr(recorder, "record_key", key_before)
        run(strength=[1, 2])
    old = {record.key for record in read_records(Path("r"))}
    rows = [json.loads(line) for line in Path("r/records.jsonl").read_text().splitlines()]
    (shared,) = [row["shared"] for row in rows if "hash" in row]
    wholes = [shared | row for row in rows if "key" in row]
    for whole in wholes:
        del whole["shared"], whole["made_by"], whole["pair_hash"]
    Path("r/records.jsonl").write_text("".join(f"{json.dumps(whole)}\n" for whole in wholes))
    new_process()
    assert len(run(strength=[1, 2, 3])) == 3
    assert {record.key for record in read_records(Path("r")) if record.setting.strength < 3} == old


def corner(rows: int) -> Callable[[Pair, Image, Image], tuple[Mask, Mask]]:
    def masks(pair: Pair, base: Image, source: Image) -> tuple[Mask, Mask]:
        mask = np.zeros(base.shape[:2], np.bool_)
        mask[:rows] = True
        return mask, mask

    return masks


def rows_of(pair: Pair, base: Image, source: Image, rows: int = 8) -> tuple[Mask, Mask]:
    return corner(rows)(pair, base, source)


class Corner:
    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __call__(self, pair: Pair, base: Image, source: Image) -> tuple[Mask, Mask]:
        return corner(self.rows)(pair, base, source)


class Named(Corner):
    def __init__(self, rows: int, fingerprint: str) -> None:
        super().__init__(rows)
        self.fingerprint, self.calls = fingerprint, 0

    def __call__(self, pair: Pair, base: Image, source: Image) -> tuple[Mask, Mask]:
        self.calls += 1
        return super().__call__(pair, base, source)


def lambda_of(part: Mask) -> Any:
    return lambda pair, base, source: (part, part)


def using(rows: int) -> Any:
    """A function that uses a constant of a module, as it was set since the module was read."""
    module = ModuleType("settings")
    module.rows = rows  # type: ignore[attr-defined]
    return eval("lambda pair, base, source: settings.rows", {"settings": module, "__name__": "__main__"})


FORMS: dict[str, Callable[[int], Any]] = {
    "closure": corner,
    "partial": lambda rows: functools.partial(rows_of, rows=rows),
    "object": Corner,
    "bound method": lambda rows: Corner(rows).__call__,
    "lambda of an array": lambda rows: lambda_of(np.arange(rows) > 0),
    "lambda of text": lambda rows: eval(f"lambda pair, base, source: {rows}"),
    "default": lambda rows: eval(f"lambda pair, base, source, rows={rows}: rows"),
    "wrapped": lambda rows: functools.lru_cache(corner(rows)),
    "decorated by a library": lambda rows: torch.no_grad()(corner(rows)),
    "constant of a module": using,
    "named as a library's": lambda rows: functools.wraps(np.where)(corner(rows)),
}


@pytest.mark.parametrize("form", FORMS)
def test_masks_differ_as_their_code_and_state_do(form: str) -> None:
    make = FORMS[form]
    assert live_hash(make(8)) == live_hash(make(8))
    assert live_hash(make(8)) != live_hash(make(16))


def test_masks_differ_as_what_they_use_of_their_module_does() -> None:
    lines = "ROWS = {}\ndef helper(): return ROWS\ndef masks(pair, base, source): return helper()\nOUT = {!r}\n"
    hashes = []
    for rows, out in ((8, "a"), (8, "b"), (16, "a")):
        scope: dict[str, Any] = {"__name__": "__main__"}
        exec(lines.format(rows, out), scope)
        hashes.append(live_hash(scope["masks"]))
    assert hashes[0] == hashes[1] != hashes[2]


def test_another_function_of_masks(run: Run) -> None:
    first = run("steering", masks=corner(64))
    assert len(run("steering", masks=corner(64), strength=2)) == 2
    refused_everywhere(run, "masks=", method="steering", masks=corner(16))
    assert run("steering", masks=corner(16), out="other") != first


def test_masks_may_name_their_version(run: Run) -> None:
    masks = Named(64, "one")
    run("steering", masks=masks)
    assert len(run("steering", masks=masks, strength=2)) == 2  # its count of calls is no part of it
    with pytest.raises(UserError, match="fingerprint"):
        run("steering", masks=Named(64, "two"), strength=3)


def test_a_pair_that_was_another(run: Run, mini: Instruments) -> None:
    assert mini.model.entry.pairs is not None
    pair, other = load_pairs(mini.model.entry.pairs)[:2]
    run("none", pairs=[pair], category=None)
    for changes in (
        {"editing_prompt": pair.editing_prompt.replace("square", "heart")},
        {"editing_type_id": 7},
        {"original_gsam_prompt": "shape"},
    ):
        changed = pair.model_copy(update=changes)
        with pytest.raises(UserError, match=f"{pair.id}.*--out"):
            run("none", pairs=[changed], category=None, strength=2)
    assert len(run("none", pairs=[pair, other], category=None, strength=2, limit=None)) == 3
    with pytest.raises(UserError, match=f"{pair.id}' twice"):
        run("none", pairs=[pair, pair.model_copy(update=changes)], category=None, out="new")
    assert len(riebench.load_records("r")) == 3


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(words))
    return int(left.value.code or 0)


ONE = ("--block", "mid.0", "--category", "1", "--limit", "1", "--steps", "1", "--strength", "1", "--keep-images", "0")


def test_a_run_is_not_repeated_with_other_code(capsys: pytest.CaptureFixture[str]) -> None:
    write_method()
    Path("own.py").write_text(METRIC.format(factor=1, imports=""))
    words = ("--method", "edited_method.py:Edited", "--metrics", "own.py:height", "--out", "r")
    assert command("run", *ONE, *words) == 0
    new_process()
    assert command("rerun", "r", "--out", "same") == 0
    write_method(factor=3)
    new_process()
    assert command("rerun", "r", "--out", "new") == 2
    assert "'edited'" in capsys.readouterr().err
    write_method()
    Path("own.py").write_text(METRIC.format(factor=2, imports=""))
    new_process()
    assert command("rerun", "r", "--out", "new") == 2
    assert "height by own:height" in capsys.readouterr().err


def test_a_folder_without_records_is_repeated_by_what_its_run_file_says(
    mini: Instruments, capsys: pytest.CaptureFixture[str]
) -> None:
    write_method()
    Path("own.py").write_text(METRIC.format(factor=1, imports=""))
    shutil.copytree(next(iter(mini.model.saes.values())).parent, "saes")  # type: ignore[union-attr]
    words = ("--method", "edited_method.py:Edited", "--method", "sae", "--metrics", "own.py:height")
    assert command("run", *ONE, *words, "--set", "sae.folder=saes", "--out", "r") == 0
    Path("r/records.jsonl").unlink()

    def refused(said: str) -> None:
        new_process()
        for out in (["--out", "new"], []):
            assert command("rerun", "r", *out) == 2
            assert said in capsys.readouterr().err
        assert not Path("r/records.jsonl").read_bytes()

    write_method(factor=3)
    refused("other code of the method 'edited_method.py:Edited'")
    write_method()
    Path("own.py").write_text(METRIC.format(factor=2, imports=""))
    refused("height by own:height")
    Path("own.py").write_text(METRIC.format(factor=1, imports=""))
    Path("saes/mid.0").rename("saes/up")
    Path("saes/up.0.0").rename("saes/mid.0")
    refused("the sae")
    Path("saes/mid.0").rename("saes/up.0.0")
    Path("saes/up").rename("saes/mid.0")
    new_process()
    assert command("rerun", "r", "--out", "same") == 0
    assert "holds no records; its run.json tells" in capsys.readouterr().err
    said = json.loads(Path("r/run.json").read_text())
    for session in said["sessions"]:
        session.pop("made_with")
    Path("r/run.json").write_text(json.dumps(said))
    refused("nothing tells whether a repetition is the same")


def test_a_run_is_not_repeated_with_other_saes(mini: Instruments, capsys: pytest.CaptureFixture[str]) -> None:
    saes = {site: folder for site, folder in mini.model.saes.items() if isinstance(folder, Path)}
    folder = Path("saes/mid.0")
    shutil.copytree(saes["mid.0"], folder)
    assert command("run", *ONE, "--method", "sae", "--set", "sae.folder=saes", "--out", "r") == 0
    assert command("rerun", "r", "--out", "same") == 0
    shutil.rmtree(folder)
    shutil.copytree(saes["down.2.1"], folder)
    assert command("rerun", "r", "--out", "new") == 2
    assert "the sae" in capsys.readouterr().err


def test_another_code_of_a_metric_and_of_what_it_imports(run: Run) -> None:
    Path("units").mkdir()
    Path("units/__init__.py").write_text("F = 1\n")
    Path("own.py").write_text(METRIC.format(factor="F", imports="from units import F"))
    run("none", metrics="own.py:height")
    new_process()
    run("none", metrics="own.py:height", strength=2)
    Path("units/__init__.py").write_text("F = 2\n")
    shutil.rmtree("units/__pycache__", ignore_errors=True)
    refused_everywhere(run, "height", method="none", metrics="own.py:height")


def test_a_worker_with_other_code_makes_no_record(mini: Instruments) -> None:
    request, pairs = resolve(RunOptions("none", "mid.0", strength=1, category=1, limit=1, steps=1))
    worker = PairWorker(request, HandedIn(model=mini.model, scorers=mini.scorers))
    (task,) = worker.describe(pairs).tasks
    assert [record.status for record in worker.work(task).records] == ["ok"]
    (failed,) = worker.work(task._replace(code="of another worker")).records
    assert failed.status == "failed"
    assert "other code or weights" in str(failed.reason)


SCORER = """
import csv, sys
import scale
rows = list(csv.DictReader(open(sys.argv[1] + "/pictures.csv")))
file = csv.writer(open(sys.argv[1] + "/scores.csv", "w"))
file.writerow(["file", "mine"])
file.writerows([row["file"], scale.F] for row in rows)
open("log.txt", "a").write("ran again")
"""


def test_another_script_of_a_metric_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run("none", keep_images=1)
    Path("own.py").write_text(SCORER)
    Path("scale.py").write_text("F = 1\n")
    Path("log.txt").write_text("")
    words = ("score", "r", "--metric-command", f"{sys.executable} own.py {{folder}} --log=log.txt")
    assert command(*words) == 0
    assert command(*words) == 0  # what it writes is no part of it
    (record,) = read_records(Path("r"))
    by = record.measured_by["mine"]
    for file in ("own.py", "scale.py"):
        text = Path(file).read_text()
        Path(file).write_text(text.replace("again", "again ").replace("F = 1", "F = 2"))
        assert command(*words) == 2
        assert "--again" in capsys.readouterr().err
        Path(file).write_text(text)
    Path("scale.py").write_text("F = 2\n")
    shutil.rmtree("__pycache__", ignore_errors=True)
    assert command(*words, "--again") == 0
    (record,) = read_records(Path("r"))
    assert record.metrics["mine"] == 2
    assert record.measured_by["mine"] != by


def test_a_command_measured_by_an_earlier_version_is_gone_on_with() -> None:
    now = "python own.py {folder} with 0123456789abcdef"
    assert measures_alike("python own.py {folder}", now)
    assert measures_alike(now, now)
    assert not measures_alike(now, now.replace("0123", "3210"))
    assert not measures_alike("python other.py {folder}", now)


def test_a_metric_that_is_not_a_number_is_told_and_mended(
    run: Run, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own.py").write_text(METRIC.format(factor='float("nan")', imports=""))
    run("none", metrics="own.py:height", keep_images=1)
    assert "height" in caplog.text
    assert read_records(Path("r"))[0].metrics["height"] is None
    Path("own.py").write_text(METRIC.format(factor=2, imports=""))
    new_process()
    with pytest.raises(UserError, match="--again"):
        run("none", metrics="own.py:height", strength=2)
    new_process()
    assert command("score", "r", "--metrics", "own.py:height", "--again") == 0
    assert read_records(Path("r"))[0].metrics["height"] == 256
    assert len(run("none", metrics="own.py:height", strength=2, keep_images=0)) == 2
    Path("own.py").write_text(METRIC.format(factor=3, imports=""))
    new_process()
    assert command("score", "r", "--metrics", "own.py:height", "--again") == 2  # the second picture is not kept
    assert {record.metrics["height"] for record in read_records(Path("r"))} == {256}


def test_nothing_to_score_is_said(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run("none", keep_images=1)
    Path("r/records.jsonl").write_text("")
    for words in (("--metrics", "psnr_outside"), ("--metric-command", "true {folder}")):
        assert command("score", "r", *words) == 2
        assert "no records" in capsys.readouterr().err
    assert command("score", "r", "--metric-command", "python 'own.py {folder}") == 2
    assert "quot" in capsys.readouterr().err


class Reading:
    """Mini's CLIP, which reads the edit prompt in part, or all prompts alike."""

    def __init__(self, clip: ClipScorer, cut: str = "", alike: bool = False) -> None:
        self.clip, self._cut, self.alike = clip, cut, alike

    def __getattr__(self, name: str) -> Any:
        return getattr(self.clip, name)

    def cut(self, prompt: str) -> str:
        return "99 tokens, of which CLIP reads 9" if prompt == self._cut else ""

    def text(self, prompt: str) -> Any:
        return self.clip.text("a red heart" if self.alike else prompt)

    def tokenizer(self, prompts: list[str]) -> Any:
        return self.clip.tokenizer(["a red heart"] * len(prompts) if self.alike else prompts)


def test_a_prompt_that_clip_reads_in_part_has_no_similarity(run: Run, mini: Instruments) -> None:
    assert mini.model.entry.pairs is not None
    pair, clip = load_pairs(mini.model.entry.pairs)[0], mini.scorers.clip
    longest = clip.tokenizer.context_length - 2  # without start and end
    assert clip.cut(" ".join(["a"] * longest)) == ""
    assert clip.cut(" ".join(["a"] * (longest + 1))) == f"{longest + 3} tokens, of which CLIP reads {longest + 2}"
    reading: Any = Reading(clip, cut=pair.edit_prompt)
    run("none", scorers=mini.scorers._replace(clip=reading), pairs=[pair], category=None)
    (record,) = read_records(Path("r"))
    null = {name for name, value in record.metrics.items() if value is None}
    assert null == {name for name in record.metrics if name.startswith("clip_text_edit")}
    assert "99 tokens, of which CLIP reads 9" in str(record.notes["edit prompt"])
    assert "original prompt" not in record.notes


def test_an_ablation_has_no_similarity_with_a_prompt_that_clip_reads_in_part(
    mini: Instruments, caplog: pytest.LogCaptureFixture
) -> None:
    Path("prompts.txt").write_text("a red heart in a meadow\na blue star\n")
    scorers = mini.scorers._replace(clip=Reading(mini.scorers.clip, cut="a blue star"))  # type: ignore[arg-type]
    done = riebench.ablate(mini.model, "mid.0", prompts="prompts.txt", out="a", scorers=scorers, quiet=True)
    whole, cut = done.zeroings
    assert (cut.clip, cut.clip_untouched) == (None, None)
    assert None not in (whole.clip, whole.clip_untouched, cut.lpips)
    assert "a blue star" in caplog.text
    assert read_zeroings(Path("a")) == done.zeroings
    assert done.table is not None
    assert done.table["clip"].tolist() == [whole.clip]


def test_the_page_has_no_similarity_with_a_prompt_that_clip_reads_in_part(mini: Instruments) -> None:
    instruments = PaintInstruments(mini.model.entry, Settings())
    instruments.clip = Reading(mini.scorers.clip, cut="a blue star")  # type: ignore[assignment]
    picture = np.zeros((128, 128, 3), np.uint8)
    scores = {
        prompt: next(instruments.scores(picture, picture, prompt, 3)) for prompt in ("a blue star", "a red heart")
    }
    assert "of which CLIP reads 9" in scores["a blue star"]["clip"]["reason"]
    assert scores["a red heart"]["clip"]["base"] == scores["a red heart"]["clip"]["edited"]


def test_a_caller_s_autocast_changes_no_record(run: Run, mini: Instruments) -> None:
    run("sae")
    (plain,) = read_records(Path("r"))
    with torch.autocast("cpu", torch.bfloat16):
        run("sae", out="cast")
        cast = riebench.ablate(mini.model, "mid.0", prompts=1, out="a", scorers=mini.scorers, quiet=True).zeroings
    assert read_records(Path("cast"))[0].metrics == plain.metrics
    assert cast == riebench.ablate(mini.model, "mid.0", prompts=1, out="b", scorers=mini.scorers, quiet=True).zeroings


def test_prompts_that_clip_reads_alike_are_told(run: Run, mini: Instruments, caplog: pytest.LogCaptureFixture) -> None:
    assert mini.model.entry.pairs is not None
    pair = load_pairs(mini.model.entry.pairs)[0]
    reading: Any = Reading(mini.scorers.clip, alike=True)
    run("none", scorers=mini.scorers._replace(clip=reading), pairs=[pair], category=None)
    (record,) = read_records(Path("r"))
    assert "alike" in str(record.notes["prompts"])
    assert pair.id in caplog.text


def test_the_time_of_other_weights_is_not_known(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = {"strength": 1, "limit": 1, "category": 1, "steps": 1}
    request, pairs = resolve(RunOptions("none", "mid.0", **asked))
    assert forecast(request).seconds == {}
    carry_out(request, pairs, RunOptions(out="timed", quiet=True))
    assert set(forecast(request).seconds) == {"cpu"}
    for settings in ({"dtype": "bfloat16"}, {"device": "cuda"}):
        other, _ = resolve(RunOptions("none", "mid.0", settings=settings, **asked))
        assert forecast(other).seconds == {}, settings
    file = tmp_path / "cache/riebench/timings.json"
    kept = file.read_text()
    for damaged in (b"{", b"[1]", b"\xff\xfe", b'{"a": 1}', kept.replace("0.", '"0.').replace("}}", '"}}').encode()):
        file.write_bytes(damaged)
        assert forecast(request).seconds == {}, damaged


def test_the_kept_time_of_a_pass_counts_the_pictures_of_a_search(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    monkeypatch.setattr("riebench.engine.run.keep_timing", lambda work, device, seconds, passes: kept.append(passes))
    options = RunOptions("steering", "all", strength=1, at_lpips=0.02, limit=1, category=1, steps=2)
    session = carry_out(*resolve(options), RunOptions(out="timed", quiet=True))
    assert session.written > 1
    assert kept == [2 * (2 + session.written)]


def test_the_time_of_weights_is_of_their_folder(tmp_path: Path) -> None:
    (part,) = (part for part in entry_named("sdxl-turbo").parts if part.name == "model")
    request, _ = resolve(RunOptions("none", "mid.0", strength=1, limit=1, category=1))
    works = set()
    for folder, size in (("tiny", 10), ("tiny", 20), ("large", 20)):
        for name in part.needs:
            file = tmp_path / folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"1" * size)
        settings = parse_settings({"model.location": str(tmp_path / folder)})
        works.add(timed_work(request.model_copy(update={"model": "sdxl-turbo", "settings": settings})))
    settings = parse_settings({"weights": str(tmp_path / "nowhere")})
    assert timed_work(request.model_copy(update={"model": "sdxl-turbo", "settings": settings})) == ""
    assert len(works - {""}) == 3


def test_a_working_folder_that_is_gone_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    assert command("methods") == 2
    assert "working folder was deleted" in capsys.readouterr().err
    os.chdir(tmp_path)


def test_an_entry_without_the_parts_of_its_instruments_is_refused() -> None:
    instruments = model_instruments(toy_family.PUBLISHED, parse_settings({}), PROTOCOLS["riebench"])
    for load, part in ((instruments.masker, "detector"), (instruments.clip, "clip"), (instruments.lpips, "lpips")):
        with pytest.raises(UserError, match=f"toy-published names no part '{part}'.*published"):
            load()


def test_another_code_of_a_family(run: Run, mini: Instruments) -> None:
    family = Path("edited_family.py")
    text = Path(toy_family.__file__).read_text()
    family.write_text(text)
    asked = {"model": "edited_family:toy", "scorers": None, "method": "steering", "block": "layer.2"}
    asked |= {"pairs": load_pairs(entry_named("mini").pairs or Path())[:2], "category": None, "limit": None}
    run(**asked)
    assert "model" in read_records(Path("r"))[0].made_by
    family.write_text(text.replace("picture = picture + (", "picture = picture + 2 * ("))
    with pytest.raises(UserError, match=r"edited_family\.py was edited"):
        run(**asked, strength=2)
    new_process()
    with pytest.raises(UserError, match="family"):
        run(**asked, strength=2)


@pytest.mark.parametrize(
    "change", [{"id": "../x"}, {"editing_type_id": 42}, {"original_prompt": "[]"}, {"seed": 2**70}]
)
def test_a_pair_that_no_file_could_hold_is_refused(run: Run, change: dict[str, Any]) -> None:
    pair = load_pairs(entry_named("mini").pairs or Path())[0].model_copy(update=change)
    with pytest.raises(UserError, match=f"pair .*{next(iter(change))}"):
        run("none", pairs=[pair], category=None)
    assert not Path("r").exists()


@pytest.mark.parametrize("note", ["'k': 'many'", "'k': float('inf')", "'acts': 1", "'x': 2**70"])
def test_a_note_that_tables_cannot_read_fails_its_record(run: Run, note: str) -> None:
    write_method()
    method = Path("edited_method.py")
    method.write_text(
        method.read_text().replace("for site in seen.sites}", f"for site in seen.sites}}, notes={{{note}}}")
    )
    run()
    (record,) = read_records(Path("r"))
    assert record.reason is not None
    assert f"'edited': notes {note.partition(':')[0]}" in record.reason
    assert len(riebench.load_records("r")) == 1


def test_an_option_beyond_what_a_record_holds_is_refused(run: Run) -> None:
    write_method()
    method = Path("edited_method.py")
    method.write_text(method.read_text().replace('table: str = ""', "table: int = 0"))
    with pytest.raises(UserError, match=r"'table' of method 'edited'.*64 bits"):
        run(options={"table": 2**70})


@pytest.mark.parametrize("harm", ["line", "shared part"])
def test_damaged_records_can_be_discarded(run: Run, harm: str) -> None:
    run("none", strength=[1, 2])
    shared, *lines = Path("r/records.jsonl").read_text().splitlines(keepends=True)
    damaged = [shared, "{}}\n", *lines] if harm == "line" else lines
    Path("r/records.jsonl").write_text("".join(damaged))
    with pytest.raises(UserError, match="--force"):
        run("none")
    assert len(run("none", force=True)) == 1


def test_no_installed_package_is_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    def walked(folder: Path, pattern: str) -> None:
        raise AssertionError(f"{folder} was walked for {pattern}")

    monkeypatch.setattr(Path, "rglob", walked)  # which takes a third of a second for each file that imports torch
    assert module_files("torch", Path()) == []
    assert module_files("numpy", Path()) == []
