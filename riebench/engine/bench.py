"""The engine measured against the fewest passes that suffice, and against a plain loop."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from riebench.engine import counting as names
from riebench.engine.counting import Counts, counting, put_in
from riebench.engine.pair_task import PairResult, PairSetting, PairTask
from riebench.engine.pair_work import PairWork
from riebench.engine.pair_worker import PairWorker
from riebench.engine.request import Request
from riebench.engine.run import carry_out
from riebench.engine.run_options import RunOptions
from riebench.instruments.loading import HandedIn, Instruments
from riebench.masks import pair_regions
from riebench.metrics import Scores
from riebench.models.devices import fitting_threads
from riebench.models.model import Model
from riebench.pairs import Pair
from riebench.util.errors import UserError

SPEED, OUTSIDE, MEMORY, DIFFERENCE = 4.5, 0.08, 1.1, 1e-3
MANY, FEW = 1000, 10


@dataclass(frozen=True)
class Bar:
    """A measured value and the bar that it has to meet."""

    name: str
    value: float
    bar: str
    met: bool


@dataclass
class Side:
    """The passes, time and arithmetic of the engine or of the plain loop."""

    counts: Counts = field(default_factory=Counts)
    seconds: float = 0.0
    flops: int = 0

    @property
    def outside(self) -> float:
        """The share of the time outside networks."""
        return 1 - self.counts.inside / self.seconds


@dataclass
class Bench:
    """A finished comparison.

    Attributes:
        pairs: number of pairs.
        settings: of each pair.
        engine: passes and time of the engine.
        plain: passes and time of the plain loop.
        floor: network to the fewest passes that suffice.
        flops_without_replay: of the denoiser on the first pair without replay.
        difference: the largest between the metrics of the two.
        peak: of the process, bytes.
        bars: all of them.
    """

    pairs: int
    settings: int
    engine: Side
    plain: Side
    floor: dict[str, int]
    flops_without_replay: int = 0
    difference: float = 0.0
    peak: int = 0
    bars: list[Bar] = field(default_factory=list)


def bench(
    request: Request,
    pairs: Sequence[Pair],
    progress: Callable[[], None] = lambda: None,
    handed_in: HandedIn | None = None,
    flops: bool = True,
) -> Bench:
    """Run the settings of a request through the engine and through the plain loop, pair by pair in turn.

    FLOPs are those of the denoiser, counted on the first pair before the clock runs.

    Args:
        request: what to run.
        pairs: on which.
        progress: called after each pair.
        handed_in: loaded parts.
        flops: whether to count FLOPs, which takes twice the time of the first pair; without, a run warms up.

    Raises:
        UserError: if it cannot be run, or a pair fails.
    """
    worker = PairWorker(request, handed_in)
    instruments = worker.instruments
    inner = getattr(instruments.masker, "masker", None)
    if inner is not None:  # masks from the disk would cost nothing
        instruments.masker, instruments.masks = inner, partial(pair_regions, inner, instruments.rules)
    settings = len(worker.recorder.task(pairs[0]).settings)
    done = Bench(len(pairs), settings, Side(), Side(), dict.fromkeys(names.COUNTED, 0))
    with nothing_kept(instruments):  # of its prompts, when the counting begins
        if flops:
            _count_flops(done, worker, pairs[0])
        else:
            worker.work(worker.recorder.task(pairs[0]))
    for pair in pairs:
        with counting(instruments, done.engine.counts):
            started = time.perf_counter()
            result = worker.work(worker.recorder.task(pair)._replace(keep_images=True))
            done.engine.seconds += time.perf_counter() - started
        for record in result.records:
            if record.status != "ok":
                raise UserError(f"pair {pair.id!r} fails ({record.reason}); choose others with --pairs")
        with counting(instruments, done.plain.counts):
            started = time.perf_counter()
            with fitting_threads(instruments.model.small):  # as the engine's
                plain = plain_pair(worker, pair)
            done.plain.seconds += time.perf_counter() - started
        metrics = zip(result.records, plain, strict=True)
        done.difference = max(done.difference, *(difference(r.metrics, scores) for r, scores in metrics))
        for name, passes in scored_pictures(result).items():
            done.floor[name] += passes
        progress()
    _finish_floor(done, worker)
    done.peak = peak_memory()
    done.bars = _bars(done)
    return done


def plain_setting(worker: PairWorker, task: PairTask, setting: PairSetting) -> Scores:
    """The metrics of one setting of a pair by the plain loop, which shares nothing between settings.

    The loop does what the published code does: a base run, a source run and an edited run for each setting, masks each
    time, each prompt encoded when it is used, one picture at a time in CLIP and LPIPS. Its time and its numbers are
    what the engine is compared with.

    Raises:
        Exception: if the pair fails.
    """
    with nothing_kept(worker.instruments):
        alone = task._replace(settings=(setting,), searches=())
        work = PairWork(alone, worker.recorder, worker.instruments, worker.kept_for_all, worker.learnt)
        work.observe()
        (picture,) = work.edited.pictures([setting])
        if picture.error is not None:
            raise picture.error
        (record,) = work.score([picture])
        return record.metrics


@contextmanager
def nothing_kept(instruments: Instruments) -> Iterator[None]:
    """Encode each prompt whenever it is used, replay nothing, and score one picture at a time."""
    model, clip = instruments.model, instruments.scorers.clip
    with ExitStack() as stack:
        stack.enter_context(model.keeping_nothing())
        put_in(stack, clip, "text", clip._text)
        for owner in (model, clip, instruments.scorers.lpips):
            put_in(stack, owner, "batch", 1)
        yield


def plain_pair(worker: PairWorker, pair: Pair) -> list[Scores]:
    """The metrics of every setting of a pair by the plain loop."""
    task = worker.recorder.task(pair)
    return [plain_setting(worker, task, setting) for setting in task.settings]


def difference(engine: Scores, plain: Scores) -> float:
    """The largest difference of a metric; infinite where only one of the two is null."""
    differences = [0.0]
    for name in engine.keys() | plain.keys():
        a, b = engine.get(name), plain.get(name)
        if a is None or b is None:
            differences.append(0.0 if a is b else float("inf"))
        else:
            differences.append(abs(a - b))
    return max(differences)


def scored_pictures(result: PairResult) -> dict[str, int]:
    """Distinct pictures of a pair that CLIP and LPIPS must look at.

    Both look at base, source and edited images; CLIP besides at each edited image's edited region alone, and at the
    rest alone, where these are not empty.
    """
    images, keys = result.images, [record.key for record in result.records]
    region = ((images["mask-base"] > 0) | (images["mask-source"] > 0))[..., np.newaxis]
    whole = {images[name].tobytes() for name in ("base", "source", *keys)}
    masked = {(images[key] * side).tobytes() for key in keys for side in (region, ~region) if side.any()}
    return {names.CLIP_IMAGE: len(whole | masked), names.LPIPS: len(whole)}


def _finish_floor(done: Bench, worker: PairWorker) -> None:
    """Fill in the floor: each run once, and each distinct prompt, picture and phrase of the plain loop once."""
    runs = done.pairs * (2 + done.settings)
    halves = 2 if worker.instruments.model.guided else 1
    done.floor |= {names.DENOISER: runs * worker.request.steps * halves, names.DECODER: runs}
    done.floor |= {n: len(done.plain.counts[n].inputs) for n in (names.TEXT, names.MASKER, names.CLIP_TEXT)}


def _count_flops(done: Bench, worker: PairWorker, pair: Pair) -> None:
    model, task = worker.instruments.model, worker.recorder.task(pair)
    with ExitStack() as stack:
        put_in(stack, model, "replay", worker.request.settings.model.replay)
        done.engine.flops = denoiser_flops(model, lambda: worker.work(task), whole=not model.replay)
        put_in(stack, model, "replay", False)
        done.flops_without_replay = denoiser_flops(model, lambda: worker.work(task), whole=True)
    done.plain.flops = denoiser_flops(model, lambda: plain_pair(worker, pair), whole=True)


def denoiser_flops(model: Model, work: Callable[[], object], whole: bool = False) -> int:
    """Floating-point operations of the denoiser's products and convolutions while some work is done.

    Args:
        model: that is used in it.
        work: the work.
        whole: whether all passes run the whole denoiser: of those with arguments of the same shapes one is counted,
            since counting takes several times as long as the pass.
    """
    total, (denoiser, attribute) = 0, model.networks()[names.DENOISER]
    forward, known = getattr(denoiser, attribute), dict[str, int]()

    def counted(*args: object, **kwargs: object) -> object:
        nonlocal total
        shapes = str([value.shape for value in (*args, *kwargs.values()) if isinstance(value, Tensor)])
        if whole and shapes in known:
            total += known[shapes]
            return forward(*args, **kwargs)
        with FlopCounterMode(display=False) as counter:
            output = forward(*args, **kwargs)
        known[shapes] = counter.get_total_flops()
        total += known[shapes]
        return output

    with ExitStack() as stack:
        put_in(stack, denoiser, attribute, counted)
        work()
    return total


def _bars(done: Bench) -> list[Bar]:
    bars = []
    for name, floor in done.floor.items():
        passes = done.engine.counts[name].passes
        bars.append(Bar(f"{name} passes", passes, f"= {floor}", passes == floor))
    speed = done.plain.seconds / done.engine.seconds
    bars.append(Bar("times as fast as the plain loop", speed, f">= {SPEED:g}", speed >= SPEED))
    bars.append(
        Bar("share of time outside networks", done.engine.outside, f"<= {OUTSIDE:g}", done.engine.outside <= OUTSIDE)
    )
    title = "largest difference of a metric from the plain loop's"
    bars.append(Bar(title, done.difference, f"<= {DIFFERENCE:g}", done.difference <= DIFFERENCE))
    return bars


def peak_memory() -> int:
    """The most memory that this process has held, bytes.

    Linux hands the peak that getrusage tells down to a process's children; that of its own memory is in ``/proc``.
    """
    own = Path("/proc/self/status")
    if own.exists():
        peak = next(line for line in own.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def memory_bar(request: Request, pairs: Sequence[Pair]) -> Bar:
    """Peak memory of a run over many pairs as a multiple of that over few, each in a process of its own.

    One setting: steering at strength 1. If there are too few pairs, they are repeated under new ids and seeds.
    """
    steering = next(c for c in request.conditions if c.method == "steering")
    condition = steering.model_copy(update={"strengths": (1.0,)})
    request = request.model_copy(update={"conditions": (condition,), "keep_images": 0})
    few, many = (_peak_alone(request, list(repeated(pairs, count))) for count in (FEW, MANY))
    title = f"peak memory with {MANY} pairs ({many / 1e6:.0f} MB) over that with {FEW} ({few / 1e6:.0f} MB)"
    return Bar(title, many / few, f"<= {MEMORY:g}", many / few <= MEMORY)


def repeated(pairs: Sequence[Pair], count: int) -> Iterator[Pair]:
    """Pairs under new ids and seeds, over and over up to a count."""
    for number, pair in enumerate(islice(cycle(pairs), count)):
        yield pair.model_copy(update={"id": f"{pair.id}-{number}", "seed": number})


def _peak_alone(request: Request, pairs: list[Pair]) -> int:
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, fresh) as pool:
        return pool.submit(_peak_of_run, request, pairs).result()


def _peak_of_run(request: Request, pairs: list[Pair]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        carry_out(request, pairs, RunOptions(out=Path(folder) / "run", quiet=True))
    return peak_memory()
