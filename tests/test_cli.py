"""The command line as a user meets it."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import riebench
from riebench.cli import main
from riebench.cli.main import COMMANDS, program
from riebench.cli.messages import exit_code
from riebench.models.mini import PAIRS
from riebench.records import read_records


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(list(words))
    out = capsys.readouterr()
    return int(left.value.code or 0), out.out, out.err


BASE = ("run", "--method", "sae", "--block", "down.2.1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "--method", "sea", "--block", "mid.0"), "did you mean 'sae'"),
        (("run", "--method", "sae", "--block", "mid.1"), "did you mean 'mid.0'"),
        ((*BASE, "--category", "colur"), "did you mean 'change colour'"),
        ((*BASE, "--option", "only-ad=1"), "did you mean 'only_add'"),
        ((*BASE, "--option", "only_add"), "is no name=value"),
        ((*BASE, "--option", "spatial=perhaps"), "option 'spatial' of method 'sae' is 'perhaps'"),
        ((*BASE, "--model", "minni"), "did you mean 'mini'"),
        ((*BASE, "--k", "100000", "--limit", "1"), "k is 100000"),
        ((*BASE, "--k", "1.5"), "option 'k' of method 'sae' is '1.5'"),
        ((*BASE, "--strength", "1,much"), "strength is 'much'"),
        ((*BASE, "--strength", "nan"), "strength is 'nan'"),
        ((*BASE, "--out", "/proc/nowhere"), "cannot be written"),
        ((*BASE, "--pairs", "no.json"), "there is no pair file"),
        ((*BASE, "--steps", "0"), "steps is 0"),
        ((*BASE, "--limmit", "1"), "--limit"),
        (("run", "--method", "sae"), "--block"),
        ((*BASE, "--limit", "0"), "--limit"),
        (("rum",), "rum"),
        (("run", "--method", "sae", "--block", "down.1.0"), "unknown SAE 'down.1.0'"),
        (("mini", "draw", "a red dog"), "'dog'"),
        (("mini", "check", "--part", "masks"), "did you mean 'masker'"),
        (("pairs", "show", "mini-1-000"), "did you mean 'mini-1-00'? known: mini-1-00, mini-1-01,"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    code, _, err = run(capsys, *words)
    assert code == 2
    lines = [line for line in err.splitlines() if line.startswith("riebench:")]
    assert len(lines) == 1
    assert said in lines[0]
    assert "Traceback" not in err


def test_run_writes_what_it_says(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "r"
    words = ("--limit", "1", "--category", "6", "--category", "change style", "--strength", "0.5,1", "--out", str(out))
    code, text, _ = run(capsys, *BASE, *words)
    assert code == 0
    assert "edit_success" in text
    assert "lpips-mini_base" in text
    for name in ("records.jsonl", "run.json", "table.md", "curve.png", "curve.svg"):
        assert (out / name).stat().st_size > 0
    names = {p.name for p in (out / "sheets").glob("*.png")}
    assert names == {"sae-down.2.1.png", "sae-down.2.1-6.png", "sae-down.2.1-9.png"}
    records = [json.loads(record.model_dump_json()) for record in read_records(out)]
    assert len(records) == 4
    assert records[0]["notes"]["k"] >= 1
    code, text, _ = run(capsys, "table", str(out), "--overall", "--strength", "1", "--markdown")
    assert code == 0
    assert [line.split(" | ")[0] for line in text.splitlines()] == ["| category", "| ---", "| all"]
    assert "no row has the strength 3" in run(capsys, "table", str(out), "--strength", "3")[2]
    code, _, err = run(capsys, *BASE, *words)
    assert code == 0
    assert "4 records are in" in err
    assert "0 are left to make" in err


def test_quiet_and_verbose(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = (*BASE, "--strength", "1", "--limit", "1", "--category", "6", "--out", str(tmp_path / "r"))
    assert run(capsys, *words, "--quiet")[2] == ""
    assert run(capsys, *words, "-q")[2] == ""
    assert "0 are left to make" in run(capsys, *words)[2]
    assert "0 are left to make" in run(capsys, *words, "--verbose")[2]
    assert run(capsys, "run", "--method", "sea", "--block", "mid.0", "-q")[2].startswith("riebench: ")
    assert not logging.getLogger("riebench").handlers  # only while the program runs


def test_a_trace_times_each_stage(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ("--strength", "1", "--limit", "1", "--category", "6", "--out", str(tmp_path / "r"), "--trace")
    code, _, err = run(capsys, *BASE, *words)
    assert code == 0
    rows = [line.rsplit(maxsplit=4)[:2] for line in err.splitlines() if line.endswith(" GB")]
    stages = ("load models", "base and source run, masks", "plan", "edited runs", "metrics")
    assert rows == [[stage, "1"] for stage in stages]


def test_a_trace_shows_when_quiet_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ("--strength", "1", "--limit", "1", "--category", "6", "--out", str(tmp_path / "r"), "--trace", "-q")
    code, _, err = run(capsys, *BASE, *words)
    assert code == 0
    assert "edited runs" in err


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("run", "--method", "none", "--block", "mid.0", "--dry-run", "--out", ""), "--out"),
        (("run", "--method", "none", "--block", "mid.0", "--dry-run", "--out="), "--out"),
        (("run", "--method", "none", "--block", "mid.0", "--dry-run", "--pairs", ""), "--pairs"),
        (("report", "r", "--out", ""), "--out"),
        (("table", ""), "an argument is empty"),
    ],
)
def test_empty_paths_are_refused(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], name: str) -> None:
    code, _, err = run(capsys, *words)
    assert (code, err.count("\n")) == (2, 1)
    assert name in err


def test_misspelt_variables_are_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIEBENCH_RUN_CATGORY", "colour")
    monkeypatch.setenv("RIEBENCH_RUN_LIMIT", "1")
    monkeypatch.setenv("RIEBENCH_WEIGHTS", "w")
    code, _, err = run(capsys, "run", "--method", "none", "--block", "mid.0", "--dry-run")
    assert (code, err.count("\n")) == (0, 1)
    assert "RIEBENCH_RUN_CATGORY is not read; did you mean RIEBENCH_RUN_CATEGORY?" in err


@pytest.mark.parametrize(
    ("value", "pairs"), [("change colour", 1), ("change color pose", 2), ("6 change pose Add Object", 3), ("colour", 1)]
)
def test_categories_of_two_words_in_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, value: str, pairs: int
) -> None:
    monkeypatch.setenv("RIEBENCH_RUN_CATEGORY", value)
    code, out, err = run(capsys, "run", "--method", "none", "--block", "mid.0", "--limit", "1", "--dry-run")
    assert code == 0, err
    assert f"pairs     {pairs}\n" in out


def test_an_option_of_several_values_may_be_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--method", "sae", "--block", "mid.0", "--id", "mini-1-00", "--dry-run"]
    words += ["--strength", "1", "--strength", "2,3", "--k", "5", "--k", "6", "--metrics", "default"]
    code, out, err = run(capsys, *words, "--metrics", "psnr_outside")
    assert code == 0, err
    assert "1, 2, 3" in out
    assert "settings  6; 6 records" in out


def test_weights_are_not_for_mini(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = run(capsys, *BASE, "--weights", str(tmp_path), "--dry-run")
    assert code == 2
    assert "weights is not for mini" in err


def test_failures_show_and_make_exit_code_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pairs = json.loads(PAIRS.read_text())[:2]
    pairs[0]["original_gsam_prompt"] = "elephant"
    (tmp_path / "p.json").write_text(json.dumps(pairs))
    code, text, _ = run(
        capsys, *BASE, "--pairs", str(tmp_path / "p.json"), "--strength", "1", "--out", str(tmp_path / "r")
    )
    assert code == 1
    assert "finds no 'elephant'" in text


def test_bare_commands_show_their_help(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ((), ("mini",), ("pairs",)):
        code, out, err = run(capsys, *words)
        assert code == 2
        assert "Usage" in out + err


def test_commands_stand_below_headings(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "--help")[1]
    assert "Commands:" not in out
    for heading, commands in COMMANDS.items():
        section = out.partition(f"{heading}:\n")[2].partition("\n\n")[0]
        assert {line.split()[0] for line in section.splitlines()} == set(commands)


def test_the_help_is_that_of_the_commands_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"], ["-h"]):
        out = run(capsys, *words)[1]
        exit_code(program, None, words)
        assert capsys.readouterr().out == out


def test_options_come_from_the_environment(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIEBENCH_RUN_MODEL", "minni")
    code, _, err = run(capsys, *BASE)
    assert code == 2
    assert "did you mean 'mini'" in err
    monkeypatch.delenv("RIEBENCH_RUN_MODEL")
    for name, words, wrong in (
        ("ID", "mini-1-000", "mini-1-00"),
        ("SET", "masker.blur=3", "masker.blur_kernel"),
        ("OPTION", "only_ad=1", "only_add"),
        ("CATEGORY", "colour styl", "change style"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(f"RIEBENCH_RUN_{name}", words)
            assert wrong in run(capsys, *BASE)[2], name


def test_listings(capsys: pytest.CaptureFixture[str]) -> None:
    assert "sae-adaptive" in run(capsys, "methods")[1]
    blocks = run(capsys, "blocks")[1]
    assert "down.2.1 *" in blocks
    assert "8 x 8" in blocks
    assert "change pose" in run(capsys, "pairs", "list")[1]


def test_mini_draws_and_generates(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    drawn = tmp_path / "d.png"
    assert run(capsys, "mini", "draw", "a blue star", "--out", str(drawn))[0] == 0
    assert drawn.stat().st_size > 0
    code, text, _ = run(
        capsys, "mini", "generate", "a blue star at night", "--seed", "3", "--out", str(tmp_path / "g.png")
    )
    assert code == 0
    assert "shape      star" in text


@pytest.mark.parametrize(("set_before", "in_force"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_leave_the_processor_to_others(set_before: str | None, in_force: str) -> None:
    """The policy is set before torch is imported; a user's own stays."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {} if set_before is None else {"OMP_WAIT_POLICY": set_before}
    program = "import sys, riebench, os; print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'])"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", in_force]


def test_the_version(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(capsys, "--version") == (0, f"riebench {riebench.__version__}\n", "")
    monkeypatch.setenv("RIEBENCH_VERSION", "1")  # as an image for containers may set it
    assert "mini-1-00" in run(capsys, "pairs", "show", "mini-1-00")[1]


def test_what_is_cited_is_this_version() -> None:
    root = Path(__file__).parents[1]
    cited = yaml.safe_load((root / "CITATION.cff").read_text())
    assert (cited["title"], str(cited["version"])) == ("riebench", riebench.__version__)
    entry = re.search(r"@software\{riebench, .*version = \{(.*?)\}\}", (root / "README.md").read_text())
    assert entry is not None
    assert entry[1] == riebench.__version__
    assert entry[0].count("{") == entry[0].count("}")


@pytest.mark.parametrize(
    ("words", "needless"),
    [
        ("--version", {"pydantic", "numpy", "rich", "riebench.engine.run_options"}),
        ("--help", {"numpy", "pydantic", "rich", "riebench.engine.run_options"}),
        ("run --method nonsense --block all", {"numpy", "PIL", "rich", "riebench.cli.paint_command"}),
        ("run --method sae --block mid.0 --limit 1 --dry-run", {"numpy", "PIL", "pandas", "torch"}),
    ],
)
def test_answers_without_models_import_little(words: str, needless: set[str]) -> None:
    code = (
        "import atexit, sys; from riebench.cli import main\n"
        f"atexit.register(lambda: print('needless', sorted({needless!r} & set(sys.modules))))\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code, *words.split()], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("needless []\n"), done.stdout + done.stderr


def test_the_shell_completes_commands(tmp_path: Path) -> None:
    program = tmp_path / "riebench"
    program.write_text("from riebench.cli import main\nmain()\n")
    words = {"_RIEBENCH_COMPLETE": "complete_bash", "COMP_WORDS": "riebench re", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, program], env=os.environ | words, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["rerun", "report", "results"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError(30, "Read-only", "curve.png")])
def test_a_full_disk_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def full(*words: object) -> None:
        raise error

    monkeypatch.setattr("riebench.records.folder.records_file", full)
    code, _, err = run(capsys, "table", "runs/none")
    assert (code, err.count("\n")) == (2, 1)
    assert str(error.strerror) in err
    assert str(error.filename or "") in err


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "words",
    [
        "sae score up.0.0 --area-strength=",
        "sae train values --out saes --lr=",
        "sae train values --out saes --decay=",
        "audit --out a --budget=",
        "table runs/r --strength=",
        "report runs/r --out page --rank-at=",
        "run --method steering --block mid.0 --at-lpips 0.1 --at-lpips-most=",
    ],
)
def test_a_number_that_is_not_finite_is_refused(words: str, number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main((words + number).split())
    assert left.value.code == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert words.rsplit(maxsplit=1)[-1].removesuffix("=") in shown.err
    assert number in shown.err
