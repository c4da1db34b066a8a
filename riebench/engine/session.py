"""How a run is worked off, and what became of it. Needs no torch."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from riebench.records import Record


@dataclass
class Session:
    """What became of a run.

    Attributes:
        folder: that holds its records.
        tasks: pairs of which a record was missing.
        pairs: how many of them are done.
        statuses: key to status of every record that was asked for and is in the folder now.
        written: how many records this session wrote.
        failed: how many of those are failures.
        failed_pairs: how many pairs had one.
        seconds: time it took.
        ended: why it ended.
        signal: the signal that ended it early, if one did.
    """

    folder: Path
    tasks: int = 0
    pairs: int = 0
    statuses: dict[str, str] = field(default_factory=dict)
    written: int = 0
    failed: int = 0
    failed_pairs: int = 0
    seconds: float = 0.0
    ended: str = "finished"
    signal: signal.Signals | None = None

    def count(self, records: Sequence[Record]) -> None:
        """One pair more is done."""
        failed = sum(record.status == "failed" for record in records)
        self.pairs += 1
        self.written += len(records)
        self.failed += failed
        self.failed_pairs += failed > 0
        self.statuses |= {record.key: record.status for record in records}
