"""Long work: how far it is, how it is stopped, how long the next will take. Needs no torch."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tqdm import tqdm

from riebench.util.files import keep_facts, read_facts

EVERY = 20.0  # seconds between lines where there is no terminal
TIMINGS = "timings.json"
SIGNALS = (signal.SIGINT, signal.SIGTERM)
Track = Callable[[Iterable[int]], Iterable[int]]
"""Passes numbers on and shows how far they are, as :func:`tracked` does; ``iter`` shows nothing."""


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


@contextmanager
def stopping(unit: str = "pair") -> Iterator[list[signal.Signals]]:
    """Inside the ``with`` statement a first Ctrl-C or SIGTERM is a wish, and a second stops at once.

    Args:
        unit: what is finished first.

    Gives a list that holds the signal once somebody has asked for an end. Outside the main thread, where Python takes
    no signals, nothing changes.
    """
    asked: list[signal.Signals] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(signal.Signals(number))
        # Not print: the signal may have come in the middle of one.
        os.write(2, f"\nriebench: stopping after this {unit}; Ctrl-C again stops at once\n".encode())

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, ask) for number in SIGNALS} if main else {}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def tracked(name: str) -> Track:
    """A :data:`Track` that draws a bar with an estimate on standard error, seldom where that is no terminal."""

    def track(numbers: Iterable[int]) -> Iterable[int]:
        return tqdm(list(numbers), desc=name, mininterval=0.1 if sys.stderr.isatty() else EVERY)

    return track


def keep_timing(model: str, device: str, seconds: float, rows: int) -> None:
    """Keep how many seconds a row of a model's passes took on a device, for the plan of the next run."""
    keep_facts(TIMINGS, read_facts(TIMINGS) | {f"{model} {device}": seconds / max(1, rows)})


def timings(model: str) -> dict[str, float]:
    """Device to seconds for each row, as the last run of a model on it measured."""
    kept = {tuple(key.split(" ", 1)): value for key, value in read_facts(TIMINGS).items()}
    return {device: seconds for (name, device), seconds in kept.items() if name == model}
