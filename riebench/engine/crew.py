"""Who works the tasks of a run off: this process, or the actors of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from riebench.engine.instruments import Given
from riebench.engine.pairwork import PairResult
from riebench.engine.run import RunSpec, check_truth, prepare
from riebench.engine.survey import Survey, survey
from riebench.engine.tasks import Task
from riebench.util.errors import UserError
from riebench.pairs import Pair
from riebench.records import Record


@dataclass(frozen=True)
class Workers:
    """How many workers there are and what each gets.

    Attributes:
        count: number of workers; 1 without an address works in this process, without Ray.
        address: of a Ray cluster that is running, or ``auto``; None starts one on this machine.
        gpus: for each worker; None shares out what there is.
        cpus: for each worker; None shares out this machine's.
    """

    count: int = 1
    address: str | None = None
    gpus: float | None = None
    cpus: float | None = None

    @property
    def ray(self) -> bool:
        """Whether Ray is needed."""
        return self.count > 1 or self.address is not None


class Crew(Protocol):
    """Does the work of a run."""

    def check(self, pairs: Sequence[Pair]) -> None:
        """Refuse pairs that the model's world cannot judge (UserError)."""

    def survey(
        self, pairs: Sequence[Pair], before: Sequence[Record], kept: Collection[str], retry_failed: bool, folder: Path
    ) -> Survey:
        """See :func:`riebench.engine.survey.survey`."""
        ...

    def run(self, tasks: Sequence[Task], ending: Callable[[], bool]) -> Iterator[tuple[Task, PairResult]]:
        """Work tasks off; once ``ending`` says so no further one is begun."""
        ...

    def close(self) -> None:
        """Let the workers go."""


class LocalCrew:
    """This process alone.

    Args:
        spec: what to run.
        given: loaded parts.

    Raises:
        UserError: if it cannot be run.
    """

    def __init__(self, spec: RunSpec, given: Given | None) -> None:
        self.instruments, self.worker = prepare(spec, given)

    def check(self, pairs: Sequence[Pair]) -> None:
        """Refuse pairs that the model's world cannot judge."""
        check_truth(self.instruments, self.worker, pairs)

    def survey(
        self, pairs: Sequence[Pair], before: Sequence[Record], kept: Collection[str], retry_failed: bool, folder: Path
    ) -> Survey:
        """See :func:`riebench.engine.survey.survey`."""
        return survey(self.worker, pairs, before, kept, retry_failed, folder)

    def run(self, tasks: Sequence[Task], ending: Callable[[], bool]) -> Iterator[tuple[Task, PairResult]]:
        """Work tasks off in order."""
        for task in tasks:
            if ending():
                return
            yield task, self.worker.work(task.pair, task.keep_images, task.keys)

    def close(self) -> None:
        """Nothing to let go."""


def gather(spec: RunSpec, given: Given | None, workers: Workers) -> Crew:
    """The crew that was asked for.

    Raises:
        UserError: if it cannot be had.
    """
    if not workers.ray:
        return LocalCrew(spec, given)
    handed = [name for name, value in vars(given or Given()).items() if value is not None]
    if handed:
        raise UserError(f"{', '.join(handed)} cannot be handed to other processes; leave out --workers")
    from riebench.engine.ray_crew import RayCrew

    return RayCrew(spec, workers)
