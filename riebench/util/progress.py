"""How far a run is, and how long the next one will take. Needs no torch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from riebench.util.files import keep_facts, read_facts

EVERY = 20.0  # seconds between lines where there is no terminal
TIMINGS = "timings.json"


@contextmanager
def run_progress(pairs: int, settings: int, console: Console) -> Iterator[Callable[[int], None]]:
    """Show how far a run is, with the time left; gives a function to call with the number of records of each pair.

    Args:
        pairs: how many there are; they may be done in any order.
        settings: how many records a pair has.
        console: where the bar is drawn; a quiet one shows nothing.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("pairs, {task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    lines = not console.is_terminal and not console.quiet
    started = last = time.perf_counter()
    done = records = 0

    def advance(count: int) -> None:
        nonlocal done, records, last
        done, records, now = done + 1, records + count, time.perf_counter()
        rate = f"{records / max(1e-9, now - started):.1f} records/s"
        bar.update(task, advance=1, rate=rate)
        if lines and now - last >= EVERY:
            last, left = now, (now - started) / done * (pairs - done)
            text = f"{done} of {pairs} pairs, {rate}, about {left:.0f} s left"
            print(f"riebench: {text}", file=sys.stderr, flush=True)

    with Progress(*columns, console=console) as bar:
        task = bar.add_task(f"{pairs} pairs x {settings} settings", total=pairs, rate="")
        yield advance


def keep_timing(model: str, device: str, seconds: float, rows: int) -> None:
    """Keep how many seconds a row of a model's passes took on a device, for the plan of the next run."""
    keep_facts(TIMINGS, read_facts(TIMINGS) | {f"{model} {device}": seconds / max(1, rows)})


def timings(model: str) -> dict[str, float]:
    """Device to seconds for each row, as the last run of a model on it measured."""
    kept = {tuple(key.split(" ", 1)): value for key, value in read_facts(TIMINGS).items()}
    return {device: seconds for (name, device), seconds in kept.items() if name == model}
