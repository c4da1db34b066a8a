"""Carry a run out: records and pictures into a folder, with a progress bar."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import count as counted
from pathlib import Path

from rich.console import Console

from riebench.engine.crew import Crew, Workers, gather
from riebench.engine.instruments import Given
from riebench.engine.journal import Journal
from riebench.engine.request import Request
from riebench.engine.run import RunSpec
from riebench.engine.stopping import Stopping
from riebench.engine.survey import Survey
from riebench.util.errors import UserError
from riebench.pairs import Pair
from riebench.util.progress import RunProgress
from riebench.records import Record, RunFolder, only_writer
from riebench.util.timings import keep_timing


@dataclass(frozen=True)
class Session:
    """What became of a run.

    Attributes:
        folder: where its records are.
        pairs: how many pairs were worked on; those of which nothing was missing are not among them.
        records: how many records of what was asked for are there now, of this session and earlier ones.
        failed: how many of them say why there are no metrics.
        seconds: time it took.
        signal: what asked it to end before its end, if anything did.
    """

    folder: Path
    pairs: int
    records: int
    failed: int
    seconds: float
    signal: signal.Signals | None = None


def carry_out(
    spec: RunSpec,
    pairs: Sequence[Pair],
    out: Path | None = None,
    keep_images: int = 3,
    force: bool = False,
    pair_file: Path | None = None,
    given: Given | None = None,
    quiet: bool = False,
    retry_failed: bool = False,
    max_failures: int | None = None,
    workers: Workers | None = None,
) -> Session:
    """Run all settings on all pairs and write the run folder; what is in the folder already is not done again.

    A first Ctrl-C (or SIGTERM) ends the run after the pair in flight.

    Args:
        spec: what to run.
        pairs: on which pairs.
        out: the run folder; a new one under ``runs`` unless given.
        keep_images: pairs of each category whose pictures are kept.
        force: whether to discard what is in the folder.
        pair_file: where the pairs come from, for ``run.json``.
        given: loaded parts that replace those of the model's name.
        quiet: whether to show no progress.
        retry_failed: whether to repeat what failed.
        max_failures: end after as many pairs with a failure, of those worked on now.
        workers: who does it; this process alone unless given.

    Raises:
        UserError: if it cannot be run, before anything is computed; or if the folder cannot be written any more.
        KeyboardInterrupt: at a second Ctrl-C.
    """
    path = out or _new_folder()
    _check_free(path)
    asked = _Asked(quiet, retry_failed, max_failures)
    crew = gather(spec, given, workers or Workers())
    try:
        crew.check(pairs)
        return _carried_out(crew, Request.of(spec, pairs, pair_file, keep_images, given), pairs, path, force, asked)
    finally:
        crew.close()


def _carried_out(
    crew: Crew, request: Request, pairs: Sequence[Pair], path: Path, force: bool, asked: _Asked
) -> Session:
    kept = first_of_each(pairs, request.keep_images)
    with RunFolder(path, force) as folder:
        before = folder.records()
        seen = crew.survey(pairs, before, kept, asked.retry_failed, path)
        there: dict[str, str] = {record.key: record.status for record in before}
        if before:
            _say(f"{len(before)} records are in {path}; {sum(len(t.keys) for t in seen.tasks)} are left to make")
        journal = Journal(folder, seen, request, pairs, before)
        del before
        work = _Work(folder, crew, seen, asked.max_failures)
        try:
            work.do(Console(stderr=True, quiet=asked.quiet))
        except BaseException as error:
            with suppress(UserError):  # the first fault is the one to tell
                journal.close(f"{type(error).__name__}: {error}".strip(": "), work.written, work.failed)
            if isinstance(error, KeyboardInterrupt):
                _say("ended at once; the pair in flight is lost, the same command goes on")
            raise
        journal.close(work.ended, work.written, work.failed)
        folder.compact()
    there |= work.status
    status = [there[key] for pair in pairs for key in seen.keys[pair.id] if key in there]
    return Session(path, work.pairs, len(status), status.count("failed"), work.seconds, work.signal)


@dataclass(frozen=True)
class _Asked:
    """How a run is to be carried out."""

    quiet: bool
    retry_failed: bool
    max_failures: int | None


class _Work:
    """The tasks of a session, and what became of them.

    Attributes:
        status: key to status of the records that were written.
        pairs: how many pairs are done.
        ended: why it ended.
        seconds: time it took.
        signal: what asked it to end, if anything did.
    """

    def __init__(self, folder: RunFolder, crew: Crew, seen: Survey, max_failures: int | None) -> None:
        self.folder = folder
        self.crew = crew
        self.seen = seen
        self.tasks = seen.tasks
        self.max_failures = max_failures
        self.status: dict[str, str] = {}
        self.pairs = 0
        self.ended = "finished"
        self.seconds = 0.0
        self.signal: signal.Signals | None = None
        self._bad_pairs = 0

    @property
    def written(self) -> int:
        """How many records were written."""
        return len(self.status)

    @property
    def failed(self) -> int:
        """How many of them are failures."""
        return list(self.status.values()).count("failed")

    def do(self, console: Console) -> None:
        """Work the tasks off, until they are done or there is a reason to end."""
        started = time.perf_counter()
        settings = max((len(task.keys) for task in self.tasks), default=0)
        with Stopping() as stopping, RunProgress(len(self.tasks), settings, console) as progress:
            for task, result in self.crew.run(self.tasks, lambda: self._is_to_end(stopping.signal)):
                for name, image in result.images.items():  # before the records, which promise them
                    self.folder.keep_image(f"{task.pair.id}-{name}", image)
                self.folder.append(result.records)
                self._count(result.records)
                progress.advance(len(result.records))
        self.seconds = time.perf_counter() - started
        self._keep_timing()
        if self.pairs == len(self.tasks):  # the wish to end came when all were under way
            self.ended = "finished"
        if self.ended != "finished":
            _say(f"{self.ended}; {len(self.tasks) - self.pairs} pairs are left, the same command goes on with them")

    def _count(self, records: Sequence[Record]) -> None:
        self.pairs += 1
        self.status |= {record.key: record.status for record in records}
        self._bad_pairs += any(record.status == "failed" for record in records)

    def _is_to_end(self, asked: signal.Signals | None) -> bool:
        """Whether to end before the next pair, if there is one."""
        if self.pairs == len(self.tasks):
            return True
        if asked is not None:
            self.signal, self.ended = asked, f"ended by {asked.name}"
        elif self.max_failures is not None and self._bad_pairs >= self.max_failures:
            self.ended = f"ended after {self._bad_pairs} pairs with failures (--max-failures {self.max_failures})"
        return self.ended != "finished"

    def _keep_timing(self) -> None:
        """U-Net rows of a pair are each run's steps, none shared."""
        shared = self.seen.shared
        rows = shared["steps"] * sum(2 + len(task.keys) for task in self.tasks[: self.pairs])
        if rows:
            keep_timing(shared["model"], self.seen.device, self.seconds, rows)


def _check_free(path: Path) -> None:
    """Refuse a folder that cannot be written or that another process writes to, before models are loaded."""
    if path.is_dir():
        try:
            with only_writer(path):
                return
        except OSError:
            return  # said once the rest of what was asked for is checked
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if path.exists() or not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"the folder {path} cannot be written; give another with --out")


def _new_folder() -> Path:
    """A folder named for this second that is not there yet."""
    name = datetime.now().strftime("%Y%m%d-%H%M%S")
    paths = (Path("runs") / (name if number == 1 else f"{name}-{number}") for number in counted(1))
    return next(path for path in paths if not path.exists())


def _say(text: str) -> None:
    print(f"riebench: {text}", file=sys.stderr, flush=True)


def first_of_each(pairs: Sequence[Pair], count: int) -> set[str]:
    """Ids of the first pairs of each category."""
    met: Counter[int] = Counter()
    found = set()
    for pair in pairs:
        if met[pair.editing_type_id] < count:
            found.add(pair.id)
        met[pair.editing_type_id] += 1
    return found
