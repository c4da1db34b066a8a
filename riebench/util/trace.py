"""Where time and memory go: code says which stage it is in, and a trace that is on times it. Needs no torch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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


_TRACE: ContextVar[Trace | None] = ContextVar("trace", default=None)


@contextmanager
def tracing() -> Iterator[Trace]:
    """Time the stages of this process inside the ``with`` statement."""
    trace = Trace()
    before = _TRACE.set(trace)
    try:
        yield trace
    finally:
        _TRACE.reset(before)


def stage(name: str) -> AbstractContextManager[None]:
    """A stage of the work, as a ``with`` statement; timed if a trace is on."""
    trace = _TRACE.get()
    return nullcontext() if trace is None else _timing(trace, name)


@contextmanager
def _timing(trace: Trace, name: str) -> Iterator[None]:
    started = time.perf_counter()
    times = trace.stages.setdefault(name, Times())
    try:
        yield
    finally:
        times.count += 1
        times.seconds += time.perf_counter() - started
        times.memory = psutil.Process().memory_info().rss
