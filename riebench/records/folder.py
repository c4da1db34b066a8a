"""Write and read a run folder: ``run.json``, ``records.jsonl``, ``images/``."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from riebench.records.schema import Record, joined
from riebench.util.errors import UserError
from riebench.util.files import TORN, write_whole

LOCK, WRITER = ".lock", ".writer.json"
RECORDS, RUN, IMAGES, SHEETS = "records.jsonl", "run.json", "images", "sheets"
DISCARDED = (
    *(RECORDS, RUN, IMAGES, SHEETS, "table.md", "curve.png", "curve.svg"),
    *("curve-by-steps.png", "curve-by-steps.svg"),
)
"""What ``force`` removes, the records first: without them the rest says nothing."""


class RunFolder:
    """A folder that one process writes to, inside a ``with`` statement; others may read it meanwhile.

    ``records.jsonl`` only grows. A record whose key is there already takes the place of the earlier one: of lines with
    one key the last counts for every reader, and on leaving the others are taken out. It keeps the metrics that only
    the earlier one has.

    Args:
        path: the folder; made if it is missing.
        force: whether to discard the records in it; what goes is said on stderr.

    Attributes:
        records: those that the folder held on entering, the last of each key.

    Raises:
        UserError: on entering, if the folder cannot be written, another process writes to it, its records are
            damaged other than by a torn last line (which is taken off, and that is said on stderr), or with ``force``
            if things would go that no run has made.
    """

    def __init__(self, path: Path, force: bool = False) -> None:
        self.path = path
        self.force = force
        self.records: list[Record] = []
        self._open = ExitStack()
        self._repeated = False

    def __enter__(self) -> RunFolder:
        try:
            with ExitStack() as stack:
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(only_writer(self.path))
                if self.force:
                    self._discard()
                self._mend()
                self._open = stack.pop_all()
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"the folder {self.path} cannot be written ({reason}); give another with --out") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._open:
            if self._repeated:
                self._write(self.path / RECORDS, _lines(_latest(_parse(self.path / RECORDS)[0])))

    def run(self) -> dict[str, Any]:
        """What ``run.json`` says; empty where it is missing or damaged."""
        return read_run(self.path)

    def write_run(self, content: dict[str, Any]) -> None:
        """Write ``run.json`` whole or not at all.

        Raises:
            UserError: if there is no room for it, say.
        """
        self._write(self.path / RUN, (json.dumps(content, indent=2, default=str) + "\n").encode())

    def append(self, records: Iterable[Record]) -> None:
        """Add the records of a pair, and have them on the disk before returning.

        Raises:
            UserError: if they cannot be written; what was there before is then there as before.
        """
        known = {record.key: record for record in self.records}
        records = list(records)
        self._repeated |= any(record.key in known for record in records)
        data = _lines(joined(known[one.key], one) if one.key in known else one for one in records)
        try:
            append_whole(self.path / RECORDS, data)
        except OSError as error:
            raise self._refused(self.path / RECORDS, error) from None

    def keep_image(self, name: str, image: NDArray[np.uint8]) -> None:
        """Keep a picture as ``images/NAME.png``, whole or not at all.

        Raises:
            UserError: if it cannot be written.
        """
        data = io.BytesIO()
        Image.fromarray(image).save(data, "png")
        self._write(self.path / IMAGES / f"{name}.png", data.getvalue())

    def _discard(self) -> None:
        file = self.path / RECORDS
        there = [name for name in DISCARDED if (self.path / name).exists()]
        if there and RECORDS not in there:  # every run begins with that file
            said = f"{self.path} holds {', '.join(there)}, but no {RECORDS}: it is the folder of no run"
            raise UserError(f"{said}, and --force discards nothing there; give another --out")
        if there and (file.stat().st_size or len(there) > 1):
            others = f", with {', '.join(there[1:])}" if len(there) > 1 else ""
            print(f"riebench: {self._said()} in {self.path} are discarded{others}", file=sys.stderr)
        if there:
            os.truncate(file, 0)  # it stays, so that this can be done again if it is broken off
        for name in there[1:]:
            path = self.path / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _said(self) -> str:
        """How many records there are."""
        try:
            records = _latest(_parse(self.path / RECORDS)[0])
        except UserError:
            return "damaged records"
        return f"{len(records)} records of {len({record.pair_id for record in records})} pairs"

    def _mend(self) -> None:
        """See that the file of records ends with a whole line; remove files that were left half done."""
        file = self.path / RECORDS
        file.touch()
        for torn in [*self.path.glob(f"*{TORN}"), *self.path.glob(f"{IMAGES}/*{TORN}")]:
            torn.unlink()
        records, good = _parse(file)
        size = file.stat().st_size
        if good < size:
            print(f"riebench: the torn last line of {file} is dropped", file=sys.stderr)
            os.truncate(file, _without_pair_in_flight(file.read_bytes(), good))
            records, _ = _parse(file)
        elif good > size:  # the last line is whole but for its end
            with file.open("ab") as end:
                end.write(b"\n")
        self.records = _latest(records)
        if len(self.records) < len(records):
            self._write(file, _lines(self.records))

    def _write(self, path: Path, data: bytes) -> None:
        """Write a file whole or not at all, and have it on the disk before returning."""
        try:
            write_whole(path, data)
        except OSError as error:
            raise self._refused(path, error) from None

    def _refused(self, path: Path, error: OSError) -> UserError:
        mend = "the records so far are whole: make room and give the same command again"
        return UserError(f"{path} cannot be written ({error.strerror or error}); {mend}")


def append_whole(file: Path, data: bytes) -> None:
    """Add data to a file, and have it on the disk before returning.

    Raises:
        OSError: if it cannot be written; what was there before is then there as before.
    """
    with file.open("ab", buffering=0) as end:
        before = end.seek(0, os.SEEK_END)
        try:
            while data:
                data = data[end.write(data) :]
            os.fsync(end.fileno())
        except BaseException:
            end.truncate(before)  # half a pair's records would be glued to the next ones
            raise


def read_records(path: Path) -> list[Record]:
    """The records of a run folder (or of a ``records.jsonl``), the last of each key; a torn last line is left out.

    Raises:
        UserError: if there are none, or a line other than the last is damaged.
    """
    file = path / RECORDS if path.is_dir() else path
    try:
        size = file.stat().st_size
        records, good = _parse(file)
    except OSError:
        raise UserError(f"there are no records at {file}; give the folder of a finished run") from None
    if good < size:
        print(f"riebench: the torn last line of {file} is left out", file=sys.stderr)
    if not records:
        raise UserError(f"there are no records in {file}")
    return _latest(records)


def read_run(path: Path) -> dict[str, Any]:
    """What the ``run.json`` of a folder says; empty where it is missing or damaged."""
    try:
        found = json.loads((path / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _parse(file: Path) -> tuple[list[Record], int]:
    """The records of all whole lines, and the number of bytes up to the end of the last of them.

    A last line that is whole but for its line break counts with its break, so that the number may be one above the
    size of the file.

    Raises:
        UserError: if a line other than the last is damaged.
    """
    lines = file.read_bytes().split(b"\n")
    records: list[Record] = []
    good = 0
    for number, line in enumerate(lines, 1):
        try:
            records.append(Record.model_validate_json(line))
        except ValidationError:
            if any(lines[number:]):
                raise UserError(f"{file}: line {number} is damaged; restore the file or run again") from None
            break
        good += len(line) + 1
    return records, good


def _without_pair_in_flight(data: bytes, good: int) -> int:
    """The number of bytes before the records of the pair whose line is torn, of those that end at ``good``.

    They are made again together, so that they go through the U-Net in the batches that they have in an unbroken run.
    """
    torn = re.search(rb'"pair_id":"([^"]*)"', data[good:])
    while torn and good:
        start = data.rfind(b"\n", 0, good - 1) + 1
        if json.loads(data[start:good])["pair_id"].encode() != torn[1]:
            break
        good = start
    return good


def _latest(records: Iterable[Record]) -> list[Record]:
    """The last record of each key, where the first of that key stood."""
    return list({record.key: record for record in records}.values())


def _lines(records: Iterable[Record]) -> bytes:
    return "".join(record.model_dump_json() + "\n" for record in records).encode()


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
