"""Who works the tasks of a run off: this process, or the actors of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import psutil

from riebench.engine.instruments import Given
from riebench.engine.pair import PairResult, PairWorker
from riebench.engine.recording import Task
from riebench.engine.resume import Survey
from riebench.pairs import Pair
from riebench.spec.request import Request
from riebench.util.errors import UserError

Ending = Callable[[], bool]
"""Whether to begin no further task."""


@dataclass(frozen=True)
class Workers:
    """How many workers there are and what each gets.

    Attributes:
        count: number of workers; 1 without an address works in this process, without Ray.
        address: of a running Ray cluster, or ``auto``; None starts one on this machine.
        gpus: for each worker; None splits the GPUs evenly.
        cpus: for each worker; None splits the cores evenly.
    """

    count: int = 1
    address: str | None = None
    gpus: float | None = None
    cpus: float | None = None


class Crew(Protocol):
    """Does the work of a run."""

    def survey(self, pairs: Sequence[Pair]) -> Survey:
        """The run as its workers know it."""
        ...

    def run(self, tasks: Sequence[Task], ending: Ending) -> Iterator[tuple[Task, PairResult]]:
        """Work tasks off."""
        ...

    def close(self) -> None:
        """Let the workers go."""


class LocalCrew:
    """This process alone; see :class:`Crew`."""

    def __init__(self, request: Request, given: Given | None = None) -> None:
        self.worker = PairWorker(request, given)

    def survey(self, pairs: Sequence[Pair]) -> Survey:
        """The run as its worker knows it."""
        instruments, request = self.worker.instruments, self.worker.request
        shared = {
            "arms": [
                {"method": c.method, "options": c.options, "blocks": list(c.sites), "strengths": list(c.strengths)}
                for c in request.conditions
            ],
            "steps": request.steps,
            "model": request.model,
            "protocol": request.protocol,
            "parts": instruments.parts,
            "conditions": dict(instruments.conditions),
            "metric_names": {name: part.name for name, part in instruments.scorers._asdict().items()},
        }
        return Survey.of(
            self.worker.recorder,
            pairs,
            shared=shared,
            locations=dict(instruments.locations),
            device=str(instruments.model.device),
            bytes=psutil.Process().memory_info().rss,
        )

    def run(self, tasks: Sequence[Task], ending: Ending) -> Iterator[tuple[Task, PairResult]]:
        """Work tasks off in order."""
        for task in tasks:
            if ending():
                return
            yield task, self.worker.work(task)

    def close(self) -> None:
        """There is nothing to let go."""


def hire(request: Request, given: Given | None, workers: Workers) -> Crew:
    """The crew that was asked for.

    Raises:
        UserError: if it cannot be had.
    """
    if workers.count == 1 and workers.address is None:
        return LocalCrew(request, given)
    handed = given.names if given else []
    if handed:
        raise UserError(f"{', '.join(handed)} cannot be handed to other processes; leave out --workers")
    from riebench.engine.ray_crew import RayCrew

    return RayCrew(request, workers)
