"""The whole run on mini."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from riebench.catalog import entry_named
from riebench.engine import PairResult, PairWorker, load_instruments
from riebench.engine.arms import block_sets, make_arms
from riebench.util.errors import UserError
from riebench.instruments import Instruments
from riebench.lens import FOUR, Edit, Place
from riebench.methods import registry
from riebench.mini.model import PAIRS
from riebench.pairs import load_pairs, select
from riebench.spec.settings import parse_settings
from riebench.spec.sweeps import Sweep

EVERY = ["none", "prompt", "random", "steering", "sae", "sae-adaptive", "neurons"]


def worker(
    mini: Instruments,
    methods: list[str],
    strengths: list[float],
    blocks: tuple[str, ...] = FOUR,
    steps: int = 1,
    **more: Any,
) -> PairWorker:
    sets = block_sets(blocks, list(mini.denoiser.lens.blocks), False)
    return PairWorker(mini, make_arms([Sweep(methods, strengths, **more)], sets, mini), steps)


def by_method(result: PairResult, name: str) -> list[dict[str, Any]]:
    return [r.metrics for r in result.records if r.setting.method == name]


@pytest.fixture(scope="module")
def results(mini: Instruments) -> list[PairResult]:
    pairs = select(load_pairs(PAIRS), limit=2)
    work = worker(mini, EVERY, [0.0, 1.0])
    return [work.work(pair, keep_images=True) for pair in pairs]


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
    delta = {Place(b): torch.ones(1, mini.denoiser.lens.blocks[b].channels, 8, 8) for b in FOUR}
    (base,) = mini.denoiser.generate([pair.base_prompt], [7], 1)
    (same,) = mini.denoiser.generate([pair.base_prompt], [7], 1, edits=[Edit(delta, 0.0)])
    (other,) = mini.denoiser.generate([pair.base_prompt], [7], 1, edits=[Edit(delta, 1.0)])
    assert np.array_equal(base.image, same.image)
    assert not np.array_equal(base.image, other.image)


def test_steering_edits_and_chance_does_not(results: list[PairResult]) -> None:
    success = {n: np.mean([by_method(r, n)[1]["edit_success"] for r in results]) for n in ("steering", "random")}
    assert success["steering"] >= success["random"] + 0.3


@pytest.mark.parametrize("batch", [1, 3])
def test_same_records_for_any_batch(mini: Instruments, batch: int) -> None:
    pairs = select(load_pairs(PAIRS), categories=[1, 6], limit=2)
    wanted = worker(mini, ["sae", "steering"], [0.5, 1.0, 2.0])
    mini.denoiser.batch = 8
    expected = [wanted.work(p).records for p in pairs]
    mini.denoiser.batch = batch
    try:
        found = [wanted.work(p).records for p in pairs]
    finally:
        mini.denoiser.batch = 8
    for one, other in zip(chain(*expected), chain(*found), strict=True):
        assert one.key == other.key
        assert one.metrics == pytest.approx(other.metrics, abs=2e-3)


def test_same_records_again(mini: Instruments) -> None:
    pair = load_pairs(PAIRS)[0]
    first, second = (worker(mini, ["sae", "random"], [1.0]).work(pair).records for _ in range(2))
    assert [r.metrics for r in first] == [r.metrics for r in second]


STRANGERS = """
import torch
from riebench.methods import Place, Plan, method

@method("spoils")
class Spoils:
    def plan(self, seen):
        return Plan({Place("mid.0"): torch.full_like(seen.base.updates["mid.0"], torch.nan)})

@method("raises")
class Raises:
    def plan(self, seen):
        raise KeyError("mine")

@method("elsewhere")
class Elsewhere:
    def plan(self, seen):
        return Plan({Place("down.1.0"): seen.base.updates["mid.0"]})

@method("longer")
class Longer:
    def plan(self, seen):
        return Plan({Place("mid.0"): seen.base.updates["mid.0"].repeat(2, 1, 1, 1)})

@method("other-device")
class OtherDevice:
    def plan(self, seen):
        return Plan({Place("mid.0"): seen.base.updates["mid.0"].to("meta")})

@method("number")
class Number:
    def plan(self, seen):
        return Plan({Place("mid.0"): 3.0})

@method("later")
class Later:
    def plan(self, seen):
        return Plan({Place("mid.0"): lambda passing, step: passing[:3]})

@method("later-nan")
class LaterNaN:
    def plan(self, seen):
        return Plan({Place("mid.0", 0): lambda passing, step: passing * torch.nan})

@method("later-device")
class LaterDevice:
    def plan(self, seen):
        return Plan({Place("mid.0"): lambda passing, step: passing.to("meta")})

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
        return Plan({"mid.0": seen.base.updates["mid.0"]})

@method("listed")
class Listed:
    def plan(self, seen):
        return Plan([(Place("mid.0"), seen.base.updates["mid.0"])])

@method("wordless")
class Wordless:
    def plan(self, seen):
        return Plan(prompt=5)

@method("complex")
class Complex:
    def plan(self, seen):
        return Plan({Place("mid.0"): seen.base.updates["mid.0"] * 1j})

@method("sparse")
class Sparse:
    def plan(self, seen):
        return Plan({Place("mid.0"): seen.base.updates["mid.0"].to_sparse()})

@method("quits")
class Quits:
    def plan(self, seen):
        raise SystemExit(0)

def quit(passing, step):
    raise SystemExit(0)

@method("later-quits")
class LaterQuits:
    def plan(self, seen):
        return Plan({Place("mid.0"): quit})

class Mute(Exception):
    def __str__(self):
        raise RuntimeError

@method("mute")
class Mutes:
    def plan(self, seen):
        raise Mute

@method("garbled")
class Garbled:
    def plan(self, seen):
        raise ValueError("\\udcff" + "x" * 1000)
"""

MEDDLERS = """
from riebench.methods import Place, Plan, method

class Meddles:
    def plan(self, seen):
        self.change(seen)
        return Plan({Place("mid.0"): seen.base.updates["mid.0"]})

@method("zeroes")
class Zeroes(Meddles):
    def change(self, seen):
        seen.source.updates["mid.0"].zero_()

@method("unmasks")
class Unmasks(Meddles):
    def change(self, seen):
        seen.base_masks["mid.0"].fill_(False)

@method("recodes")
class Recodes(Meddles):
    def change(self, seen):
        seen.codes("source", "mid.0").mul_(2)

@method("takes")
class Takes(Meddles):
    def change(self, seen):
        seen.source.updates.clear()
        raise ValueError("in the middle")
"""


def test_faults_are_records_and_spare_the_others(
    mini: Instruments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "strangers.py").write_text(STRANGERS)
    strangers = {
        "Spoils": "the method 'spoils' adds values at mid.0 that are not finite",
        "Raises": "'mine'",
        "Elsewhere": "'elsewhere' adds at Place(block='down.1.0', layer=None); its blocks are",
        "Longer": "'longer' adds the shape [2, ",
        "OtherDevice": "'other-device' adds a tensor on meta at mid.0, expected one on cpu",
        "Number": "'number' adds a float at mid.0, expected a tensor",
        "Later": "'later' adds the shape [3, ",
        "LaterNaN": "'later-nan' adds values at mid.0, neurons of layer 0 that are not finite",
        "LaterDevice": "'later-device' adds a tensor on meta at mid.0",
        "Talks": "122 tokens, the text encoder takes 24",
        "Noted": "notes 'x' as Tensor",
        "Unnamed": "'unnamed' notes something under 1",
        "HalfLetter": "expected text in Unicode",
        "Misplaced": "'misplaced' adds at 'mid.0', expected a Place",
        "Listed": "'listed' returned a Plan whose additions are list",
        "Wordless": "'wordless' returned a Plan whose prompt is int",
        "Complex": "'complex' adds a complex64 tensor at mid.0, expected dense real numbers",
        "Sparse": "'sparse' adds a sparse_coo tensor at mid.0",
        "Quits": "the method 'quits' raised SystemExit: 0",
        "LaterQuits": "the method 'later-quits' raised SystemExit: 0",
        "Mutes": "Mute",
        "Garbled": "\\udcffxxx",
    }
    pair = load_pairs(PAIRS)[0]
    every = ["steering", *(f"strangers:{name}" for name in strangers)]
    good, *bad = worker(mini, every, [1.0]).work(pair).records
    assert good.status == "ok"
    for record, said in zip(bad, strangers.values(), strict=True):
        assert record.status == "failed"
        assert said in str(record.reason)
        assert len(str(record.reason)) < 600
        assert record.model_validate_json(record.model_dump_json()) == record
        assert record.where == ("text" if record.setting.method == "talks" else "method")
    assert bad[1].error == "KeyError"
    (huge,) = worker(mini, ["steering"], [1e39]).work(pair).records
    assert huge.status == "failed"
    assert "'steering'" in str(huge.reason)
    lost = pair.model_copy(update={"original_gsam_prompt": "elephant"})
    (failed,) = worker(mini, ["steering"], [1.0]).work(lost).records
    assert failed.status == "failed"
    assert failed.where == "masks"
    assert "finds no 'elephant'" in str(failed.reason)


def test_a_method_that_changes_what_it_is_given_spares_the_others(
    mini: Instruments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those before it, whose additions may be what it changed, and those after it."""
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "meddlers.py").write_text(MEDDLERS)
    pair = load_pairs(PAIRS)[0]
    alone = {record.key: record for record in worker(mini, ["sae", "steering"], [1.0]).work(pair).records}
    meddlers = ["meddlers:Zeroes", "meddlers:Unmasks", "meddlers:Recodes", "meddlers:Takes"]
    records = worker(mini, ["sae", *meddlers, "steering"], [1.0]).work(pair).records
    assert [record.status for record in records] == ["ok", *["failed"] * 4, "ok"]
    for record in records:
        if record.status == "ok":
            assert record.metrics == pytest.approx(alone[record.key].metrics, abs=1e-5)
        else:
            assert f"the method {record.setting.method!r} changes the activations or masks" in str(record.reason)


def test_a_prompt_is_not_cut_off_unsaid(mini: Instruments) -> None:
    long = load_pairs(PAIRS)[0].model_copy(update={"editing_prompt": "a [red heart] " + "in a meadow " * 10})
    first, second = worker(mini, ["steering"], [1.0, 2.0]).work(long).records
    for record in (first, second):
        assert (record.status, record.where) == ("failed", "text")
        assert "35 tokens, the text encoder takes 24; shorten it" in str(record.reason)


def test_some_settings_of_a_pair(mini: Instruments, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those whose keys are given are run, as in a whole run; for the others nothing is planned or generated."""
    pair = load_pairs(PAIRS)[0]
    work = worker(mini, ["steering", "sae", "prompt"], [1.0, 2.0], blocks=("mid.0",))
    whole = {record.key: record for record in work.work(pair).records}
    assert list(whole) == work.keys(pair)
    planned, rows = [], []
    plan, generate = PairWorker._plan, mini.denoiser.generate
    monkeypatch.setattr(PairWorker, "_plan", lambda self, arm, seen: planned.append(arm.name) or plan(self, arm, seen))
    monkeypatch.setattr(mini.denoiser, "generate", lambda p, *a, **k: rows.append(len(p)) or generate(p, *a, **k))
    last = work.keys(pair)[3]
    (record,) = work.work(pair, keys=[last]).records
    assert record.metrics == pytest.approx(whole[last].metrics, abs=2e-3)
    assert (record.key, record.setting.method, record.setting.strength) == (last, "sae", 2.0)
    assert (planned, rows) == (["sae"], [2, 1])
    assert work.work(pair, keys=()).records == []
    assert (planned, rows) == (["sae"], [2, 1])
    twice = worker(mini, ["prompt", "prompt"], [1.0, 1.0], blocks=("mid.0",))
    assert len(twice.work(pair).records) == 1


def test_k_larger_than_the_dictionary(mini: Instruments) -> None:
    for name in ("sae", "neurons"):
        with pytest.raises(UserError, match=rf"k is 100000, but '{name}' in mid\.0"):
            worker(mini, [name], [1.0], blocks=("mid.0",), k=[100_000])
    with pytest.raises(UserError, match=r"no SAE for the block 'down\.1\.0'"):
        worker(mini, ["sae"], [1.0], blocks=("down.1.0",))


def test_four_steps(mini: Instruments) -> None:
    (pair,) = select(load_pairs(PAIRS), categories=[6], limit=1)
    (record,) = worker(mini, ["steering"], [1.0], steps=4).work(pair).records
    assert record.status == "ok", record.reason
    assert record.setting.steps == 4


def test_half_precision_edits_as_well(mini: Instruments) -> None:
    half = load_instruments(entry_named("mini"), settings=parse_settings(["model.dtype=bfloat16"]))
    (pair,) = select(load_pairs(PAIRS), categories=[6], limit=1)
    methods = ["steering", "sae", "sae-adaptive", "neurons"]
    full_records, half_records = (worker(m, methods, [1.0]).work(pair).records for m in (mini, half))
    for full, other in zip(full_records, half_records, strict=True):
        assert other.status == "ok", other.reason
        assert other.conditions["dtype"] == "bfloat16"
        assert other.key != full.key
        assert other.metrics["clip_text_edit"] == pytest.approx(full.metrics["clip_text_edit"], abs=0.05)


def test_option_for_nobody(mini: Instruments) -> None:
    with pytest.raises(UserError, match="did you mean 'spatial'"):
        worker(mini, ["sae", "none"], [1.0], options={"spatal": "1"})


def test_stranger_as_the_readme_shows(mini: Instruments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    code = readme.split("```python\n", 1)[1].split("```", 1)[0]
    assert len(code.splitlines()) <= 40
    (tmp_path / "my_method.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    (record,) = worker(mini, ["my_method:MeanShift"], [1.0]).work(load_pairs(PAIRS)[0]).records
    assert record.status == "ok", record.reason
    assert record.metrics["lpips_base"] > 0
