"""Work that can be shared out on this machine: done in this process, or by actors of Ray that it starts."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from riebench.util.errors import UserError

Asked_co = TypeVar("Asked_co", covariant=True)
Result_co = TypeVar("Result_co", covariant=True)


class Worker(Protocol[Asked_co, Result_co]):
    """Works off tasks, which are known by their numbers. What it is asked and what it gives go from process to process.

    Attributes:
        asked: what the tasks belong to, with what only a loaded worker knows.
    """

    @property
    def asked(self) -> Asked_co: ...

    def work(self, task: int) -> Result_co: ...


class Crew(Protocol[Asked_co, Result_co]):
    """One worker or several.

    Attributes:
        asked: see :class:`Worker`.
    """

    @property
    def asked(self) -> Asked_co: ...

    def run(self, tasks: Sequence[int]) -> Iterator[tuple[int, Result_co]]:
        """Work tasks off, in the order in which they are done.

        Raises:
            UserError: if a worker says so or died; what the others have under way is finished first.
        """


@contextmanager
def local_crew(make: Callable[[], Worker[Asked_co, Result_co]], workers: int) -> Iterator[Crew[Asked_co, Result_co]]:
    """Workers that are let go at the end of the ``with`` statement.

    Args:
        make: makes a worker; called in the process that it works in.
        workers: how many; 1 works in this process. Cores and GPUs are split evenly.

    Raises:
        UserError: if Ray is needed and not installed, or a worker cannot be made.
    """
    if workers == 1:
        yield _Alone(make())
        return
    crew: _Actors[Asked_co, Result_co] = _Actors()
    try:
        crew.hire(make, workers)
        yield crew
    finally:
        crew.close()


class _Alone(Generic[Asked_co, Result_co]):
    """A worker in this process."""

    def __init__(self, worker: Worker[Asked_co, Result_co]) -> None:
        self.worker, self.asked = worker, worker.asked

    def run(self, tasks: Sequence[int]) -> Iterator[tuple[int, Result_co]]:
        for task in tasks:
            yield task, self.worker.work(task)


@dataclass(frozen=True)
class _Fault:
    """Why something cannot be done: a :class:`UserError` on its way between processes."""

    reason: str


class _Actor:
    """What runs in an actor's process."""

    def __init__(self, make: Callable[[], Worker[Any, Any]], threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.make = make
        self.worker: Worker[Any, Any] | None = None

    def asked(self) -> Any:
        """What is asked of the worker, or why it cannot be made."""
        try:
            self.worker = self.make()
        except UserError as error:
            return _Fault(str(error))
        return self.worker.asked

    def work(self, task: int) -> Any:
        """Work a task off, or say why that is not possible."""
        assert self.worker is not None
        try:
            return self.worker.work(task)
        except UserError as error:
            return _Fault(str(error))


class _Actors(Generic[Asked_co, Result_co]):
    """Workers that are actors of Ray."""

    asked: Asked_co

    def __init__(self) -> None:
        try:
            import ray
        except ImportError:
            raise UserError("workers need Ray; install it with: pip install 'riebench[ray]'") from None
        self.ray = ray
        self.started = not ray.is_initialized()
        self.actors: list[Any] = []
        if self.started:
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            ray.init(address="local", log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)

    def hire(self, make: Callable[[], Worker[Asked_co, Result_co]], workers: int) -> None:
        """Make the workers."""
        there = self.ray.cluster_resources()
        cpus, gpus = (there.get(name, 0.0) / workers for name in ("CPU", "GPU"))
        path = os.pathsep.join(dict.fromkeys([os.getcwd(), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]))
        hired: Any = self.ray.remote(_Actor)
        remote = hired.options(num_cpus=cpus, num_gpus=gpus, runtime_env={"env_vars": {"PYTHONPATH": path}})
        self.actors += [remote.remote(make, max(1, int(cpus))) for _ in range(workers)]
        self.asked, *_ = map(self._checked, self._get([actor.asked.remote() for actor in self.actors]))

    def run(self, tasks: Sequence[int]) -> Iterator[tuple[int, Result_co]]:
        waiting, idle = list(reversed(tasks)), list(self.actors)
        flying: dict[Any, tuple[Any, int]] = {}
        fault: UserError | None = None
        while flying or (waiting and fault is None):
            while idle and waiting and fault is None:
                actor, task = idle.pop(), waiting.pop()
                flying[actor.work.remote(task)] = actor, task
            [done], _ = self.ray.wait(list(flying), num_returns=1)
            actor, task = flying.pop(done)
            try:
                result = self._checked(self._get([done])[0])
            except UserError as error:
                fault = fault or error
                continue
            idle.append(actor)
            yield task, result
        if fault is not None:
            raise fault

    def _get(self, calls: Sequence[Any]) -> list[Any]:
        try:
            found: list[Any] = self.ray.get(list(calls))
        except self.ray.exceptions.RayError as error:
            said = str(error).strip().splitlines()[-1]
            raise UserError(f"a worker died ({said}); the same command goes on") from None
        return found

    def _checked(self, result: Any) -> Any:
        if isinstance(result, _Fault):
            raise UserError(result.reason)
        return result

    def close(self) -> None:
        """Let the workers go, and Ray if it was started here."""
        for actor in self.actors:
            self.ray.kill(actor)
        if self.started:
            self.ray.shutdown()
