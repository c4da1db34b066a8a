"""The benchmark from Python, with loaded parts handed in."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline

import riebench
import riebench.engine.python_run  # before its carry_out is replaced
from riebench.cli import main
from riebench.engine.request import Request
from riebench.engine.run_options import FIELDS, OPTIONS, RunOptions
from riebench.instruments.loading import Instruments
from riebench.methods import method_names
from riebench.models.mini import PAIRS
from riebench.models.sdxl import FOUR
from riebench.pairs import Pair, load_pairs, select
from riebench.records import Record, read_records
from riebench.sae.linear import JumpReLU, LinearSAE
from riebench.sae.store import save_sae
from riebench.sae.topk import TopKSAE
from riebench.util.errors import UserError

PAIR = Pair(
    id="mine",
    editing_type_id=1,
    original_prompt="a [b] c",
    editing_prompt="a [d] c",
    original_gsam_prompt="b",
    editing_gsam_prompt="d",
)


def left(size: int) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[:, : size // 2] = True
    return mask


def test_all_that_the_command_does(tmp_path: Path) -> None:
    result = riebench.run(
        "steering", "all", strength=[1, 2], category=["colour"], limit=1, out=tmp_path / "o", quiet=True
    )
    assert [r.setting.strength for r in result.records] == [1, 2]
    assert all(r.status == "ok" for r in result.records)
    assert (result.session.folder / "run.json").exists()


class Strange:
    """An object that is an SAE by its functions alone."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, -x], 1).relu()

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z[:, :24] - z[:, 24:]


def test_a_pipeline_of_ones_own(
    mini: Instruments, random_pipeline: StableDiffusionXLPipeline, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    far = TopKSAE(24, 48, 4).requires_grad_(False)
    far.pre_bias.fill_(100)
    jumprelu = LinearSAE(24, 48, JumpReLU(torch.full((48,), 0.1)))
    save_sae(jumprelu, tmp_path / "jumprelu", {})
    half = TopKSAE(24, 48, 4).requires_grad_(False).bfloat16()
    saes = dict(zip(FOUR, (Strange(), half, str(tmp_path / "jumprelu"), far), strict=True))
    result = riebench.run(
        ["sae", "neurons"],
        model=riebench.load("sdxl-turbo", pipeline=random_pipeline, saes=saes),
        pairs=[PAIR],
        strength=1,
        k=5,
        steps=2,
        masks={"mine": (left(32), ~left(32))},
        scorers=mini.scorers,
        out=tmp_path / "o",
        quiet=True,
    )
    sae, neurons = result.records
    assert (sae.status, neurons.status) == ("ok", "ok"), (sae.reason, neurons.reason)
    assert sae.model == "sdxl-turbo"
    assert sae.parts["model"].startswith("given-")
    assert sae.parts["sae"] not in ("none", mini.parts["sae"])
    assert sae.notes["k"] == 5
    assert [sae.notes[f"sae {block}"] for block in FOUR] == ["Strange", "topk", "jumprelu", "topk"]
    assert sae.notes[f"explained {FOUR[0]}"] == 1
    assert float(sae.notes[f"explained {FOUR[3]}"] or 0) < -10
    assert "k" not in neurons.notes or not any(name.startswith("sae ") for name in neurons.notes)
    (warning,) = [
        r.getMessage() for r in caplog.records if "of the variance" in r.getMessage() and FOUR[3] in r.getMessage()
    ]
    assert (
        f"operation (it is given updates, a block's output minus its input; one of outputs belongs to {FOUR[3]}/output)"
        in warning
    )
    assert "edit_success" not in sae.metrics


def test_masks_from_a_function(mini: Instruments, tmp_path: Path) -> None:
    seen = []

    def halves(pair: Pair, base: np.ndarray, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.append((pair.id, base.shape))
        return left(128), left(128)[None]

    pairs = select(load_pairs(PAIRS), categories=[6], limit=1)
    result = riebench.run("steering", "mid.0", pairs=pairs, strength=1, masks=halves, out=tmp_path / "o", quiet=True)
    assert seen == [(pairs[0].id, (128, 128, 3))]
    assert result.records[0].status == "ok"
    assert result.records[0].parts["masker"].endswith("halves")


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ({}, "no masks were given"),
        ({"x": 1}, "no masks were given"),
        ({"PAIR": (left(128), left(64))}, r"the shape \[64, 64\], expected bool and \[128, 128\]"),
        ({"PAIR": (left(128), left(128).astype(int))}, "the type int64"),
        ({"PAIR": (left(128), np.zeros((128, 128), bool))}, "a mask is empty"),
    ],
)
def test_masks_that_do_not_fit(mini: Instruments, tmp_path: Path, masks: dict[str, Any], said: str) -> None:
    pairs = select(load_pairs(PAIRS), categories=[6], limit=1)
    masks = {pairs[0].id if name == "PAIR" else name: value for name, value in masks.items()}
    if "x" in masks:
        masks["x"] = (left(128), left(128))
    result = riebench.run("steering", "mid.0", pairs=pairs, strength=1, masks=masks, out=tmp_path / "o", quiet=True)
    (record,) = result.records
    assert record.status == "failed"
    assert record.where == "masks"
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(record.reason)


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit code of the command line and what it says on stderr."""
    with pytest.raises(SystemExit) as left:
        main(list(words))
    return int(left.value.code or 0), capsys.readouterr().err


def numbers(records: list[Record]) -> list[dict[str, Any]]:
    return [record.model_dump(exclude={"seconds"}) for record in records]


def test_the_same_records_as_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    few: dict[str, Any] = {"options": {"count": 4}}  # contrasts of the methods that learn from some
    result = riebench.run("all", limit=1, category="colour", strength=1, out="python", quiet=True, **few)
    words = ("--limit", "1", "--category", "colour", "--strength", "1", "--out", "command", "--option", "count=4")
    assert command(capsys, "run", "--method", "all", "--block", "all", *words)[0] == 0
    assert numbers(result.records) == numbers(read_records(Path("command")))
    assert {record.setting.method for record in result.records} == set(method_names()) - {"sdedit"}
    asked = [json.loads(Path(out, "run.json").read_text())["sessions"][0]["request"] for out in ("python", "command")]
    assert asked[0] == asked[1]


WORDS = {
    "method": "--method",
    "block": "--block",
    "options": "--option",
    "settings": "--set",
    "keep_images": "--keep-images",
    "on_steps": "--on-steps",
}
BASE: dict[str, Any] = {"method": "sae", "block": "mid.0"}


def words_of(call: dict[str, Any]) -> list[str]:
    """The words of the command for a call of :func:`riebench.run`."""
    found = []
    for name, value in call.items():
        if value is True or value is None:
            found += [f"--{name}"] if value else []
            continue
        many = [value] if not isinstance(value, list | dict) else list(value)
        if isinstance(value, dict):
            many = [f"{key}={one}" for key, one in value.items() if one is not None]
        elif name in ("k", "strength", "on_steps"):
            many = [",".join(map(str, many))]
        for one in many:
            found += [WORDS.get(name, f"--{name}"), str(one)]
    return found


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """What is asked for instead of being carried out."""
    asked: list[Request] = []

    def carry_out(request: Request, pairs: list[Pair], *given: Any, **more: Any) -> None:
        assert [pair.id for pair in pairs] == list(request.pair_ids)
        asked.append(request)
        raise UserError("asked")

    for module in ("run", "python_run"):  # the command line imports it when the command runs
        monkeypatch.setattr(f"riebench.engine.{module}.carry_out", carry_out)
    return asked


@pytest.mark.parametrize(
    "call",
    [
        BASE,
        {"method": ["sae", "neurons", "none"], "block": "all", "alone": True, "k": [5, 6], "strength": [0, 1]},
        {"method": "all", "block": ["up.0.1", "mid.0"], "strength": 0.5, "steps": 4, "seed": 3, "batch": 2},
        BASE | {"options": {"k": 4, "only_add": True}, "limit": 1, "category": ["colour", 8], "keep_images": 0},
        BASE | {"settings": {"masker.blur_kernel": 31, "dtype": "bfloat16", "device": "cpu"}, "protocol": "paper"},
        BASE | {"settings": {"model.guidance": None, "masker.blur_kernel": None}},
        BASE | {"alone": True, "steps": 4, "on_steps": [0, "1-3", "all"]},
        BASE | {"steps": 4, "on_steps": "2,0-3"},
        {"preset": "paper", "limit": 2},
        {"preset": "paper-small", "on_steps": "0-1"},
        {"preset": "paper-small", "steps": 2, "protocol": "riebench", "block": "mid.0"},
        {"model": "sdxl-turbo", "preset": "paper", "pairs": str(PAIRS), "settings": {"model.guidance": 2}},
    ],
)
def test_the_same_request_as_the_command(
    requests: list[Request], capsys: pytest.CaptureFixture[str], call: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match="asked"):
        riebench.run(**call)
    assert command(capsys, "run", *words_of(call)) == (2, "riebench: asked\n")
    assert requests[0] == requests[1]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        *(
            ({"preset": "paper", name: value}, f"leave out {name} or preset")
            for name, value in {"method": "sae", "k": 0, "strength": 0, "options": {"only_add": True}}.items()
        ),
        ({"preset": "papers"}, "unknown preset 'papers'"),
        (BASE | {"k": 5, "options": {"k": 4}}, "k is given twice, as k "),
        (BASE | {"k": 0, "options": {"k": 4}}, "k is given twice, as k "),
        (BASE | {"k": 385}, "k is 385, but 'sae' in mid.0 has 384 to choose from"),
        ({"method": "neurons", "block": "mid.0", "k": 769}, "k is 769, but 'neurons' in mid.0 has 768"),
        (BASE | {"options": {"k": 385}}, "k is 385, but 'sae'"),
        (BASE | {"k": 0}, "option 'k' of method 'sae' is "),
        (BASE | {"k": "x"}, "option 'k' of method 'sae' is 'x'"),
        (BASE | {"k": 1.5}, "option 'k' of method 'sae' is "),
        ({"method": "none", "block": "mid.0", "k": 5}, "unknown option 'k' of 'none'"),
        (BASE | {"steps": 0}, "steps is 0"),
        (BASE | {"steps": 100_000}, "steps is 100000; expected 1 to 1000"),
        (BASE | {"strength": "x"}, "strength is 'x'"),
        (BASE | {"on_steps": 1}, "on_steps is '1', but the run's last step is 0, counted from 0"),
        (BASE | {"steps": 4, "on_steps": ["0", "2-4"]}, "on_steps is '2-4', but the run's last step is 3"),
        *(
            (BASE | {"steps": 4, "on_steps": word}, f"on_steps is {word!r}; expected a step as 0, an interval as 1-3")
            for word in ("3-1", "1-", "one", "0-1-2", "1.5", "")
        ),
        (BASE | {"protocol": "papers"}, "unknown protocol 'papers'; did you mean 'paper'?"),
        (BASE | {"category": "colur"}, "did you mean 'change colour'?"),
        (BASE | {"category": 10}, "unknown category '10'"),
        (BASE | {"settings": {"model.guidance": 3}}, "the setting model.guidance is not for mini"),
        (BASE | {"settings": {"guidanc": 3}}, "unknown setting 'guidanc'"),
    ],
)
def test_the_same_refusals_as_the_command(
    requests: list[Request], capsys: pytest.CaptureFixture[str], call: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError) as refused:
        riebench.run(**call)
    code, line = command(capsys, "run", *words_of(call))
    assert (code, line.count("\n")) == (2, 1)
    for text in (str(refused.value), line):
        assert said in text
    assert requests == []


def test_bad_calls(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no method was named"):
        riebench.run()
    with pytest.raises(UserError, match="no pairs of its own"):
        riebench.run("none", model="sdxl-base")
    with pytest.raises(UserError, match="parts are missing"):
        riebench.run("none", model="sdxl-base", pairs=[PAIR], settings={"weights": str(tmp_path)}, out=tmp_path / "o")


def test_an_unknown_option_has_a_near_one() -> None:
    with pytest.raises(UserError, match=r"unknown option 'catgory' of riebench.run; did you mean 'category'\?"):
        riebench.run("sae", catgory="colour")


@pytest.mark.parametrize(("name", "value"), [("limit", 0), ("seed", -1), ("seed", 2**63), ("batch", 0), ("workers", 0)])
def test_bounds_hold_in_python_and_on_the_command_line(
    capsys: pytest.CaptureFixture[str], name: str, value: int
) -> None:
    with pytest.raises(UserError, match=f"^{name} is {value}; expected "):
        riebench.run("sae", **{name: value})
    code, line = command(capsys, "run", "--method", "sae", "--block", "mid.0", f"--{name}", str(value))
    assert code == 2
    assert f"--{name}" in line


def test_options_stand_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Each field of the options is in the signature and the documentation, and each of the command's in its help."""
    parameters = inspect.signature(riebench.run).parameters
    assert list(parameters) == list(OPTIONS)
    assert {name: parameter.default for name, parameter in parameters.items()} == {
        name: "all" if name == "block" else field.default for name, field in FIELDS.items()
    }
    assert str(parameters["limit"].annotation) == "int | None"
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    words = capsys.readouterr().out.split()
    for name, option in OPTIONS.items():
        assert f"    {name}: {option.help}" in str(riebench.run.__doc__)
        assert (f"--{(option.flag or name).replace('_', '-')}" in words) == (
            not option.python_only or name == "quiet"
        ), name


def test_run_json_keeps_the_options(tmp_path: Path) -> None:
    pairs = select(load_pairs(PAIRS), categories=[6], limit=1)
    riebench.run("none", "mid.0", pairs=pairs, strength=1, options={}, out=tmp_path / "o", quiet=True)
    session = json.loads((tmp_path / "o" / "run.json").read_text())["sessions"][0]
    assert session["options"] == {
        "method": "none",
        "block": "mid.0",
        "pairs": [pairs[0].id],
        "strength": 1,
        "options": {},
        "out": str(tmp_path / "o"),
        "quiet": True,
    }


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("force", "no", "True or False"),
        ("alone", 1, "True or False"),
        ("limit", "2", "a whole number"),
        ("limit", 1.5, "a whole number"),
        ("limit", True, "a whole number"),
        ("steps", "4", "a whole number"),
        ("workers", "2", "a whole number"),
        ("at_lpips_within", "x", "a number"),
        ("preset", 3, "text"),
    ],
)
def test_options_of_another_type_are_refused_by_name(name: str, value: object, expected: str) -> None:
    with pytest.raises(UserError, match=name) as refused:
        RunOptions("steering", "mid.0", **{name: value})  # type: ignore[arg-type]
    assert expected in str(refused.value)
    assert RunOptions("steering", "mid.0", limit=np.int64(2), force=True).as_json()["limit"] == 2  # type: ignore[arg-type]
