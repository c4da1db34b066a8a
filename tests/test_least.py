"""Nothing twice: replay, batches that adapt to memory, counts against the floor, the plain loop's numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from riebench.cli import main
from riebench.engine.bench import denoiser_flops, difference, plain_pair, scored_pictures
from riebench.engine.counting import CLIP_IMAGE, CLIP_TEXT, DECODER, DENOISER, LPIPS, MASKER, TEXT, counting
from riebench.engine.pair_worker import PairWorker
from riebench.engine.request import Request, resolve
from riebench.engine.run_options import RunOptions
from riebench.instruments.loading import HandedIn, Instruments
from riebench.models import Edit
from riebench.models.mini import PAIRS
from riebench.models.sdxl import FOUR, SDXL, TURBO, module_path, modules_before
from riebench.models.sites import Batch
from riebench.pairs import Pair, load_pairs
from riebench.settings.settings import parse_settings
from riebench.util.batches import in_batches, is_out_of_memory


def blocks(sites: Iterable[str]) -> list[str]:
    return [site for site in sites if "/" not in site]


def predictions(model: SDXL, base: Callable[[], Any], work: Callable[[], Any]) -> tuple[list[Tensor], Any]:
    """What the U-Net puts out in each step while some work is done, and what the work gives.

    The base run is made with the same hook, as a model with another hook has nothing at hand from before.
    """
    seen: list[Tensor] = []
    hook = model.pipeline.unet.register_forward_hook(lambda module, args, output: seen.append(output[0].clone()))
    try:
        base()
        seen.clear()
        return seen, work()
    finally:
        hook.remove()


def changes_at(model: SDXL, sites: Sequence[str], steps: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {site: (steps, model.sites[site].positions, model.sites[site].width) for site in sites}
    return {site: torch.randn(shape, generator=generator) for site, shape in shapes.items()}


def check_replay(model: SDXL, prompt: str, edits: list[Edit], steps: int) -> None:
    """A replayed batch and the full run of the same batch size agree bit for bit, and the first does less."""
    prompts, seeds = [prompt] * len(edits), [5] * len(edits)
    base = partial(model.generate, prompts, seeds, steps, capture=blocks(model.sites))
    runs, flops = [], []
    for replay in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(model, "replay", replay)
            work = partial(model.generate, prompts, seeds, steps, edits=edits)
            seen, made = predictions(model, base, work)
            runs.append((torch.stack(seen), [run.image for run in made]))
            (plain, *_) = base()
            flops.append(denoiser_flops(model, work))
    assert torch.equal(runs[0][0], runs[1][0])
    assert np.array_equal(runs[0][1], runs[1][1])
    assert not np.array_equal(runs[0][1][0], plain.image)
    assert flops[0] < flops[1]
    assert not any("forward" in vars(module) for module in model.pipeline.unet.modules())


@pytest.mark.parametrize(
    ("sites", "steps"),
    [(("down.1.0",), 1), (("mid.0",), 1), (("up.0.1",), 1), (("up.0.1",), 4), (("up.1.2",), 1), (FOUR, 4)],
)
def test_replay_equals_the_full_run(model: SDXL, sites: tuple[str, ...], steps: int) -> None:
    changes = changes_at(model, sites, steps)
    check_replay(model, "a b", [Edit(changes, 2.0), Edit(changes, -3.0)], steps)


@pytest.mark.parametrize(("sites", "steps"), [(("down.2.1",), 1), (("up.0.1",), 1), (("mid.0", "up.0.0"), 4)])
def test_replay_equals_the_full_run_on_mini(mini: Instruments, sites: tuple[str, ...], steps: int) -> None:
    changes = changes_at(sdxl(mini), sites, steps)
    prompt = load_pairs(PAIRS)[0].base_prompt
    check_replay(sdxl(mini), prompt, [Edit(changes, 1.0), Edit(changes, 2.0)], steps)


def sdxl(mini: Instruments) -> SDXL:
    assert isinstance(mini.model, SDXL)
    return mini.model


def test_replay_with_neurons_functions_and_mixed_first_blocks(model: SDXL) -> None:
    neurons = Edit({"up.0.0/neurons.1": torch.full((2, 16, 96), 3.0)})
    adaptive = Edit({"up.0.1": lambda update, step: update * (step + 2)})
    late = Edit(changes_at(model, ["up.1.0"], 2))
    for edits in ([neurons], [adaptive, adaptive], [late, neurons, adaptive, late]):
        check_replay(model, "a b", edits, 2)


@pytest.mark.parametrize("unconditional", ["leave", "subtract"])
def test_replay_of_a_guided_model(random_pipeline: Any, unconditional: Any) -> None:
    settings = parse_settings({"guidance": 3.0, "unconditional": unconditional})
    model = SDXL(random_pipeline, TURBO, settings, "random")
    check_replay(model, "a b", [Edit(changes_at(model, ["up.0.0"], 2), s) for s in (1.0, 2.0)], 2)


@pytest.mark.parametrize(
    ("prompts", "seeds", "steps"),
    [(["c"], [5], 1), (["a b"], [6], 1), (["a b", "c"], [5, 5], 1), (["a b"], [5], 2)],
)
def test_only_runs_that_begin_alike_are_replayed(model: SDXL, prompts: list[str], seeds: list[int], steps: int) -> None:
    edits = [Edit(changes_at(model, ["up.0.1"], steps))] * len(prompts)
    base = partial(model.generate, ["a b"], [5], 1, capture=["up.0.1"])
    found, flops = [], []
    work = partial(model.generate, prompts, seeds, steps, edits=edits)
    for model.replay in (True, False):
        found.append(torch.stack(predictions(model, base, work)[0]))
        base()
        flops.append(denoiser_flops(model, work))
    assert torch.equal(*found)
    assert flops[0] == flops[1]


@pytest.mark.parametrize("captured", ["up.0.2", "up.1.0"])
def test_a_block_that_was_not_captured_is_computed(model: SDXL, captured: str) -> None:
    """Only what lies before the captured blocks is at hand."""
    base = partial(model.generate, ["a b"], [5], 1, capture=[captured])
    edits = [Edit(changes_at(model, ["up.0.1"], 1), 2.0)]
    work = partial(model.generate, ["a b"], [5], 1, edits=edits)
    found = []
    for model.replay in (True, False):
        found.append(torch.stack(predictions(model, base, work)[0]))
    assert torch.equal(*found)


def test_a_captured_run_that_broke_off_is_not_replayed(model: SDXL, monkeypatch: pytest.MonkeyPatch) -> None:
    edits = [Edit(changes_at(model, ["up.0.1"], 1), 2.0)]
    (whole,) = model.generate(["a b"], [5], 1, edits=edits)

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(model.pipeline.unet.mid_block, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.generate(["a b"], [5], 1, capture=["up.0.1"])
    (again,) = model.generate(["a b"], [5], 1, edits=edits)
    assert np.array_equal(again.image, whole.image)


def test_at_most_six_tenths_of_the_arithmetic_remain(model: SDXL, mini: Instruments) -> None:
    for one, prompt in ((model, "a"), (sdxl(mini), "a red circle")):
        one.generate([prompt], [5], 1, capture=["up.0.1"])
        edits, flops = [Edit(changes_at(one, ["up.0.1"], 1))], []
        for replay in (True, False):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(one, "replay", replay)
                flops.append(denoiser_flops(one, partial(one.generate, [prompt], [5], 1, edits=edits)))
        assert 0 < flops[0] <= 0.6 * flops[1]


def test_modules_before_a_block(model: SDXL) -> None:
    assert modules_before(model.pipeline.unet, module_path("up.0.1")) == [
        *("conv_in", "down_blocks.0", "down_blocks.1", "down_blocks.2", "mid_block"),
        *("up_blocks.0.resnets.0", "up_blocks.0.resnets.1", "up_blocks.0.attentions.0"),
    ]


def asked(batch: int = 8) -> Request:
    """Ten settings: two methods at two strengths and a third at one, in the four blocks together and in one."""
    parts = [
        resolve(RunOptions(methods, sites, strength=strengths, batch=batch))[0]
        for methods, strengths in ((["steering", "neurons"], [0.5, 1.0]), ("sae-adaptive", [1.0]))
        for sites in ("all", "up.0.1")
    ]
    return parts[0].model_copy(update={"conditions": tuple(c for part in parts for c in part.conditions), "steps": 1})


def worker(mini: Instruments, request: Request | None = None) -> PairWorker:
    return PairWorker(request or asked(), HandedIn(model=mini.model, scorers=mini.scorers))


def work(worker: PairWorker, pair: Pair, keep_images: bool = False) -> Any:
    return worker.work(worker.recorder.task(pair)._replace(keep_images=keep_images))


@pytest.mark.parametrize("batch", [1, 2])
def test_same_pictures_with_and_without_replay(mini: Instruments, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    pair, found = load_pairs(PAIRS)[0], []
    for replay in (True, False):
        monkeypatch.setattr(mini.model, "replay", replay)
        at_work = worker(mini, asked(batch))
        assert mini.model.batch == batch
        found.append(work(at_work, pair, keep_images=True))
        assert [r.key for r in found[-1].records] == [wanted.key for wanted in at_work.recorder.task(pair).settings]
    spared, full = found
    assert len(spared.records) == 10
    assert [r.metrics for r in spared.records] == [r.metrics for r in full.records]
    assert spared.images.keys() == full.images.keys()
    assert all(np.array_equal(spared.images[name], full.images[name]) for name in full.images)


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_replay_spares_work_at_every_size_of_batch(
    mini: Instruments, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    request, _ = resolve(RunOptions("steering", "up.0.1", strength=[1, 2], batch=batch))
    pair, flops = load_pairs(PAIRS)[0], []
    for replay in (True, False):
        monkeypatch.setattr(mini.model, "replay", replay)
        flops.append(denoiser_flops(mini.model, partial(work, worker(mini, request), pair)))
    # Two of four runs are edited, and at most six tenths of each remain.
    assert flops[0] <= 0.8 * flops[1]


def test_replay_into_a_larger_batch_differs_by_rounding(mini: Instruments, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base run has two rows, the edited runs eight, and convolutions choose their algorithm by that."""
    request, _ = resolve(RunOptions("steering", "up.0.1", strength=[0.25 * (i + 1) for i in range(8)]))
    found = []
    for replay in (True, False):
        monkeypatch.setattr(mini.model, "replay", replay)
        found.append(work(worker(mini, request), load_pairs(PAIRS)[0]).records)
    spared, full = found
    assert [record.status for record in spared] == ["ok"] * 8
    for one, other in zip(spared, full, strict=True):
        assert one.metrics == pytest.approx(other.metrics, abs=1e-4)


def test_counts_are_the_floor_and_numbers_the_plain_loops(mini: Instruments) -> None:
    at_work, pair = worker(mini), load_pairs(PAIRS)[1]
    sdxl(mini).encode_text.cache_clear()
    mini.scorers.clip.text.cache_clear()
    with counting(at_work.instruments) as counts:
        result = work(at_work, pair, keep_images=True)
    assert [r.status for r in result.records] == ["ok"] * 10, [r.reason for r in result.records]
    with counting(at_work.instruments) as plain:
        scores = plain_pair(at_work, pair)
    for record, score in zip(result.records, scores, strict=True):
        assert record.metrics.keys() == score.keys()
        assert difference(record.metrics, score) <= 1e-3
    pictures = scored_pictures(result)
    assert [counts[n].passes for n in (DENOISER, DECODER, TEXT, CLIP_TEXT)] == [12, 12, 2, 2]
    assert counts[MASKER].passes == len(plain[MASKER].inputs) == 2
    assert [counts[n].passes for n in (CLIP_IMAGE, LPIPS)] == [pictures[CLIP_IMAGE], pictures[LPIPS]]
    assert [plain[n].passes for n in (DENOISER, DECODER, TEXT, CLIP_TEXT, MASKER, LPIPS)] == [30, 30, 30, 20, 20, 30]
    assert pictures == {CLIP_IMAGE: 32, LPIPS: 12}


class Small:
    """Works off rows as a device with room for some of them does."""

    def __init__(self, room: int, error: Exception, batch: int = 8) -> None:
        self.room, self.error, self.batch = room, error, batch
        self.asked: list[int] = []

    def work(self, rows: slice) -> list[int]:
        self.asked.append(rows.stop - rows.start)
        if self.asked[-1] > self.room:
            raise self.error
        return list(range(rows.start, rows.stop))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_batch_is_halved_for_good_and_said(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    small = Small(3, error)
    assert in_batches(small, 10, small.work) == list(range(10))
    assert small.asked == [8, 4, 2, 2, 2, 2, 2]
    assert in_batches(small, 3, small.work) == [0, 1, 2]
    assert small.batch == 2
    assert caplog.messages[-1] == "out of memory with 4 pictures at once; 2 at most from now on"
    assert len(caplog.messages) == 2
    none = Small(0, error)
    with pytest.raises(type(error)):
        in_batches(none, 2, none.work)
    assert none.asked == [2, 1]


def test_other_errors_are_not_repeated() -> None:
    broken = Small(0, RuntimeError("mine"))
    with pytest.raises(RuntimeError, match="mine"):
        in_batches(broken, 2, broken.work)
    assert broken.asked == [2]
    assert not is_out_of_memory(KeyError("out of memory"))


def test_a_run_survives_a_small_device(mini: Instruments, monkeypatch: pytest.MonkeyPatch) -> None:
    pair, room = load_pairs(PAIRS)[0], 3
    expected = work(worker(mini), pair).records
    sample = SDXL.sample

    def cramped(self: SDXL, batch: Batch) -> Any:
        if len(batch.prompts) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sample(self, batch)

    monkeypatch.setattr(SDXL, "sample", cramped)
    found = work(worker(mini), pair).records
    assert mini.model.batch in {2, 3}
    for one, other in zip(expected, found, strict=True):
        assert one.key == other.key
        assert one.metrics == pytest.approx(other.metrics, abs=2e-3)
    room = 0
    assert {r.error for r in work(worker(mini), pair).records} == {"OutOfMemoryError"}


def test_bench_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["bench", "--pairs", "1", "--block", "up.0.1", "--steps", "1", "--json", str(tmp_path / "b.json")])
    said = capsys.readouterr().out
    assert "denoiser passes" in said
    assert (tmp_path / "b.json").read_text().startswith("{")
    assert left.value.code == (1 if "MISSED" in said else 0)
