"""A progress bar where there is a terminal, a line now and then where there is none."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EVERY = 20.0  # seconds between lines


class RunProgress:
    """How far a run is, with the time left.

    Args:
        pairs: how many there are.
        settings: how many records a pair has.
        console: where the bar is drawn; a quiet one shows nothing.
    """

    def __init__(self, pairs: int, settings: int, console: Console) -> None:
        self.pairs = pairs
        self.done = self.records = 0
        self.lines = not console.is_terminal and not console.quiet
        self.started = self.last = time.perf_counter()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("pairs, {task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self.bar = Progress(*columns, console=console)
        self.task = self.bar.add_task(f"{pairs} pairs x {settings} settings", total=pairs, rate="")

    def __enter__(self) -> RunProgress:
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.bar.stop()

    def advance(self, records: int) -> None:
        """One pair more is done, with as many records; pairs may come from any number of workers."""
        self.done += 1
        self.records += records
        now = time.perf_counter()
        rate = f"{self.records / max(1e-9, now - self.started):.1f} records/s"
        self.bar.update(self.task, advance=1, rate=rate)
        if self.lines and now - self.last >= EVERY:
            self.last = now
            left = (now - self.started) / self.done * (self.pairs - self.done)
            said = f"{self.done} of {self.pairs} pairs, {rate}, about {left:.0f} s left"
            print(f"riebench: {said}", file=sys.stderr, flush=True)
