"""Checks on whole runs: every method, the engine beside the plain loop, and the main job."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from io import StringIO
from typing import Any

import numpy as np

from gpu_checks.checking import Numbers, expect
from gpu_checks.instruments import DETECTION
from gpu_checks.pictures import blocks, rewrapped
from gpu_checks.place import PAIRS, Place
from riebench.cli import main
from riebench.engine.bench import DIFFERENCE, bench
from riebench.engine.pair_worker import PairWorker
from riebench.engine.request import Request, resolve
from riebench.engine.run_options import RunOptions
from riebench.instruments.loading import HandedIn
from riebench.models import Model
from riebench.records import Record, read_records
from riebench.util.errors import UserError
from riebench.util.processes import HereAndBeside

SHARED = {"float32": DIFFERENCE, "float16": 1e-2, "bfloat16": 1e-1}
"""How far a metric of the engine's may be from the plain loop's, which makes pictures one by one."""
MEAN, MOST, VERDICTS = 1e-3, 2e-2, 5e-2
"""How far metrics of the main job may be from the CPU's: mean, largest, and the mean of verdicts, which are 0 or 1."""
VERDICT_NAMES = ("edit_success", "kept")


def request_of(model: Model, place: Place, masks: Any = None, **more: Any) -> tuple[Request, HandedIn]:
    """A request for a loaded model with random instruments, and what is handed in for it.

    Args:
        model: the model.
        place: where.
        masks: in place of a random Grounded SAM 2, which needs its packages.
        more: of the request.
    """
    place.write_scorers()
    if masks is None:
        try:
            place.write_masker()
        except UserError:
            masks = halves
    settings = {"weights": place.weights, "device": str(place.device)}
    if masks is None:
        settings |= {"masker.cache": place.work / "masks", **DETECTION[place.size]}
    options = RunOptions(model=model, pairs=PAIRS, settings=settings, masks=masks, keep_images=0, **more)
    request, _ = resolve(options)
    return request, options.handed_in


def halves(pair: Any, base: Any, source: Any) -> tuple[Any, Any]:
    """The left half as mask of the source, the upper one as that of the base."""
    left, upper = (np.zeros(base.shape[:2], bool) for _ in range(2))
    left[:, : base.shape[1] // 2] = True
    upper[: base.shape[0] // 2] = True
    return left, upper


def every_method(name: str, dtype: str, place: Place, numbers: Numbers) -> None:
    """All methods that need no contrasts give scored records at strengths 0 and 1; strength 0 is the base picture."""
    model = place.model(name, dtype)
    masks = halves if place.size == "tiny" else None  # a masker has a check of its own
    request, handed_in = request_of(model, place, masks, method=["all"], block=blocks(model), strength=[0, 1])
    worker = PairWorker(request, handed_in)
    worker.work(worker.recorder.task(PAIRS[0]))
    place.start_measuring()
    result, seconds = place.timed(lambda: worker.work(worker.recorder.task(PAIRS[1])))
    records = result.records
    numbers |= {"records": len(records), "seconds a record": seconds / len(records)}
    _scored(records, 2 * len(request.conditions))
    for record in records:
        exact = record.setting.strength == 0 and record.setting.method != "prompt"
        lpips = record.metrics["lpips_base"]
        expect(lpips == 0 or not exact, f"{record.setting.method} at strength 0 has the LPIPS {lpips}, expected 0")


def scored_beside(name: str, dtype: str, place: Place, numbers: Numbers) -> None:
    """A pair that is scored while the next one is generated gets the same metrics, in less time."""
    model = place.model(name, dtype)
    request, handed_in = request_of(model, place, method=["steering"], block=blocks(model), strength=[1])
    worker = PairWorker(request, handed_in)
    crew = HereAndBeside(lambda: worker, alone=True)
    tasks = [worker.recorder.task(pair) for pair in PAIRS] * 2
    metrics = []
    for way, overlaps in (("warm-up", False), ("in turn", False), ("beside", True)):
        worker.overlaps = overlaps
        results, seconds = place.timed(lambda: list(crew.run(tasks)))
        numbers[f"seconds a pair {way}"] = seconds / len(tasks)
        metrics.append([record.metrics for _, result in results for record in result.records])
        _scored([record for _, result in results for record in result.records], len(tasks))
    for one, other in zip(*metrics[1:], strict=True):
        apart = max(_apart(one[key], other[key]) for key in one)
        expect(apart <= DIFFERENCE, f"a metric differs by {apart:.2g}, at most {DIFFERENCE}")


def _scored(records: Sequence[Record], count: int) -> None:
    for record in records:
        expect(record.status == "ok", f"{record.setting.method} fails: {record.reason}")
        values = [value for value in record.metrics.values() if value is not None]
        expect(bool(np.isfinite(values).all()), f"{record.setting.method} has metrics that are not finite")
    expect(len(records) == count, f"{len(records)} records, expected {count}")


def against_the_plain_loop(dtype: str, place: Place, numbers: Numbers) -> None:
    """``riebench bench``: the least work, the plain loop's numbers, and in less time."""
    model = rewrapped(place.model("sdxl-turbo", dtype), place)  # whose prompts are still to be encoded
    tiny = place.size == "tiny"
    pairs = PAIRS[: 1 if tiny else 2]
    request, handed_in = request_of(
        model, place, preset="bench", steps=1 if tiny else None, masks=halves if tiny else None
    )
    place.start_measuring()
    result = bench(request, pairs, handed_in=handed_in)
    records = result.pairs * result.settings
    numbers |= {
        "times as fast": result.plain.seconds / result.engine.seconds,
        "seconds a record": result.engine.seconds / records,
        "in the plain loop": result.plain.seconds / records,
        "share outside networks": result.engine.outside,
        "share of its FLOPs": result.engine.flops / result.plain.flops,
        "largest difference": result.difference,
    }
    for bar in result.bars:
        if "passes" in bar.name:
            expect(bar.met, f"{bar.name}: {bar.value:g}, expected {bar.bar}")
    expect(result.difference <= SHARED[dtype], f"a metric differs by {result.difference:.2g}, at most {SHARED[dtype]}")
    expect(result.engine.seconds < result.plain.seconds, "the engine is slower than the plain loop")


def main_job(place: Place, numbers: Numbers) -> None:
    """``riebench run`` on mini gives the CPU's metrics to rounding."""
    job = ["run", "--method", "sae", "--block", "down.2.1", "--limit", "2", "--keep-images", "0"]
    if place.size == "tiny":
        job += ["--category", "1", "--category", "6", "--limit", "1"]
    runs = []
    for number, device in enumerate(("cpu", str(place.device))):
        out = place.work / f"main-job-{number}"
        words = [*job, "--device", device, "--out", str(out)]
        _, numbers[f"seconds on {device}"] = place.timed(lambda words=words: _command(words))
        runs.append({record.key: record for record in read_records(out)})
    expect(runs[0].keys() == runs[1].keys(), "the records have other keys than on the CPU")
    _scored(list(runs[1].values()), len(runs[0]))
    numbers |= {"records": len(runs[0])}
    for name in next(iter(runs[0].values())).metrics:
        values = [(run[key].metrics[name] for key in runs[0]) for run in runs]
        apart = np.array([_apart(a, b) for a, b in zip(*values, strict=True)])
        verdict = name in VERDICT_NAMES
        mean, most = (VERDICTS, 1.0) if verdict else (MEAN, MOST)
        kind = "verdict" if verdict else "metric"
        for how, value in (("mean", apart.mean()), ("largest", apart.max())):
            key = f"{how} difference of a {kind}"
            numbers[key] = max(float(value), float(numbers.get(key, 0.0)))
        expect(apart.mean() <= mean and apart.max() <= most, f"{name}: mean {apart.mean():.2g}, most {apart.max():.2g}")


def _apart(a: float | None, b: float | None) -> float:
    if a is None or b is None:
        return 0.0 if a is b else float("inf")
    return abs(a - b)


def _command(words: list[str]) -> None:
    """The command line in this process, without its table."""
    with suppress(SystemExit), redirect_stdout(StringIO()):  # records say what failed
        main(words)
