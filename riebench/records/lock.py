"""One writer for a run folder: a lock of the operating system's, and a note of who holds it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from riebench.util.errors import UserError

LOCK, WRITER = ".lock", ".writer.json"


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Be the one process that writes to a folder, inside the ``with`` statement.

    The lock is the operating system's (``flock``), so it ends with the process that holds it, however that ends.

    Raises:
        UserError: if another process writes there; it says which, on which host, and since when.
        OSError: if the folder cannot be written.
    """
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
    """Who holds the lock; its note may be not yet there."""
    try:
        note = json.loads((folder / WRITER).read_text())
        return f"process {note['pid']} on {note['host']} (since {note['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
