"""Work that is shared out: done in this process, or by actors of a Ray cluster, each of which holds the models once."""

from __future__ import annotations

import logging
import os
import re
import site
import socket
import sys
import sysconfig
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar, cast

import psutil

from riebench.util.errors import UserError
from riebench.util.processes import HereAndBeside

log = logging.getLogger(__name__)
TRIES = 3
"""Worker deaths after which a task is given up; deaths in a row while loading after which no worker is hired."""
PATIENCE = 300.0
"""Seconds that work without any worker waits for a new one."""
QUIET = 60.0
"""Seconds after which a message says that the cluster has no room for all workers yet."""
KNOCKING = 10.0
"""Seconds in which a cluster's address must answer."""
Task = TypeVar("Task")
Result = TypeVar("Result")
Task_contra = TypeVar("Task_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)
Answer = TypeVar("Answer")


class Worker(Protocol[Task_contra, Result_co]):
    """Works tasks off. Tasks and results go from process to process, so they are plain data.

    Attributes:
        copies: whether copies of the worker may work beside it in further processes of the machine.
    """

    copies: bool

    def work(self, task: Task_contra) -> Result_co:
        """The result of a task.

        Raises:
            UserError: if neither this task nor any later one can be done.
        """

    def give_up(self, task: Task_contra, reason: str) -> Result_co:
        """The result of a task whose workers died, or a UserError as of :meth:`work`."""


W = TypeVar("W", bound=Worker[Any, Any])


@dataclass(frozen=True)
class Workers:
    """How many workers there are and what each gets.

    Attributes:
        count: number of workers; 1 without an address works in this process, without Ray.
        beside: whether one worker gets copies in further processes of this machine if the work is long.
        early: whether these processes start at once, because the work is known to be long and the models to be small.
        address: of a running Ray cluster, or ``auto``; None starts one on this machine.
        gpus: for each worker; None splits the GPUs evenly.
        cpus: for each worker; None splits the cores evenly.
    """

    count: int = 1
    address: str | None = None
    gpus: float | None = None
    cpus: float | None = None
    beside: bool = False
    early: bool = False


class Crew(Protocol[W]):
    """The workers of one piece of work.

    Attributes:
        local: the worker in this process; None if the workers are in others.
    """

    local: W | None

    def ask(self, question: Callable[[W], Answer]) -> Answer:
        """The answer of a worker, given in its process."""

    def run(self, tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Each task with its result, in the order in which they are done.

        Raises:
            UserError: if a worker raises one, or all workers are lost; the tasks under way are finished first.
        """

    def stop(self) -> None:
        """Begin no further task; the tasks under way are still finished and given."""


@contextmanager
def hired(
    make: Callable[[], W], workers: Workers, tasks: int, unit: str, name: Callable[[Any], str] = str
) -> Iterator[Crew[W]]:
    """Workers for the ``with`` statement; their processes end with it.

    Args:
        make: makes a worker; called in the process that it works in.
        workers: how many and what each gets.
        tasks: number of tasks; more workers than tasks are not hired.
        unit: the name of a task in messages, in the singular: ``pair``.
        name: gives the name of a task for messages.

    Raises:
        UserError: if Ray is needed and not installed, the cluster cannot be reached or is too small, or a worker cannot
            be made.
    """
    if workers.count < 1:
        raise UserError(f"workers is {workers.count}; expected 1 or more")
    if workers.count > max(1, tasks):
        log.warning("%d workers were asked for; %d are started, one for each %s", workers.count, max(1, tasks), unit)
        workers = replace(workers, count=max(1, tasks))
    if workers.count == 1 and workers.address is None:
        crew: HereAndBeside[W] | RayCrew[W] = HereAndBeside(make, not workers.beside, workers.early)
    else:
        crew = RayCrew(make, workers, unit, name)
    try:
        yield crew
    finally:
        crew.close()


@dataclass(frozen=True)
class _Fault:
    """The text of a UserError on its way between processes."""

    reason: str


class _Actor:
    """What runs in an actor's process."""

    def __init__(self, make: Callable[[], Worker[Any, Any]], threads: int) -> None:
        self.worker: Any = None
        self.fault = ""
        try:
            self.worker = make()
        except UserError as error:
            self.fault = str(error)
        if torch := sys.modules.get("torch"):  # a worker may do without it, as its import takes seconds
            torch.set_num_threads(threads)

    def ready(self) -> str:
        """Why this worker cannot work; empty if it can."""
        return self.fault

    def bytes(self) -> int:
        """Memory that the process holds."""
        return psutil.Process().memory_info().rss

    def ask(self, question: Callable[[Any], Any]) -> Any:
        """The answer of the worker, or a fault."""
        try:
            return question(self.worker)
        except UserError as error:
            return _Fault(str(error))

    def work(self, task: Any, reason: str = "") -> Any:
        """The result of a task, which is given up if there is a reason; or a fault."""
        try:
            return self.worker.give_up(task, reason) if reason else self.worker.work(task)
        except UserError as error:
            return _Fault(str(error))


@dataclass
class _Call:
    """A call that is under way: the task by its place in the list, or (None) a new worker that is loading."""

    actor: Any
    place: int | None
    giving_up: bool = False


class RayCrew(Generic[W]):
    """Workers on this machine or on a cluster; see :class:`Crew`.

    A task whose worker dies goes to another, and a new worker is hired; after :data:`TRIES` deaths it is given up.

    Args:
        make: makes a worker; called in the process that it works in.
        workers: how many, and what each gets.
        unit: the name of a task in messages, in the singular.
        name: gives the name of a task for messages.

    Raises:
        UserError: if Ray is not installed, the cluster cannot be reached or is too small, or a worker cannot load.
    """

    local: W | None = None

    def __init__(self, make: Callable[[], W], workers: Workers, unit: str, name: Callable[[Any], str] = str) -> None:
        try:
            import ray
        except ImportError:
            raise UserError("workers need Ray; install it with: pip install 'riebench[ray]'") from None
        self.ray = ray
        self.make, self.workers, self.unit, self.name = make, workers, unit, name
        self.stopped = False
        self.started = not ray.is_initialized()
        if self.started:
            self._connect()
        self._share_out()
        self.deaths: dict[int, int] = {}  # of workers at each task
        self.died_loading = 0
        self.actors: list[Any] = []
        self._hire_all()

    def _connect(self) -> None:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            _knock(self.workers.address)
            self.ray.init(
                address=self.workers.address or "local",  # None would join a cluster that somebody runs here
                log_to_driver=False,
                logging_level=logging.ERROR,
                include_dashboard=False if self.workers.address is None else None,
            )
        except (OSError, OverflowError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"the Ray cluster {self.workers.address!r} cannot be reached: {reason}") from None

    def _share_out(self) -> None:
        """Set the cores and GPUs of each worker (UserError if the cluster has fewer)."""
        cpus = self._share_of("CPU", self.workers.cpus)
        self.share = {"num_cpus": cpus, "num_gpus": self._share_of("GPU", self.workers.gpus)}
        self.threads = max(1, int(cpus))

    def _share_of(self, name: str, each: float | None) -> float:
        """Each worker's share of a resource: the given one, else an even one, rounded down if it is above 1."""
        total, count = self.ray.cluster_resources().get(name, 0.0), self.workers.count
        if each is None:
            each = float(total // count) or total / count
        if each * count > total + 1e-6:
            raise UserError(f"{count} workers with {each:g} {name} each need more than the {total:g} of the cluster")
        return each

    def _hire(self) -> Any:
        actor: Any = self.ray.remote(_Actor)
        remote = actor.options(**self.share, runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(_own_paths())}})
        return remote.remote(self.make, self.threads)

    def _hire_all(self) -> None:
        """Hire one worker, and as many more as fit: the memory of the first is that of each."""
        self._hire_some(1)
        count = self.workers.count
        if count > 1 and self.workers.address is None:
            each = self.bytes_of_each()
            fitting = 1 + int(psutil.virtual_memory().available // each)
            if fitting < count:
                log.warning("%d workers were asked for; %d fit into memory (%.1f GB each)", count, fitting, each / 1e9)
                count = fitting
        self._hire_some(count - 1)

    def bytes_of_each(self) -> int:
        """Memory that the first worker's process holds."""
        return int(self.ray.get(self.actors[0].bytes.remote()))

    def _hire_some(self, count: int) -> None:
        actors = [self._hire() for _ in range(count)]
        calls = [actor.ready.remote() for actor in actors]
        ready, missing = self.ray.wait(calls, num_returns=len(calls), timeout=QUIET) if calls else ([], [])
        if missing:  # others may use the cluster; it waits until they are done
            log.warning(
                "%d of %d workers are ready; waiting for the cluster to have room for the others (Ctrl-C ends it)",
                len(ready),
                len(calls),
            )
        try:
            faults = self.ray.get(calls)
        except self.ray.exceptions.RayError as error:
            self.close()
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"the models do not fit into the workers: {reason}; use fewer --workers") from None
        if any(faults):
            self.close()
            raise UserError(next(fault for fault in faults if fault))  # once, even if all workers say it
        self.actors += actors

    def ask(self, question: Callable[[W], Answer]) -> Answer:
        answer = self.ray.get(self.actors[0].ask.remote(question))
        if isinstance(answer, _Fault):
            raise UserError(answer.reason)
        return cast(Answer, answer)

    def stop(self) -> None:
        self.stopped = True

    def run(self, tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        several = list(tasks)
        waiting, idle = deque(range(len(several))), list(self.actors)
        calls: dict[Any, _Call] = {}
        fault: UserError | None = None
        while True:
            while idle and waiting and not self.stopped:
                self._begin(idle.pop(), several, waiting.popleft(), calls)
            busy = any(call.place is not None for call in calls.values())
            if not busy and (not waiting or self.stopped):
                break
            call, result = self._next(several, waiting, calls, busy)
            if isinstance(result, _Fault):
                fault, self.stopped = fault or UserError(result.reason), True
            elif call is not None:
                idle.append(call.actor)
                if call.place is not None:
                    yield several[call.place], result
        if fault is not None:
            raise fault

    def _begin(self, actor: Any, tasks: Sequence[Any], place: int, calls: dict[Any, _Call]) -> None:
        deaths = self.deaths.get(place, 0)
        giving_up = deaths >= TRIES
        reason = f"the {self.unit} was given to {deaths} workers and each of them died" if giving_up else ""
        calls[actor.work.remote(tasks[place], reason)] = _Call(actor, place, giving_up)

    def _next(
        self, tasks: Sequence[Any], waiting: deque[int], calls: dict[Any, _Call], busy: bool
    ) -> tuple[_Call | None, Any]:
        """The next call that ends, with its result; None if its worker died or cannot work."""
        if not calls:
            raise UserError("all workers were lost and new ones cannot load; the same command goes on")
        done, _ = self.ray.wait(list(calls), num_returns=1, timeout=None if busy else PATIENCE)
        if not done:
            raise UserError(f"all workers were lost and none came back in {PATIENCE:.0f} s; the same command goes on")
        call = calls.pop(done[0])
        try:
            result = self.ray.get(done[0])
        except self.ray.exceptions.RayActorError as error:
            self._replace(call, str(error).strip().splitlines()[0], tasks, waiting, calls)
            return None, None
        if call.place is None:
            if result:  # it came late and cannot load
                log.warning("a new worker cannot work: %s", result)
                return None, None
            self.died_loading = 0
        return call, result

    def _replace(
        self, call: _Call, reason: str, tasks: Sequence[Any], waiting: deque[int], calls: dict[Any, _Call]
    ) -> None:
        """Give the task of a dead worker to another, and hire a new worker once there is room for it.

        Workers that die as they load, one after the other, are not replaced.
        """
        if call.place is not None:
            self.deaths[call.place] = self.deaths.get(call.place, 0) + (not call.giving_up)
            waiting.appendleft(call.place)
            name = self.name(tasks[call.place])
            log.warning("a worker died at the %s %r (%s); it is given to another", self.unit, name, reason)
        else:
            self.died_loading += 1
            if self.died_loading >= TRIES:
                log.warning("%d new workers died as they loaded (%s); no more are hired", TRIES, reason)
                return
        actor = self._hire()
        self.actors.append(actor)
        calls[actor.ready.remote()] = _Call(actor, None)

    def close(self) -> None:
        """End the workers, and the cluster if it was started here."""
        for actor in self.actors:
            self.ray.kill(actor)
        if self.started:
            self.ray.shutdown()


def _own_paths() -> list[str]:
    """The folders that this program imports from beside Python's own: the current one, a script's, a user's."""
    python = {os.path.realpath(path) + os.sep for path in (*sysconfig.get_paths().values(), *site.getsitepackages())}
    paths = dict.fromkeys(os.path.realpath(path) for path in sys.path)
    return [os.getcwd(), *(path for path in paths if not any(f"{path}{os.sep}".startswith(own) for own in python))]


def _knock(address: str | None) -> None:
    """See that somebody listens at ``host:port``: Ray itself would try for minutes.

    Raises:
        OSError: if nobody does.
    """
    at = re.fullmatch(r"(?:ray://)?([^/]+):(\d{1,5})", address or "")
    if at is not None:
        socket.create_connection((at[1].strip("[]"), int(at[2])), timeout=KNOCKING).close()
