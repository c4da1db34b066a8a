"""Nothing twice: replay, batches that adapt to memory, counts against the floor, the plain loop's numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from riebench.util.batches import in_batches, is_out_of_memory
from riebench.cli import main
from riebench.engine import PairWorker
from riebench.engine.arms import make_arms
from riebench.engine.bench import difference, plain_pair, scored_pictures, unet_flops
from riebench.engine.counting import CLIP_IMAGE, CLIP_TEXT, LPIPS, MASKER, TEXT, UNET, VAE, counting
from riebench.engine.plain import nothing_kept
from riebench.instruments import Instruments
from riebench.lens import FOUR, Edit, Place
from riebench.lens.replay import modules_before
from riebench.mini.model import PAIRS
from riebench.models import Denoiser
from riebench.pairs import load_pairs
from riebench.util.recent import Recent
from riebench.spec.sweeps import Sweep


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def predictions(denoiser: Denoiser, work: Callable[[], Any]) -> tuple[list[Tensor], Any]:
    """What the U-Net puts out in each step while some work is done, and what the work gives."""
    seen: list[Tensor] = []
    hook = denoiser.pipeline.unet.register_forward_hook(lambda module, args, output: seen.append(output[0].clone()))
    try:
        return seen, work()
    finally:
        hook.remove()


def additions(denoiser: Denoiser, blocks: Sequence[str], steps: int) -> dict[Place, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {block: (steps, denoiser.lens.blocks[block].channels, *denoiser.grid(block)) for block in blocks}
    return {Place(block): torch.randn(shape, generator=generator) for block, shape in shapes.items()}


def check_replay(denoiser: Denoiser, prompt: str, edits: list[Edit], steps: int) -> None:
    """A replayed batch and the full run of the same batch size agree bit for bit, and the first does less."""
    prompts, seeds = [prompt] * len(edits), [5] * len(edits)
    base = denoiser.generate(prompts, seeds, steps, record=list(denoiser.lens.blocks))[0]
    runs, flops = [], []
    for recorded in (base.recorded, None):

        def work(recorded: Any = recorded) -> Any:
            return denoiser.generate(prompts, seeds, steps, edits=edits, replay=recorded)

        seen, made = predictions(denoiser, work)
        runs.append((torch.stack(seen), [run.image for run in made]))
        flops.append(unet_flops(OnlyDenoiser(denoiser), work))
    assert torch.equal(runs[0][0], runs[1][0])
    assert np.array_equal(runs[0][1], runs[1][1])
    assert not np.array_equal(runs[0][1][0], base.image)
    assert flops[0] < flops[1]
    assert not any("forward" in vars(module) for module in denoiser.pipeline.unet.modules())


class OnlyDenoiser:
    """As much of the instruments as counting the U-Net's work needs."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser


@pytest.mark.parametrize(
    ("blocks", "steps"),
    [(("down.1.0",), 1), (("mid.0",), 1), (("up.0.1",), 1), (("up.0.1",), 4), (("up.1.2",), 1), (FOUR, 4)],
)
def test_replay_equals_the_full_run(denoiser: Denoiser, blocks: tuple[str, ...], steps: int) -> None:
    delta = additions(denoiser, blocks, steps)
    check_replay(denoiser, "a b", [Edit(delta, 2.0), Edit(delta, -3.0)], steps)


@pytest.mark.parametrize(("blocks", "steps"), [(("down.2.1",), 1), (("up.0.1",), 1), (("mid.0", "up.0.0"), 4)])
def test_replay_equals_the_full_run_on_mini(mini: Instruments, blocks: tuple[str, ...], steps: int) -> None:
    delta = additions(mini.denoiser, blocks, steps)
    prompt = load_pairs(PAIRS)[0].base_prompt
    check_replay(mini.denoiser, prompt, [Edit(delta, 1.0), Edit(delta, 2.0)], steps)


def test_replay_with_neurons_functions_and_mixed_first_blocks(denoiser: Denoiser) -> None:
    neurons = Edit({Place("up.0.0", 1): torch.full((2, 16, 96), 3.0)})
    adaptive = Edit({Place("up.0.1"): lambda update, step: update * (step + 2)})
    late = Edit(additions(denoiser, ["up.1.0"], 2))
    for edits in ([neurons], [adaptive, adaptive], [late, neurons, adaptive, late]):
        check_replay(denoiser, "a b", edits, 2)


@pytest.mark.parametrize("unconditional", ["leave", "subtract"])
def test_replay_of_a_guided_model(random_pipeline: Any, unconditional: Any) -> None:
    denoiser = Denoiser(random_pipeline, "random", guidance=3.0, unconditional=unconditional)
    check_replay(denoiser, "a b", [Edit(additions(denoiser, ["up.0.0"], 2), s) for s in (1.0, 2.0)], 2)


@pytest.mark.parametrize(("prompts", "seeds"), [(["c"], [5]), (["a b"], [6]), (["a b", "c"], [5, 5])])
def test_only_runs_that_begin_alike_are_replayed(denoiser: Denoiser, prompts: list[str], seeds: list[int]) -> None:
    edits = [Edit(additions(denoiser, ["up.0.1"], 1))] * len(prompts)
    recorded = denoiser.generate(["a b"], [5], 1, record=["up.0.1"])[0].recorded
    with_it, without = (
        predictions(denoiser, lambda r=r: denoiser.generate(prompts, seeds, 1, edits=edits, replay=r))[0][0]
        for r in (recorded, None)
    )
    assert torch.equal(with_it, without)


def test_at_most_six_tenths_of_the_arithmetic_remain(denoiser: Denoiser, mini: Instruments) -> None:
    for model, prompt in ((denoiser, "a"), (mini.denoiser, "a red circle")):
        recorded = model.generate([prompt], [5], 1, record=["up.0.1"])[0].recorded
        edits = [Edit(additions(model, ["up.0.1"], 1))]
        make = partial(model.generate, [prompt], [5], 1, edits=edits)
        part, whole = (unet_flops(OnlyDenoiser(model), partial(make, replay=r)) for r in (recorded, None))
        assert 0 < part <= 0.6 * whole


def test_modules_before_a_block(denoiser: Denoiser) -> None:
    assert modules_before(denoiser.pipeline.unet, "up.0.1") == [
        *("conv_in", "down_blocks.0", "down_blocks.1", "down_blocks.2", "mid_block"),
        *("up_blocks.0.resnets.0", "up_blocks.0.resnets.1", "up_blocks.0.attentions.0"),
    ]


def worker(mini: Instruments, replay: bool = True) -> PairWorker:
    sweeps = [Sweep(["steering", "neurons"], [0.5, 1.0]), Sweep(["sae-adaptive"], [1.0])]
    arms = make_arms(sweeps, [FOUR, ("up.0.1",)], mini)
    return PairWorker(mini, arms, 1, replay=replay)


@pytest.mark.parametrize("batch", [1, 2])
def test_same_pictures_with_and_without_replay(mini: Instruments, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr(mini.denoiser, "batch", batch)
    pair = load_pairs(PAIRS)[0]
    work = worker(mini)
    spared, full = (w.work(pair, keep_images=True) for w in (work, worker(mini, replay=False)))
    assert [r.key for r in spared.records] == [w.recorder.key(pair, a, s) for w in [work] for a, s in w.settings]
    assert [r.metrics for r in spared.records] == [r.metrics for r in full.records]
    assert spared.images.keys() == full.images.keys()
    assert all(np.array_equal(spared.images[name], full.images[name]) for name in full.images)


def test_replay_into_a_larger_batch_differs_by_rounding(mini: Instruments) -> None:
    """The base run has two rows, the edited runs eight, and convolutions choose their algorithm by that."""
    arms = make_arms([Sweep(["steering"], [0.25 * (i + 1) for i in range(8)])], [("up.0.1",)], mini)
    spared, full = (PairWorker(mini, arms, 1, replay=r).work(load_pairs(PAIRS)[0]).records for r in (True, False))
    assert [record.status for record in spared] == ["ok"] * 8
    for one, other in zip(spared, full, strict=True):
        assert one.metrics == pytest.approx(other.metrics, abs=1e-4)


def test_counts_are_the_floor_and_numbers_the_plain_loops(mini: Instruments) -> None:
    work, pair = worker(mini), load_pairs(PAIRS)[1]
    with counting(mini) as counts, nothing_kept(mini):
        mini.denoiser.kept_texts, mini.scorers.clip.kept_texts = Recent(8), Recent(8)
        result = work.work(pair, keep_images=True)
    assert [r.status for r in result.records] == ["ok"] * 10, [r.reason for r in result.records]
    with counting(mini) as plain:
        scores = plain_pair(mini, work, pair)
    for record, score in zip(result.records, scores, strict=True):
        assert record.metrics.keys() == score.keys()
        assert difference(record.metrics, score) <= 1e-3
    pictures = scored_pictures(result)
    assert [counts[n].passes for n in (UNET, VAE, TEXT, CLIP_TEXT)] == [12, 12, 2, 2]
    assert counts[MASKER].passes == len(plain[MASKER].inputs) == 2
    assert [counts[n].passes for n in (CLIP_IMAGE, LPIPS)] == [pictures[CLIP_IMAGE], pictures[LPIPS]]
    assert [plain[n].passes for n in (UNET, VAE, TEXT, CLIP_TEXT, MASKER, LPIPS)] == [30, 30, 30, 20, 20, 30]
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
def test_batch_is_halved_for_good_and_said(error: Exception, capfd: pytest.CaptureFixture[str]) -> None:
    small = Small(3, error)
    assert in_batches(small, 10, small.work) == list(range(10))
    assert small.asked == [8, 4, 2, 2, 2, 2, 2]
    assert in_batches(small, 3, small.work) == [0, 1, 2]
    assert small.batch == 2
    said = capfd.readouterr().err.splitlines()
    assert said[-1] == "riebench: out of memory with 4 pictures at once; 2 at most from now on"
    assert len(said) == 2
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
    pair, unet = load_pairs(PAIRS)[0], mini.denoiser.pipeline.unet
    monkeypatch.setattr(mini.denoiser, "batch", 8)
    expected = worker(mini).work(pair).records
    forward, room = unet.forward, 3

    def cramped(sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        if len(sample) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(unet, "forward", cramped)
    found = worker(mini).work(pair).records
    assert mini.denoiser.batch in {2, 3}
    for one, other in zip(expected, found, strict=True):
        assert one.key == other.key
        assert one.metrics == pytest.approx(other.metrics, abs=2e-3)
    room = 0
    assert {r.error for r in worker(mini).work(pair).records} == {"OutOfMemoryError"}


def test_recent_forgets_the_longest_unused() -> None:
    made: list[str] = []
    kept: Recent[str, str] = Recent(2)
    for key in "abacab":
        kept.get(key, lambda key=key: made.append(key) or key)
    assert made == ["a", "b", "c", "b"]


def test_bench_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["bench", "--pairs", "1", "--block", "up.0.1", "--json", str(tmp_path / "b.json")])
    said = capsys.readouterr().out
    assert "U-Net passes" in said
    assert (tmp_path / "b.json").read_text().startswith("{")
    assert left.value.code == (1 if "MISSED" in said else 0)
