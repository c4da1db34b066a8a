"""Where time and memory go: stages of a run, seen only when somebody looks. Needs no torch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import psutil


@dataclass
class Stage:
    """One kind of work.

    Attributes:
        times: how often it was done.
        seconds: in all.
        memory: of the process after it, bytes.
        facts: what was seen the last time, as shapes.
    """

    times: int = 0
    seconds: float = 0.0
    memory: int = 0
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Trace:
    """Stages by name, in the order of their first appearance; an inner stage counts in its outer one too."""

    stages: dict[str, Stage] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """A table as text: stage, times, seconds, memory, facts."""
        rows = [("stage", "times", "seconds", "memory", "")]
        for name, s in self.stages.items():
            facts = ", ".join(f"{key} {value}" for key, value in s.facts.items())
            rows.append((name, str(s.times), f"{s.seconds:.1f}", f"{s.memory / 1e9:.1f} GB", facts))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        return [
            "  ".join([row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in (1, 2, 3)), row[4]]) for row in rows
        ]


_ACTIVE: ContextVar[Trace | None] = ContextVar("trace", default=None)


@contextmanager
def tracing() -> Iterator[Trace]:
    """Look at the stages inside the ``with`` statement."""
    trace = Trace()
    token = _ACTIVE.set(trace)
    try:
        yield trace
    finally:
        _ACTIVE.reset(token)


@contextmanager
def stage(name: str) -> Iterator[dict[str, Any]]:
    """One piece of work; facts can be put into what it yields."""
    trace = _ACTIVE.get()
    facts: dict[str, Any] = {}
    if trace is None:
        yield facts
        return
    started = time.perf_counter()
    try:
        yield facts
    finally:
        found = trace.stages.setdefault(name, Stage())
        found.times += 1
        found.seconds += time.perf_counter() - started
        found.memory = psutil.Process().memory_info().rss
        found.facts |= facts
