"""Where time and memory go: functions are timed while somebody looks. Needs no torch."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import psutil


@dataclass
class Stage:
    """One kind of work.

    Attributes:
        times: how often it was done.
        seconds: in all.
        memory: of the process after it, bytes.
    """

    times: int = 0
    seconds: float = 0.0
    memory: int = 0


@dataclass
class Trace:
    """Stages by name, in the order of their first appearance; an inner stage counts in its outer one too."""

    stages: dict[str, Stage] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """A table as text: stage, times, seconds, memory."""
        rows = [("stage", "times", "seconds", "memory")]
        for name, s in self.stages.items():
            rows.append((name, str(s.times), f"{s.seconds:.1f}", f"{s.memory / 1e9:.1f} GB"))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        return ["  ".join([row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in (1, 2, 3))]) for row in rows]


@contextmanager
def tracing(functions: Mapping[str, str]) -> Iterator[Trace]:
    """Time functions inside the ``with`` statement.

    Args:
        functions: name of the stage to ``module:function`` or ``module:Class.function``.
    """
    trace = Trace()
    with ExitStack() as stack:
        for name, target in functions.items():
            module, _, path = target.partition(":")
            owner: Any = importlib.import_module(module)
            *outer, attribute = path.split(".")
            for part in outer:
                owner = getattr(owner, part)
            own = getattr(owner, attribute)
            stack.callback(setattr, owner, attribute, own)
            setattr(owner, attribute, _timed(own, trace, name))
        yield trace


def _timed(function: Callable[..., Any], trace: Trace, name: str) -> Callable[..., Any]:
    @wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        found = trace.stages.setdefault(name, Stage())
        try:
            return function(*args, **kwargs)
        finally:
            found.times += 1
            found.seconds += time.perf_counter() - started
            found.memory = psutil.Process().memory_info().rss

    return timed
