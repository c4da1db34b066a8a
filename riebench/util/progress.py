"""Long work: how far it is, how long the next will take. Needs no torch."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from riebench.util.files import keep_facts, read_facts

log = logging.getLogger(__name__)
EVERY = 20.0  # seconds between lines where there is no terminal
TIMINGS = "timings.json"
Track = Callable[[Iterable[int]], Iterable[int]]
"""Passes numbers on and shows how far they are, as :func:`tracked` does; ``iter`` shows nothing."""


class Advance(Protocol):
    """Moves a bar on by one unit, in which ``count`` things were done."""

    def __call__(self, count: int = 1) -> None: ...


@contextmanager
def progress_bar(
    title: str, total: int, *, counted: str = "", console: Console | None = None, quiet: bool = False
) -> Iterator[Advance]:
    """A bar on standard error with rate and time left; gives a function to call when a unit is done.

    Without a terminal a line is logged every :data:`EVERY` seconds, and the bar is printed once at the end.

    Args:
        title: the name of the units, in the plural: ``pairs``.
        total: number of units, which may be done in any order.
        counted: the name of the things that the rate counts, in the plural, if these are not the units.
        console: where the bar is drawn.
        quiet: whether to show nothing.
    """
    console = console or Console(stderr=True, quiet=quiet)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    lines = not console.is_terminal and not console.quiet
    started = last = time.perf_counter()
    done = things = 0

    def advance(count: int = 1) -> None:
        nonlocal done, things, last
        done, things, now = done + 1, things + count, time.perf_counter()
        rate = f"{things / max(1e-9, now - started):.1f}{counted and f' {counted}'}/s"
        bar.update(task, advance=1, rate=rate)
        if lines and done < total and now - last >= EVERY:
            last, left = now, (now - started) / done * (total - done)
            log.info("%s: %d of %d, %s, about %.0f s left", title, done, total, rate, left)

    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=total, rate="")
        yield advance


def tracked(title: str) -> Track:
    """A :data:`Track` with a :func:`progress_bar` of a title."""

    def track(numbers: Iterable[int]) -> Iterator[int]:
        every = list(numbers)
        with progress_bar(title, len(every)) as advance:
            for number in every:
                yield number
                advance()

    return track


def keep_timing(work: str, device: str, seconds: float, passes: int) -> None:
    """Keep how many seconds a pass of a picture through a model took on a device, for the plan of the next run.

    Args:
        work: names the model and what else its time depends on; nothing is kept if it is empty.
        device: that computed.
        seconds: of all passes.
        passes: their number.
    """
    if work:
        keep_facts(TIMINGS, {work: timings(work) | {device: seconds / max(1, passes)}})


def timings(work: str) -> dict[str, float]:
    """Device to seconds for each pass, as the last run of the same work on it measured; empty if none is known."""
    kept = read_facts(TIMINGS).get(work)
    by_device = kept.items() if isinstance(kept, dict) else ()
    return {device: float(seconds) for device, seconds in by_device if isinstance(seconds, int | float) and seconds > 0}
