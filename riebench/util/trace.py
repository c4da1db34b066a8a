"""Where time and memory go: a trace times the stages of the work. Needs no torch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import psutil


@dataclass
class Times:
    """The measurements of one stage.

    Attributes:
        count: how often it was gone through.
        seconds: in all.
        memory: of the process after it, bytes.
    """

    count: int = 0
    seconds: float = 0.0
    memory: int = 0


@dataclass
class Trace:
    """Stages by name, in the order of their first appearance; an inner stage counts in its outer one too."""

    stages: dict[str, Times] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """A table as text: stage, times, seconds, memory."""
        rows = [("stage", "times", "seconds", "memory")]
        for name, times in self.stages.items():
            rows.append((name, str(times.count), f"{times.seconds:.1f}", f"{times.memory / 1e9:.1f} GB"))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        return ["  ".join([row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in (1, 2, 3))]) for row in rows]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage of the work inside the ``with`` statement."""
        started = time.perf_counter()
        times = self.stages.setdefault(name, Times())
        try:
            yield
        finally:
            times.count += 1
            times.seconds += time.perf_counter() - started
            times.memory = psutil.Process().memory_info().rss


TRACE: ContextVar[Trace | None] = ContextVar("trace", default=None)
"""The trace of the workers that are made in this process; None if nothing is timed."""


@contextmanager
def tracing() -> Iterator[Trace]:
    """Time the stages of the workers that are made inside the ``with`` statement, if they are of this process."""
    trace = Trace()
    before = TRACE.set(trace)
    try:
        yield trace
    finally:
        TRACE.reset(before)
