"""Carry a run out: records and pictures into a folder, with a progress bar."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from riebench.engine.instruments import Given
from riebench.engine.run import RunSpec, check_truth, describe, prepare, run
from riebench.pairs import Pair
from riebench.progress import RunProgress
from riebench.records import RunFolder
from riebench.records.code import code_version
from riebench.timings import keep_timing


@dataclass(frozen=True)
class Session:
    """What became of a run.

    Attributes:
        folder: where its records are.
        pairs: how many pairs were run.
        failed: how many records say why there are no metrics.
        seconds: time it took.
    """

    folder: Path
    pairs: int
    failed: int
    seconds: float


def carry_out(
    spec: RunSpec,
    pairs: Sequence[Pair],
    out: Path | None = None,
    keep_images: int = 3,
    force: bool = False,
    pair_file: Path | None = None,
    given: Given | None = None,
    quiet: bool = False,
) -> Session:
    """Run all settings on all pairs and write the run folder.

    Args:
        spec: what to run.
        pairs: on which pairs.
        out: the run folder; a new one under ``runs`` unless given.
        keep_images: pairs of each category whose pictures are kept.
        force: whether to discard a run that is in the folder.
        pair_file: where the pairs come from, for ``run.json``.
        given: loaded parts that replace those of the model's name.
        quiet: whether to show no progress.

    Raises:
        UserError: if it cannot be run, before anything is computed.
    """
    instruments, worker = prepare(spec, given)
    check_truth(instruments, worker, pairs)
    folder = RunFolder(out or Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S"), force)
    content = describe(spec, worker, pairs) | {
        "command": sys.argv,
        "code": code_version(),
        "pair_file": pair_file,
    }
    folder.write_run(content | {"started": _now()})
    images_of, failed, started = first_of_each(pairs, keep_images), 0, time.perf_counter()
    with RunProgress(len(pairs), len(worker.settings), Console(stderr=True, quiet=quiet)) as progress:
        for pair, result in run(worker, pairs, lambda p: p.id in images_of):
            folder.append(result.records)
            for name, image in result.images.items():
                folder.keep_image(f"{pair.id}-{name}", image)
            failed += sum(r.status == "failed" for r in result.records)
            progress.advance()
    seconds = time.perf_counter() - started
    if pairs:
        keep_timing(instruments.name, str(instruments.denoiser.device), seconds / len(pairs), _rows(worker))
    folder.write_run(content | {"finished": _now(), "seconds": round(seconds, 1)})
    return Session(folder.path, len(pairs), failed, seconds)


def _rows(worker: Any) -> int:
    """U-Net rows of a pair: each run's steps, none shared."""
    return int(worker.steps * (2 + len(worker.settings)))


def _now() -> str:
    return datetime.now().isoformat(timespec="seconds")


def first_of_each(pairs: Sequence[Pair], count: int) -> set[str]:
    """Ids of the first pairs of each category."""
    met: Counter[int] = Counter()
    found = set()
    for pair in pairs:
        if met[pair.editing_type_id] < count:
            found.add(pair.id)
        met[pair.editing_type_id] += 1
    return found
