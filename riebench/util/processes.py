"""Work that is done in this process and, where it is long, in further processes of this machine too."""

from __future__ import annotations

import logging
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import psutil

from riebench.util.errors import UserError

log = logging.getLogger(__name__)
LONG = 15.0
"""Seconds of work ahead from which further processes are started; they need a third of it to load the models."""
EACH = 2e9
"""Bytes that a further process may need which is started before this process shows how much it needs."""
SMALL = 3e9
"""Bytes of this process up to which it is copied: larger models keep all cores of a machine busy by themselves."""
IDLE = 30.0
"""Seconds without a task after which a further process ends, also if this process was killed."""


class Copyable(Protocol):
    """A worker that may have copies in further processes.

    Attributes:
        copies: whether it may.
    """

    copies: bool

    def work(self, task: Any) -> Any:
        """The result of a task, or a UserError if neither it nor any later task can be done."""


@runtime_checkable
class InTwoStages(Protocol):
    """A worker whose tasks have a second stage, which can be done beside the first stage of the next task.

    Attributes:
        overlaps: whether this saves time.
    """

    overlaps: bool

    def begin(self, task: Any) -> Callable[[], Any]:
        """Do the first stage; the result does the second one, in any thread, and gives what ``work`` gives."""


W = TypeVar("W", bound=Copyable)
Answer = TypeVar("Answer")


class HereAndBeside(Generic[W]):
    """A worker in this process, and copies of it in further processes; a crew of :mod:`riebench.util.workers`.

    Results come in the order of the tasks, whichever process made them. If a further process dies, this one goes on
    alone.

    Args:
        make: makes a worker; called in the process that it works in.
        alone: whether no further process is started.
        early: whether the work is known to be long and the models to be small, so that further processes load them
            while this one does.

    Raises:
        UserError: if the worker cannot be made.
    """

    def __init__(self, make: Callable[[], W], alone: bool, early: bool = False) -> None:
        self._make, self._stopped = make, False
        self._copies = self._start(EACH) if early and not alone else None
        try:
            self._worker = make()
            if self._copies:
                self._copies.share_cores()
        except BaseException:
            self.close()
            raise
        self.local: W | None = self._worker
        self._may_be_copied = not (alone or self._copies) and self._worker.copies
        if not self._worker.copies:
            self.close()

    def ask(self, question: Callable[[W], Answer]) -> Answer:
        """The answer of the worker in this process."""
        return question(self._worker)

    def stop(self) -> None:
        """Begin no further task; the tasks under way are still finished and given."""
        self._stopped = True

    def run(self, tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Each task with its result, in order.

        Raises:
            UserError: if a worker raises one; the tasks under way are finished first.
        """
        several = list(tasks)
        waiting, results = deque(range(len(several))), dict[int, Any]()
        copies = self._copies
        fault: UserError | None = None
        number, started = 0, time.perf_counter()
        here = _Here(self._worker)
        try:
            while (waiting and not self._stopped) or here.later or (copies and copies.calls):
                if waiting and not self._stopped:
                    place = waiting.popleft()
                    try:
                        results |= here.work(place, several[place])
                    except UserError as error:
                        fault, self._stopped = fault or error, True
                else:
                    results |= here.rest()
                if copies is None:
                    each = (time.perf_counter() - started) / (number + 1)
                    copies = self._copy() if self._may_be_copied and each * len(waiting) > LONG else None
                if copies:
                    copies.take(waiting, several, results, rest=self._stopped or not waiting)
                    fault, self._stopped = fault or copies.fault, self._stopped or copies.fault is not None
                    if not self._stopped:
                        copies.give(waiting, several)
                while number in results:
                    yield several[number], results.pop(number)
                    number += 1
            for place in sorted(results):  # a fault left out one before them
                yield several[place], results[place]
        finally:
            here.close()
            self.close()
        if fault:
            raise fault

    def close(self) -> None:
        """End the further processes."""
        copies, self._copies = self._copies, None
        if copies:
            copies.close()

    def _copy(self) -> _Copies | None:
        """A copy for each further core; None if the models are large or there is no room for a copy."""
        self._may_be_copied = False  # decided once
        memory = psutil.Process().memory_info().rss
        self._copies = self._start(memory) if memory < SMALL else None
        if self._copies:
            self._copies.share_cores()
        return self._copies

    def _start(self, memory: float) -> _Copies | None:
        """A copy for each further core, as far as there are so many bytes for each; None without any."""
        from loky import cpu_count

        cores: int = cpu_count(only_physical_cores=True)
        count = min(cores - 1, int(psutil.virtual_memory().available // memory))
        return _Copies(self._make, count) if count > 0 else None


class _Here:
    """The worker of this process. Of one that overlaps, the second stage of a task is done in a thread.

    Attributes:
        later: the place of the task that is in its second stage, and its result to come.
    """

    def __init__(self, worker: Copyable) -> None:
        self._worker = worker
        self.later: tuple[int, Future[Any]] | None = None
        self._thread = ThreadPoolExecutor(1)

    def work(self, place: int, task: Any) -> dict[int, Any]:
        """Work a task off; the result, or that of the task before if this one's is still to come, by place.

        Raises:
            UserError: if neither this task nor any later one can be done.
        """
        if not (isinstance(self._worker, InTwoStages) and self._worker.overlaps):
            return {place: self._worker.work(task)}
        second = self._worker.begin(task)
        done = self.rest()
        self.later = place, self._thread.submit(second)
        return done

    def rest(self) -> dict[int, Any]:
        """The result that is still to come, by place."""
        later, self.later = self.later, None
        return {later[0]: later[1].result()} if later else {}

    def close(self) -> None:
        """End the thread after the task that is under way."""
        self._thread.shutdown()


class _Copies:
    """Copies of a worker in further processes, each with one thread.

    Attributes:
        calls: the calls under way, each with the place of its task.
        fault: of a task, that no later task can be done without.
    """

    def __init__(self, make: Callable[[], Any], count: int) -> None:
        from loky import ProcessPoolExecutor

        self.calls: dict[Future[Any], int] = {}
        self.fault: UserError | None = None
        self._pool = ProcessPoolExecutor(
            count, timeout=IDLE, initializer=_load, initargs=(make,), env={"OMP_NUM_THREADS": "1"}
        )
        with _no_interrupts():
            self._ready: Future[Any] = self._pool.submit(_is_ready)
        self._count, self._threads = count, 0

    def share_cores(self) -> None:
        """Leave the processes their cores, until the end."""
        import torch

        self._threads = torch.get_num_threads()
        torch.set_num_threads(max(1, self._threads // (self._count + 1)))

    def give(self, waiting: deque[int], tasks: list[Any]) -> None:
        """Hand out two of the waiting tasks for each process, once a process has loaded the models."""
        while self._ready.done() and waiting and len(self.calls) < 2 * self._count:
            place = waiting.popleft()
            try:
                self.calls[self._pool.submit(_work, tasks[place])] = place
            except RuntimeError as error:  # its processes died
                waiting.appendleft(place)
                self._alone(error, waiting)

    def take(self, waiting: deque[int], tasks: list[Any], results: dict[int, Any], *, rest: bool) -> None:
        """Collect the results that are there; with nothing else to do (``rest``) wait for one.

        Tasks of processes that died are put back.
        """
        if rest and self.calls:
            wait(self.calls, return_when=FIRST_COMPLETED)
        for call in [call for call in self.calls if call.done()]:
            place = self.calls.pop(call, None)
            if place is None:
                continue
            error = call.exception()
            if error is None:
                results[place] = call.result()
            elif isinstance(error, UserError):
                self.fault = error
            else:
                waiting.appendleft(place)
                self._alone(error, waiting)

    def _alone(self, error: BaseException, waiting: deque[int]) -> None:
        if self._count:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            log.warning("a further process ended (%s); this one goes on alone", reason)
        self._count = 0
        places = sorted([*waiting, *self.calls.values()])
        self.calls.clear()
        waiting.clear()
        waiting.extend(places)

    def close(self) -> None:
        """End the processes, also in the middle of a task."""
        self._pool.shutdown(wait=True, kill_workers=bool(self.calls) or not self._ready.done())
        if self._threads:
            import torch

            torch.set_num_threads(self._threads)


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Inside the ``with`` statement no Ctrl-C comes, nor ever to processes that start in it: they inherit that."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


_worker: list[Any] = []
"""The worker of a further process, once it is made."""


def _load(make: Callable[[], Any]) -> None:
    """Make the worker of a further process. A Ctrl-C of the terminal is for the first process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    torch.set_num_threads(1)
    logging.disable()  # the first process has said what there is to say of the models
    _worker.append(make())
    logging.disable(logging.NOTSET)
    package, handler = logging.getLogger("riebench"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("riebench: %(message)s"))
    package.addHandler(handler)
    package.propagate = False  # open_clip gives the root logger a handler, which would print each message again


def _is_ready() -> bool:
    return bool(_worker)


def _work(task: Any) -> Any:
    return _worker[0].work(task)
