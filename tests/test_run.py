"""The whole run on mini."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from riebench.engine.edited_runs import EditedRuns
from riebench.engine.pair_task import PairResult
from riebench.engine.pair_worker import PairWorker
from riebench.engine.request import Request, resolve
from riebench.engine.run_options import RunOptions
from riebench.instruments.loading import Instruments, load_instruments
from riebench.methods.registry import METHODS
from riebench.models.mini import PAIRS
from riebench.models.sdxl import FOUR
from riebench.models.sites import Edit
from riebench.pairs import Pair, load_pairs, select
from riebench.records import Record
from riebench.util.errors import UserError

EVERY = ["none", "prompt", "random", "steering", "sae", "sae-adaptive", "neurons"]


@pytest.fixture(autouse=True, scope="module")
def _mini_once(mini: Instruments) -> Iterator[None]:
    """Every worker takes the mini that is loaded already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("riebench.engine.pair_worker.load_instruments", lambda *_, **__: mini)
        yield


def request_of(
    methods: list[str], strengths: list[float], blocks: tuple[str, ...] = FOUR, steps: int = 1, **more: Any
) -> Request:
    return resolve(RunOptions(methods, blocks, strength=strengths, steps=steps, limit=1, **more))[0]


def worker(methods: list[str], strengths: list[float], blocks: tuple[str, ...] = FOUR, **more: Any) -> PairWorker:
    return PairWorker(request_of(methods, strengths, blocks, **more))


def work(worker: PairWorker, pair: Pair, keep_images: bool = False) -> PairResult:
    """Every setting of a pair."""
    return worker.work(worker.recorder.task(pair)._replace(keep_images=keep_images))


def records(methods: list[str], strengths: list[float], pair: Pair, **more: Any) -> list[Record]:
    return work(worker(methods, strengths, **more), pair).records


def by_method(result: PairResult, name: str) -> list[dict[str, Any]]:
    return [r.metrics for r in result.records if r.setting.method == name]


@pytest.fixture(scope="module")
def results() -> list[PairResult]:
    every = worker(EVERY, [0.0, 1.0])
    return [work(every, pair, keep_images=True) for pair in select(load_pairs(PAIRS), limit=1)]


def test_every_setting_has_its_record(results: list[PairResult]) -> None:
    for result in results:
        assert [r.status for r in result.records] == ["ok"] * 2 * len(EVERY), [r.reason for r in result.records]
        assert len({r.key for r in result.records}) == len(result.records)


def test_nothing_costs_nothing_and_the_prompt_is_the_source(results: list[PairResult]) -> None:
    for result in results:
        assert all(m["lpips_base"] == 0 for m in by_method(result, "none"))
        assert all(m["lpips_source"] == 0 and m["edit_success"] == 1 for m in by_method(result, "prompt"))
        assert all(m["edit_success"] == 0 and m["kept"] == 1 for m in by_method(result, "none"))


def test_strength_zero_changes_nothing(results: list[PairResult]) -> None:
    for result in results:
        for record in result.records:
            if record.setting.strength == 0 and record.setting.method != "prompt":
                assert np.array_equal(result.images[record.key], result.images["base"]), record.setting.method


def test_strength_zero_goes_through_the_model_unchanged(mini: Instruments) -> None:
    pair = load_pairs(PAIRS)[0]
    sites = mini.model.sites
    delta = {b: torch.ones(1, sites[b].positions, sites[b].width) for b in FOUR}
    (base,) = mini.model.generate([pair.base_prompt], [7], 1)
    (same,) = mini.model.generate([pair.base_prompt], [7], 1, edits=[Edit(delta, 0.0)])
    (other,) = mini.model.generate([pair.base_prompt], [7], 1, edits=[Edit(delta, 1.0)])
    assert np.array_equal(base.image, same.image)
    assert not np.array_equal(base.image, other.image)


def test_steering_edits_and_chance_does_not(results: list[PairResult]) -> None:
    success = {n: np.mean([by_method(r, n)[1]["edit_success"] for r in results]) for n in ("steering", "random")}
    assert success["steering"] >= success["random"] + 0.3


@pytest.mark.parametrize("batch", [1, 3])
def test_same_records_for_any_batch(mini: Instruments, batch: int) -> None:
    pairs = select(load_pairs(PAIRS), categories=[1, 6], limit=2)
    wanted = worker(["sae", "steering"], [0.5, 1.0, 2.0])
    assert mini.model.batch == 8
    expected = [work(wanted, p).records for p in pairs]
    mini.model.batch = batch
    found = [work(wanted, p).records for p in pairs]
    for one, other in zip(chain(*expected), chain(*found), strict=True):
        assert one.key == other.key
        assert one.metrics == pytest.approx(other.metrics, abs=2e-3)


def test_same_records_again() -> None:
    pair = load_pairs(PAIRS)[0]
    first, second = (records(["sae", "random"], [1.0], pair) for _ in range(2))
    assert [r.metrics for r in first] == [r.metrics for r in second]


STRANGERS = """
import torch
from riebench.methods import Plan, method

@method("spoils")
class Spoils:
    def plan(self, seen):
        return Plan({"mid.0": torch.full_like(seen.base["mid.0"], torch.nan)})

@method("raises")
class Raises:
    def plan(self, seen):
        raise KeyError("mine")

@method("elsewhere")
class Elsewhere:
    def plan(self, seen):
        return Plan({"down.1.0": seen.base["mid.0"]})

@method("longer")
class Longer:
    def plan(self, seen):
        return Plan({"mid.0": seen.base["mid.0"].repeat(2, 1, 1)})

@method("other-device")
class OtherDevice:
    def plan(self, seen):
        return Plan({"mid.0": seen.base["mid.0"].to("meta")})

@method("number")
class Number:
    def plan(self, seen):
        return Plan({"mid.0": 3.0})

@method("later")
class Later:
    def plan(self, seen):
        return Plan({"mid.0": lambda passing, step: passing[:3]})

@method("later-nan")
class LaterNaN:
    def plan(self, seen):
        return Plan({"mid.0/neurons.0": lambda passing, step: passing * torch.nan})

@method("later-device")
class LaterDevice:
    def plan(self, seen):
        return Plan({"mid.0": lambda passing, step: passing.to("meta")})

@method("talks")
class Talks:
    def plan(self, seen):
        return Plan(prompt="a red heart " * 40)

@method("noted")
class Noted:
    def plan(self, seen):
        return Plan(notes={"x": torch.zeros(1)})

@method("unnamed")
class Unnamed:
    def plan(self, seen):
        return Plan(notes={1: 2})

@method("half-letter")
class HalfLetter:
    def plan(self, seen):
        return Plan(notes={"x": "\\udcff"})

@method("misplaced")
class Misplaced:
    def plan(self, seen):
        return Plan({("mid.0", None): seen.base["mid.0"]})

@method("listed")
class Listed:
    def plan(self, seen):
        return Plan([("mid.0", seen.base["mid.0"])])

@method("wordless")
class Wordless:
    def plan(self, seen):
        return Plan(prompt=5)

@method("complex")
class Complex:
    def plan(self, seen):
        return Plan({"mid.0": seen.base["mid.0"] * 1j})

@method("sparse")
class Sparse:
    def plan(self, seen):
        return Plan({"mid.0": seen.base["mid.0"].to_sparse()})

@method("quits")
class Quits:
    def plan(self, seen):
        raise SystemExit(0)

@method("garbled")
class Garbled:
    def plan(self, seen):
        raise ValueError("\\udcff" + "x" * 1000)

def quit(passing, step):
    raise SystemExit(0)

@method("later-quits")
class LaterQuits:
    def plan(self, seen):
        return Plan({"mid.0": quit})

@method("later-raises")
class LaterRaises:
    def plan(self, seen):
        return Plan({"mid.0": lambda passing, step: {}["mine"]})

"""

MEDDLERS = """
from riebench.methods import Plan, method

class Meddles:
    def plan(self, seen):
        self.change(seen)
        return Plan({"mid.0": seen.base["mid.0"]})

@method("zeroes")
class Zeroes(Meddles):
    def change(self, seen):
        seen.source["mid.0"].zero_()

@method("unmasks")
class Unmasks(Meddles):
    def change(self, seen):
        seen.base_masks["mid.0"].fill_(False)

@method("recodes")
class Recodes(Meddles):
    def change(self, seen):
        seen.codes("source", "mid.0").mul_(2)

@method("rescales", needs_sae=True)
class Rescales(Meddles):
    def change(self, seen):
        seen.saes["mid.0"].decoder.weight.mul_(2)

@method("takes")
class Takes(Meddles):
    def change(self, seen):
        seen.source.clear()
        raise ValueError("in the middle")
"""


def test_faults_are_records_and_spare_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "registered", dict(METHODS.registered))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "strangers.py").write_text(STRANGERS)
    strangers = {
        "Spoils": "the method 'spoils': the change at mid.0 is not finite",
        "Raises": "the method 'raises' raised KeyError: 'mine'",
        "Elsewhere": "'elsewhere': changes 'down.1.0'; its sites are down.2.1, mid.0, up.0.0, up.0.1",
        "Longer": "'longer': the change at mid.0 is of the shape [2, 64, 96], expected [1, 64, 96]",
        "OtherDevice": "'other-device': the change at mid.0 is on meta, expected one on cpu",
        "Number": "'number': the change at mid.0 is a float, expected a tensor",
        "Later": "'later': the change at mid.0 is of the shape [3, 96], expected [64, 96]",
        "LaterNaN": "'later-nan': the change at mid.0/neurons.0 is not finite",
        "LaterDevice": "'later-device': the change at mid.0 is on meta, expected one on cpu",
        "Talks": "122 tokens, the text encoder takes 24",
        "Noted": "notes 'x' as Tensor",
        "Unnamed": "'unnamed': notes 1 as int, expected a name",
        "HalfLetter": "expected text in Unicode",
        "Misplaced": "'misplaced': changes ('mid.0', None); its sites are",
        "Listed": "'listed': returned a Plan whose changes are list",
        "Wordless": "'wordless': returned a Plan whose prompt is int",
        "Complex": "'complex': the change at mid.0 is a tensor of torch.complex64, expected dense real numbers",
        "Sparse": "'sparse': the change at mid.0 is a tensor of torch.sparse_coo",
        "Quits": "the method 'quits' raised SystemExit: 0",
        "LaterQuits": "the method 'later-quits' raised SystemExit: 0",
        "LaterRaises": "'later-raises': its change, or the model around it, raised KeyError: 'mine'",
        "Garbled": "\\udcffxxx",
    }
    pair = load_pairs(PAIRS)[0]
    every = ["steering", *(f"strangers:{name}" for name in strangers)]
    good, *bad = records(every, [1.0], pair)
    assert good.status == "ok"
    for record, said in zip(bad, strangers.values(), strict=True):
        assert record.status == "failed"
        assert said in str(record.reason)
        assert len(str(record.reason)) < 600
        assert record.model_validate_json(record.model_dump_json()) == record
        assert record.where == ("text" if record.setting.method == "talks" else "method")
    (huge,) = records(["steering"], [1e39], pair)
    assert huge.status == "failed"
    assert "'steering'" in str(huge.reason)
    lost = pair.model_copy(update={"original_gsam_prompt": "elephant"})
    (failed,) = records(["steering"], [1.0], lost)
    assert failed.status == "failed"
    assert failed.where == "masks"
    assert "finds no 'elephant'" in str(failed.reason)


@pytest.mark.parametrize("name", ["Zeroes", "Unmasks", "Recodes", "Rescales"])
def test_a_method_that_changes_shared_tensors_fails_its_pair_by_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other methods of the pair may have seen the changes; the next run is as if nothing had happened."""
    monkeypatch.setattr(METHODS, "registered", dict(METHODS.registered))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "meddlers.py").write_text(MEDDLERS)
    pair = load_pairs(PAIRS)[0]
    alone = records(["sae", "steering"], [1.0], pair)
    failed = records(["sae", f"meddlers:{name}", "steering"], [1.0, 2.0], pair)
    assert len(failed) == 6
    for record in failed:
        assert (record.status, record.where) == ("failed", "method")
        assert f"the method {name.lower()!r} changes the values, masks, pictures or SAEs" in str(record.reason)
    again = records(["sae", "steering"], [1.0], pair)
    assert [record.metrics for record in again] == [record.metrics for record in alone]


def test_a_method_cannot_take_values_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "registered", dict(METHODS.registered))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "meddlers.py").write_text(MEDDLERS)
    taken, steered = records(["meddlers:Takes", "steering"], [1.0], load_pairs(PAIRS)[0])
    assert (taken.status, taken.where, steered.status) == ("failed", "method", "ok")
    assert "no attribute 'clear'" in str(taken.reason)


MUTE = """
from riebench.methods import Plan, method

class Mute(Exception):
    def __str__(self):
        raise RuntimeError("mute")

@method("mutes")
class Mutes:
    def plan(self, seen):
        raise Mute
"""


def test_an_error_without_a_text_fails_its_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "registered", dict(METHODS.registered))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mute.py").write_text(MUTE)
    failed = records(["mute:Mutes", "steering"], [1.0], load_pairs(PAIRS)[0])
    assert [(record.status, record.reason) for record in failed] == [("failed", "mute")] * 2


def test_a_prompt_is_not_cut_off_unsaid() -> None:
    long = load_pairs(PAIRS)[0].model_copy(update={"editing_prompt": "a [red heart] " + "in a meadow " * 10})
    first, second = records(["steering"], [1.0, 2.0], long)
    for record in (first, second):
        assert (record.status, record.where) == ("failed", "text")
        assert "35 tokens, the text encoder takes 24; shorten it" in str(record.reason)


def test_some_settings_of_a_pair(mini: Instruments, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that a task names are run, as in a whole run; for the others nothing is planned or generated."""
    pair = load_pairs(PAIRS)[0]
    worker_ = worker(["steering", "sae", "prompt"], [1.0, 2.0], blocks=("mid.0",))
    task = worker_.recorder.task(pair)
    whole = {record.key: record for record in worker_.work(task).records}
    assert list(whole) == [wanted.key for wanted in task.settings]
    planned: list[str] = []
    rows: list[int] = []
    plan, generate = EditedRuns._plan, mini.model.generate

    def planning(self: EditedRuns, number: int) -> Any:
        planned.append(self.request.conditions[number].method)
        return plan(self, number)

    def generating(prompts: list[str], *given: Any, **more: Any) -> Any:
        rows.append(len(prompts))
        return generate(prompts, *given, **more)

    monkeypatch.setattr(EditedRuns, "_plan", planning)
    monkeypatch.setattr(mini.model, "generate", generating)
    last = task.settings[3]
    (record,) = worker_.work(task._replace(settings=(last,))).records
    assert record.metrics == pytest.approx(whole[last.key].metrics, abs=2e-3)
    assert (record.key, record.setting.method, record.setting.strength) == (last.key, "sae", 2.0)
    assert (planned, rows) == (["sae"], [2, 1])
    assert len(records(["prompt", "prompt"], [1.0, 1.0], pair, blocks=("mid.0",))) == 1


def test_k_larger_than_the_dictionary() -> None:
    for name, most in (("sae", 384), ("neurons", 768)):
        with pytest.raises(UserError, match=rf"k is {most + 1}, but '{name}' in mid\.0 has {most} to choose from"):
            request_of([name], [1.0], blocks=("mid.0",), k=[most + 1])
        request_of([name], [1.0], blocks=("mid.0",), k=[most])
    with pytest.raises(UserError, match=r"unknown SAE 'down\.1\.0'"):
        request_of(["sae"], [1.0], blocks=("down.1.0",))


def test_four_steps() -> None:
    (pair,) = select(load_pairs(PAIRS), categories=[6], limit=1)
    (record,) = records(["steering"], [1.0], pair, steps=4)
    assert record.status == "ok", record.reason
    assert record.setting.steps == 4


def test_intervals_share_a_plan_and_batches_and_are_what_they_are_alone(
    mini: Instruments, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pair,) = select(load_pairs(PAIRS), categories=[6], limit=1)
    methods, intervals = ["steering", "sae-adaptive"], ["0", "2-3", "all"]
    alone = [
        record
        for method in methods
        for on in intervals
        for record in records([method], [4.0], pair, steps=4, on_steps=on)
    ]
    rows: list[int] = []
    generate = mini.model.generate

    def generating(prompts: list[str], *given: Any, **more: Any) -> Any:
        rows.append(len(prompts))
        return generate(prompts, *given, **more)

    monkeypatch.setattr(mini.model, "generate", generating)
    together = records(methods, [4.0], pair, steps=4, on_steps=intervals)
    assert rows == [2, 6]
    assert [r.setting.on_steps for r in together] == [(0,), (2, 3), None] * 2
    assert len({r.metrics["lpips_base"] for r in together}) == 6
    for one, other in zip(alone, together, strict=True):
        assert one.key == other.key
        assert one.metrics == pytest.approx(other.metrics, abs=2e-3)


def test_half_precision_edits_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    (pair,) = select(load_pairs(PAIRS), categories=[6], limit=1)
    methods = ["steering", "sae", "sae-adaptive", "neurons"]
    full_records = records(methods, [1.0], pair)
    monkeypatch.setattr("riebench.engine.pair_worker.load_instruments", load_instruments)
    half_records = records(methods, [1.0], pair, settings={"model.dtype": "bfloat16"})
    for full, other in zip(full_records, half_records, strict=True):
        assert other.status == "ok", other.reason
        assert other.conditions["dtype"] == "bfloat16"
        assert other.key != full.key
        assert other.metrics["clip_text_edit"] == pytest.approx(full.metrics["clip_text_edit"], abs=0.05)


def test_option_for_nobody() -> None:
    with pytest.raises(UserError, match="did you mean 'spatial'"):
        request_of(["sae", "none"], [1.0], options={"spatal": "1"})


def test_stranger_as_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "registered", dict(METHODS.registered))
    page = (Path(__file__).parents[1] / "riebench" / "methods" / "README.md").read_text()
    code = page.split("```python\n", 1)[1].split("```", 1)[0]
    assert len(code.splitlines()) <= 40
    (tmp_path / "my_method.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    (record,) = records(["my_method:MeanShift"], [1.0], load_pairs(PAIRS)[0])
    assert record.status == "ok", record.reason
    assert (record.metrics["lpips_base"] or 0) > 0
