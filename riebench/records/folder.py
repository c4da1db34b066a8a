"""Write and read a run folder: ``run.json``, ``records.jsonl``, ``images/``."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import orjson

from riebench.records.image_hashes import HASHES, IMAGES, hash_lines, mend_hashes
from riebench.records.lines import Row, encode_records, parse_line, records_of
from riebench.records.schema import Record, joined
from riebench.util.errors import UserError
from riebench.util.files import remove_torn, write_each_whole
from riebench.util.json_lines import Lines, mend_lines, read_lines
from riebench.util.work_folder import WorkFolder, full_disk, other_kind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)
RECORDS, RUN, SHEETS = "records.jsonl", "run.json", "sheets"
PACKED = f"{RECORDS}.gz"
SUFFIXES = (".jsonl", ".gz", ".parquet")
"""Of a file of records, as a run or a report writes it."""
DISCARDED = (
    *(RECORDS, RUN, IMAGES, SHEETS, "table.md", "curve.png", "curve.svg"),
    *("curve-by-steps.png", "curve-by-steps.svg"),
)
"""What ``force`` removes. The records come first: without them the other files have no meaning."""


class RunFolder(WorkFolder):
    """A folder that one process writes to, inside a ``with`` statement; others may read it meanwhile.

    ``records.jsonl`` only grows. A record whose key is there already takes the place of the earlier one: of lines with
    one key the last counts for every reader, and on leaving the others are taken out. It keeps the metrics that only
    the earlier one has.

    Args:
        path: the folder; made if it is missing.
        force: whether to discard the records in it, with a warning that says what goes.

    Attributes:
        records: those that the folder held on entering, the last of each key.

    Raises:
        UserError: on entering, for the reasons of :class:`riebench.util.work_folder.WorkFolder`, if its records are
            damaged other than by a torn last line (which is taken off with a warning), or with ``force`` if things
            would go that no run has made.
    """

    def __init__(self, path: Path, force: bool = False) -> None:
        super().__init__(path, RUN)
        self.force = force
        self.records: list[Record] = []
        self._repeated = False
        self._shared: set[str] = set()

    def opened(self) -> None:
        """See :class:`riebench.util.work_folder.WorkFolder`."""
        if self.force:
            self._discard()
        remove_torn(self.path / IMAGES)
        mend_hashes(self.path)
        try:
            rows = mend_lines(self.path / RECORDS, parse_line, _without_pair_in_flight)
            records = records_of(rows, self.path / RECORDS)
        except UserError as error:
            raise UserError(f"{error}; or discard all records of the folder with 'riebench run --force'") from None
        self._shared = {row["hash"] for row in rows if "hash" in row}
        self.records = _latest(records)
        if len(self.records) < len(records):
            self._rewrite(self.records)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if self._repeated:
                self._rewrite(_latest(_read(self.path / RECORDS)))
        finally:
            super().__exit__(kind, error, at)

    def run(self) -> dict[str, Any]:
        """What ``run.json`` says; empty where it is missing or damaged."""
        return read_run(self.path)

    def write_run(self, content: dict[str, Any]) -> None:
        """Write ``run.json`` whole or not at all.

        Raises:
            UserError: if there is no room for it, say.
        """
        self.write(RUN, (json.dumps(content, indent=2, default=str) + "\n").encode())

    def append(self, records: Iterable[Record]) -> None:
        """Add the records of a pair, and have them on the disk before returning.

        Raises:
            UserError: if they cannot be written; what was there before is then there as before.
        """
        known = {record.key: record for record in self.records}
        records = list(records)
        self._repeated |= any(record.key in known for record in records)
        whole = [joined(known[record.key], record) if record.key in known else record for record in records]
        shared = set(self._shared)
        self.append_to(RECORDS, encode_records(whole, shared))
        self._shared = shared

    def keep_images(self, images: Mapping[str, NDArray[np.uint8]]) -> None:
        """Keep pictures as ``images/NAME.png``, each whole or not at all, and their hashes.

        Raises:
            UserError: if they cannot be written.
        """
        files = {f"{name}.png": _png(image) for name, image in images.items()}
        if files:
            with full_disk(self.path / IMAGES):
                (self.path / IMAGES).mkdir(exist_ok=True)
                self.append_to(HASHES, hash_lines(files))  # first: a picture is never beside the hash of an earlier one
                write_each_whole({self.path / IMAGES / name: data for name, data in files.items()})

    def _rewrite(self, records: Iterable[Record]) -> None:
        """Write ``records.jsonl`` anew, whole or not at all."""
        self._shared = set()
        self.write(RECORDS, encode_records(records, self._shared))

    def _discard(self) -> None:
        file = self.path / RECORDS
        present = [name for name in DISCARDED if (self.path / name).exists()]
        if present and RECORDS not in present:  # every run begins with that file
            content = f"{self.path} holds {', '.join(present)}, but no {RECORDS}: it is the folder of no run"
            raise UserError(f"{content}, and --force discards nothing there; give another --out")
        if present and (file.stat().st_size or len(present) > 1):
            others = f", with {', '.join(present[1:])}" if len(present) > 1 else ""
            log.warning("%s in %s are discarded%s", self._counted(), self.path, others)
        if present:
            os.truncate(file, 0)  # it stays, so that an interrupted --force can be given again
        for name in present[1:]:
            path = self.path / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _counted(self) -> str:
        """The number of records and pairs, as text."""
        try:
            records = _latest(_read(self.path / RECORDS))
        except UserError:
            return "damaged records"
        return f"{len(records)} records of {len({record.pair_id for record in records})} pairs"


def _png(image: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(image).save(data, "png", compress_level=1)  # a quarter of the time, a fifth more bytes
    return data.getvalue()


def records_file(path: Path) -> Path:
    """The file of records that a path stands for.

    Raises:
        UserError: if there is none, or the folder holds another kind of work, such as an ablation.
    """
    if path.is_file() and path.suffix not in SUFFIXES:
        raise UserError(f"{path} is no file of records; give the folder of a finished run")
    if content := other_kind(path, RUN):
        raise UserError(f"{path} holds {content}; give the folder of a finished run")
    for file in (path / RECORDS, path / PACKED) if path.is_dir() else (path,):
        if file.is_file():
            return file
    what = "holds no records.jsonl" if path.is_dir() else "does not exist"
    raise UserError(f"{path} {what}; give the folder of a finished run")


def read_records(path: Path) -> list[Record]:
    """The records of a run folder (or of a ``records.jsonl``), the last of each key; a torn last line is left out.

    Raises:
        UserError: if there are none, or a line other than the last is damaged.
    """
    file = path / RECORDS if path.is_dir() else path
    try:
        records = _read(file)
    except FileNotFoundError:
        raise UserError(f"there are no records at {file}; give the folder of a finished run") from None
    if not records:
        raise UserError(f"there are no records in {file}")
    return _latest(records)


def read_run(path: Path) -> dict[str, Any]:
    """What the ``run.json`` of a folder says; empty where it is missing or damaged."""
    try:
        content = orjson.loads((path / RUN).read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _read(file: Path) -> list[Record]:
    return records_of(read_lines(file, parse_line), file)


def _without_pair_in_flight(data: bytes, lines: Lines[Row]) -> int:
    """The number of bytes before the records of the pair whose last line is torn.

    They are made again together, so that they go through the U-Net in the batches that they have in an unbroken run.
    """
    torn = re.search(rb'"pair_id":"([^"]*)"', lines.torn)
    size = lines.size
    for row, line in zip(reversed(lines.values), reversed(data[:size].splitlines(keepends=True)), strict=True):
        if torn is None or row.get("pair_id", "").encode() != torn[1]:
            break
        size -= len(line)
    return size


def _latest(records: Iterable[Record]) -> list[Record]:
    """The last record of each key, where the first of that key stood."""
    return list({record.key: record for record in records}.values())
