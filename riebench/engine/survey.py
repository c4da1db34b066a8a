"""What a worker knows of a run before it starts; plain data, so that another process can say it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from riebench.engine.pairwork import PairWorker
from riebench.engine.run import describe
from riebench.engine.tasks import Task, open_tasks, refuse_other_runs
from riebench.pairs import Pair
from riebench.records import Record


@dataclass(frozen=True)
class Survey:
    """A run as its worker sees it.

    Attributes:
        tasks: what is left to do.
        keys: pair id to the keys of all its records that were asked for.
        seeds: pair id to the seed of its runs.
        shared: what all records of the folder share, see :func:`riebench.engine.run.describe`.
        sources: where the parts of the model were found.
        device: that the worker computes on.
    """

    tasks: list[Task]
    keys: dict[str, tuple[str, ...]]
    seeds: dict[str, int]
    shared: dict[str, Any]
    sources: dict[str, str]
    device: str


def survey(
    worker: PairWorker,
    pairs: Sequence[Pair],
    before: Sequence[Record],
    kept: Collection[str],
    retry_failed: bool,
    folder: Path,
) -> Survey:
    """Look at what is to be done.

    Args:
        worker: that would do it.
        pairs: that were chosen.
        before: the records that are there already.
        kept: ids of the pairs whose pictures are kept.
        retry_failed: whether to repeat what failed.
        folder: of the run, to be named in errors.

    Raises:
        UserError: if the records that are there cannot stand beside those to come.
    """
    refuse_other_runs(worker, pairs, before, folder)
    there: dict[str, str] = {record.key: record.status for record in before}
    return Survey(
        tasks=open_tasks(worker, pairs, there, lambda pair: pair.id in kept, retry_failed),
        keys={pair.id: tuple(worker.keys(pair)) for pair in pairs},
        seeds={pair.id: worker.recorder.seed_of(pair) for pair in pairs},
        shared=describe(worker),
        sources=dict(worker.instruments.sources),
        device=str(worker.instruments.denoiser.device),
    )
