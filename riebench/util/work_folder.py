"""The folder of long work: opened, locked, refused to others, written, and gone on with task by task."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType, TracebackType
from typing import Generic, Protocol, Self, TypeVar

from riebench.util.errors import UserError
from riebench.util.files import remove_torn, write_whole
from riebench.util.json_lines import append_whole

log = logging.getLogger(__name__)
SIGNALS = (signal.SIGINT, signal.SIGTERM)
LOCK, WRITER = ".lock", ".writer.json"
KINDS = {
    "ablation.json": "an ablation",
    "manifest.json": "collected values",
    "training.json": "trained SAEs",
    "feature-index.json": "a feature index",
    "run.json": "a run",
}
"""The file by which each kind of folder is known."""
Task = TypeVar("Task")
Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


class WorkFolder:
    """A folder that one process writes to, inside a ``with`` statement; others may read it meanwhile.

    Args:
        path: the folder; made if it is missing.
        kind: the file of :data:`KINDS` that the folder will hold; empty for a folder without one.

    Raises:
        UserError: on entering, if the folder cannot be written, another process writes to it, or it holds another kind
            of work.
    """

    def __init__(self, path: Path, kind: str = "") -> None:
        self.path, self.kind = path, kind
        self._lock = ExitStack()

    def __enter__(self) -> Self:
        refuse_other_kinds(self.path, self.kind)
        with unwritable(self.path), ExitStack() as stack:
            self.path.mkdir(parents=True, exist_ok=True)
            stack.enter_context(only_writer(self.path))
            remove_torn(self.path)
            self.opened()
            self._lock = stack.pop_all()
        return self

    def opened(self) -> None:
        """Read and mend the files in the folder; called once it is locked. An OSError says that it is unwritable."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._lock.close()

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all, and have it on the disk before returning.

        Raises:
            UserError: if it cannot be written; an earlier file of the name is then as before.
        """
        with full_disk(self.path / name):
            write_whole(self.path / name, data)

    def append_to(self, name: str, data: bytes) -> None:
        """Append to a file whole or not at all, and have it on the disk before returning.

        Raises:
            UserError: if it cannot be written; the earlier content is then as before.
        """
        with full_disk(self.path / name):
            append_whole(self.path / name, data)


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """Inside the ``with`` statement an OSError becomes a UserError that names the folder."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"the folder {folder} cannot be written ({reason}); give another with --out") from None


@contextmanager
def full_disk(file: Path) -> Iterator[None]:
    """Inside the ``with`` statement an OSError becomes a UserError that says how to go on."""
    try:
        yield
    except OSError as error:
        mend = "what was written before is whole: make room and give the same command again"
        raise UserError(f"{file} cannot be written ({error.strerror or error}); {mend}") from None


def refuse_other_kinds(folder: Path, kind: str) -> None:
    """Refuse a file, and a folder that holds another kind of work, unless the folder holds this kind as well.

    Args:
        folder: that is written to.
        kind: the file of :data:`KINDS` that it will hold; empty for none.

    Raises:
        UserError: if it does; the message names the kind.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"the folder {folder} cannot be written (it is a file); give another with --out")
    if content := other_kind(folder, kind):
        raise UserError(f"{folder} holds {content}; give another --out")


def other_kind(folder: Path, kind: str) -> str:
    """What a folder holds instead of a kind of work, as ``an ablation (ablation.json), not a run``; empty for nothing.

    Args:
        folder: may be missing.
        kind: the file of :data:`KINDS` that is expected; empty for none.
    """
    if kind and (folder / kind).exists():
        return ""
    expected = f", not {KINDS[kind]}" if kind else ""
    held = (f"{content} ({file}){expected}" for file, content in KINDS.items() if (folder / file).exists())
    return next(held, "")


def check_work_folder(folder: Path, kind: str = "") -> None:
    """Refuse, before anything heavy is imported, what :class:`WorkFolder` would refuse; makes no folder.

    Raises:
        UserError: see :class:`WorkFolder`.
    """
    refuse_other_kinds(folder, kind)
    above = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    with unwritable(folder), only_writer(folder) if folder.is_dir() else TemporaryDirectory(dir=above):
        pass


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Be the one process that writes to a folder, inside the ``with`` statement.

    The lock is the operating system's (``flock``), so it ends with the process that holds it, however that ends.

    Raises:
        UserError: if another process writes there; it says which, on which host, and since when.
        OSError: if the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{_holder(folder)} is writing to {folder}; wait for it, or give another --out") from None
    try:
        note = {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now().isoformat(timespec="seconds")}
        (folder / WRITER).write_text(json.dumps(note))
        yield
    finally:
        (folder / WRITER).unlink(missing_ok=True)
        lock.release()


def _holder(folder: Path) -> str:
    """The process that holds the lock, as its note says; the note may be still missing."""
    try:
        note = json.loads((folder / WRITER).read_text())
        return f"process {note['pid']} on {note['host']} (since {note['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


class Results(Protocol[Task, Result_co]):
    """Gives the results of tasks as they are done: :class:`InTurn`, or the workers of :mod:`riebench.util.workers`."""

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Result_co]]: ...

    def stop(self) -> None:
        """Begin no further task; the tasks under way are still finished and given."""


class InTurn(Generic[Task, Result]):
    """The results of tasks in their order, by a function; see :class:`Results`."""

    def __init__(self, work: Callable[[Task], Result]) -> None:
        self._work, self._stopped = work, False

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Result]]:
        for task in tasks:
            if not self._stopped:
                yield task, self._work(task)

    def stop(self) -> None:
        self._stopped = True


@dataclass(frozen=True)
class Ending:
    """How the work ended.

    Attributes:
        done: number of finished tasks.
        left: number of unfinished tasks.
        signal: the first signal that asked for an end, even if nothing was left then.
        reason: why it ended early; empty if it did not.
    """

    done: int
    left: int
    signal: signal.Signals | None = None
    reason: str = ""


def work_off(
    results: Results[Task, Result],
    tasks: Sequence[Task],
    keep: Callable[[Task, Result], str | None],
    unit: str,
) -> Ending:
    """Work tasks off and keep each result, until all are done or there is a reason to end.

    A first Ctrl-C (or SIGTERM) ends it after the tasks under way.

    Args:
        results: works the tasks off.
        tasks: the tasks that are left.
        keep: writes a result; returns a reason to end early, if there is one.
        unit: the name of a task, in the singular: ``pair``.

    Raises:
        KeyboardInterrupt: at a second Ctrl-C.
    """
    done, reason = 0, ""
    with _stopping(unit) as signals:
        for task, result in results.run(tasks):
            early = keep(task, result)
            done += 1
            if signals:
                reason = f"ended by {signals[0].name}"
            elif early:
                reason = early
            if reason:
                results.stop()
    left = len(tasks) - done
    if left:
        log.warning("%s; %d %ss are left, the same command goes on with them", reason, left, unit)
    else:  # the wish to end came when all were under way
        reason = ""
    return Ending(done, left, signals[0] if signals else None, reason)


@contextmanager
def _stopping(unit: str = "pair") -> Iterator[list[signal.Signals]]:
    """Inside the ``with`` statement a first Ctrl-C or SIGTERM is only noted, and a second stops at once.

    Args:
        unit: the name of the task that is finished first.

    Gives a list that holds the first signal once it has come. Outside the main thread, where Python takes no signals,
    nothing changes.
    """
    signals: list[signal.Signals] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if signals:
            raise KeyboardInterrupt
        signals.append(signal.Signals(number))
        # Not logged: the signal may have come in the middle of writing a message.
        os.write(2, f"\nriebench: stopping after this {unit}; Ctrl-C again stops at once\n".encode())

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, ask) for number in SIGNALS} if main else {}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
