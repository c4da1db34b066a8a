"""Draw the figures of a large report in further processes, while this one writes tables and page."""

from __future__ import annotations

import logging
import signal
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from copy import copy
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Any, NamedTuple, Self

from riebench.report.analysis import Analysis
from riebench.report.style import FIGURE_NAMES

log = logging.getLogger(__name__)
MANY = 20_000
"""Records from which further processes are started: fewer are reported before these are ready."""
MOST = 3  # further processes: one figure takes a third of all


class _Task(NamedTuple):
    """A figure to draw."""

    name: str
    analysis: Analysis
    folder: Path


class Artists:
    """Draws figures: in further processes from the moment they are asked for, and here once they are waited for.

    Args:
        records: number of records of the report; few are drawn here alone.
    """

    def __init__(self, records: int) -> None:
        self._left: deque[_Task] = deque()
        self._under_way: list[tuple[_Task, Future[None]]] = []
        self._lock = RLock()
        self._pool, self._idle = _further_processes(records)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._left.clear()
        if self._pool:
            self._pool.shutdown(wait=True, kill_workers=kind is not None)

    @property
    def beside(self) -> bool:
        """Whether figures are drawn in further processes."""
        return self._pool is not None

    def draw(self, analysis: Analysis, folder: Path) -> None:
        """Ask for the figures of an analysis."""
        analysis = _slim(analysis)
        self._left.extend(_Task(name, analysis, folder) for name in FIGURE_NAMES)
        while self._left and self._idle:
            self._idle -= 1
            self._next()

    def finish(self, step: Callable[[str], None]) -> None:
        """Draw the figures that no process has begun, and wait for the others; ``step`` is called after each.

        Raises:
            OSError: if a file cannot be written.
        """
        while task := self._next_here():
            _draw(*task)
            step(task.name)
        for task, drawn in self._under_way:
            try:
                drawn.result()
            except RuntimeError as error:  # its process died
                log.debug("a further process ended (%s)", error)
                _draw(*task)
            step(task.name)

    def _next_here(self) -> _Task | None:
        """The next figure to draw here: in order, or from the end if further processes begin at the front."""
        with self._lock:
            if not self._left:
                return None
            return self._left.pop() if self._pool else self._left.popleft()

    def _next(self, _: Future[None] | None = None) -> None:
        """Give a further process the next figure; called in the thread that learns that one is done."""
        with self._lock, suppress(RuntimeError):  # its processes died: what is left is drawn here
            if self._left:
                drawn = self._pool.submit(_draw, *self._left[0])
                self._under_way.append((self._left.popleft(), drawn))
                drawn.add_done_callback(self._next)


def _further_processes(records: int) -> tuple[Any, int]:
    """A pool of processes that import what figures need, and their number; None and 0 for a small report."""
    if records < MANY:
        return None, 0
    from loky import ProcessPoolExecutor, cpu_count

    count = min(MOST, cpu_count() - 1)
    if count < 1:
        return None, 0
    pool = ProcessPoolExecutor(count, initializer=_get_ready)
    for _ in range(count):
        pool.submit(_get_ready)
    return pool, count


def _get_ready() -> None:
    """Import what figures need. A Ctrl-C of the terminal is for the first process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import riebench.report.figures  # noqa: F401


def _draw(name: str, analysis: Analysis, folder: Path) -> None:
    from riebench.report.figures import draw

    draw(name, analysis, folder)


def _slim(analysis: Analysis) -> Analysis:
    """An analysis without what figures do not use, so that it is quick to pass on."""
    slim, group = copy(analysis), copy(analysis.group)
    group.frame, group.sources = group.frame[[]], {}
    slim.group, slim.arms, slim.reached = group, [copy(arm) for arm in analysis.arms], analysis.reached.iloc[:0]
    for arm in slim.arms:
        arm.records, arm.values, arm.points, arm.tried = arm.records.iloc[:0], {}, {}, arm.tried[:0]
    return slim
