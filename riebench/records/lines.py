"""The lines of ``records.jsonl``, written and read. Needs no torch.

A line is a JSON object of one of two kinds:

- a *record*: the fields of :class:`~riebench.records.schema.Record` but those of :data:`SHARED`, and ``shared``, the
  hash of the shared part that has the values of these;
- a *shared part*: ``{"hash": HASH, "shared": {...}}``, the fields of :data:`SHARED` as many records have them. It is
  written once, with the first records that name it and before them.

So the file needs no other file: it can be packed, copied, and put together with others by ``cat``; lines may be in any
order. Earlier versions wrote every record with all of its fields. A file may hold both kinds of records.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import Field, FiniteFloat, ValidationError

from riebench.records.schema import Record, Setting
from riebench.util.errors import UserError
from riebench.util.json_lines import read_lines

SHARED = ("method_class", "model", "protocol", "parts", "conditions", "code", "made_by", "measured_by")
"""Fields that are the same in many records of a folder."""
Row = dict[str, Any]
SharedParts = dict[str | bytes, Row]
"""Shared parts by their hash; those of records that have all fields by their JSON."""


def encode_records(records: Iterable[Record], known: set[str]) -> bytes:
    """The lines of records, after those of the shared parts that they need.

    Args:
        records: in order.
        known: hashes of the shared parts that the file holds; the hashes of new ones are added.
    """
    shared_lines, record_lines = [], []
    for record in records:
        row = record.model_dump(mode="json")
        shared = {name: row.pop(name) for name in SHARED if name in row}
        name = shared_hash(shared)
        if name not in known:
            known.add(name)
            shared_lines.append(orjson.dumps({"hash": name, "shared": shared}))
        record_lines.append(orjson.dumps(row | {"shared": name}))
    return b"".join(line + b"\n" for line in [*shared_lines, *record_lines])


def shared_hash(shared: Mapping[str, Any]) -> str:
    """The hash of a shared part: 16 hexadecimal digits, whatever the order of its fields."""
    return hashlib.sha256(orjson.dumps(shared, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def parse_line(line: bytes) -> Row:
    """The JSON object of a line.

    Raises:
        ValueError: if the line is no JSON object, or a shared part does not have its hash.
    """
    row = orjson.loads(line)
    if not isinstance(row, dict) or ("hash" in row and shared_hash(row["shared"]) != row["hash"]):
        raise ValueError("no record and no shared part")
    return row


def records_of(rows: Sequence[Row], file: Path) -> list[Record]:
    """The records of the parsed lines of a file, with all of their fields.

    Raises:
        UserError: if a line is no record; the message names the line.
    """
    shared = {row["hash"]: row["shared"] for row in rows if "hash" in row}
    try:
        return [Record.model_validate(_with_shared(row, shared)) for row in rows if "hash" not in row]
    except (KeyError, ValidationError):
        raise damaged(file) from None


def _with_shared(row: Row, shared: Mapping[str, Row]) -> Row:
    return row | shared[row["shared"]] if "shared" in row else row


def for_each_record(file: Path, keep: Callable[[Row, str | bytes], None]) -> SharedParts:
    """Call ``keep`` for each record of a file as it is read, with the name of its shared part.

    The row of a record may lack the fields of :data:`SHARED`. No row is held here, as that would take most of the time.

    Returns:
        The shared parts by name.

    Raises:
        UserError: if the file cannot be read, or a line other than the last is damaged. A torn last line is left out
            with a warning.
    """
    shared: SharedParts = {}

    def parse(line: bytes) -> None:
        row = parse_line(line)
        if "hash" in row:
            shared[row["hash"]] = row["shared"]
            return
        name = row.get("shared") or orjson.dumps([row.get(field) for field in SHARED])
        if isinstance(name, bytes) and name not in shared:
            shared[name] = {field: row[field] for field in SHARED if field in row}
        keep(row, name)

    read_lines(file, parse)
    return shared


class _SoundSetting(Setting):
    strength: FiniteFloat


class _SoundRecord(Record):
    """A record as riebench writes it: of a known category, with finite numbers."""

    category: Literal[1, 2, 3, 4, 5, 6, 7, 8, 9]
    setting: _SoundSetting
    metrics: dict[str, FiniteFloat | None] = Field(default_factory=dict)


def damaged(file: Path) -> UserError:
    """An error that names the first line of a file which is no record of this version."""
    rows = read_lines(file, parse_line)
    shared = {row["hash"]: row["shared"] for row in rows if "hash" in row}
    for number, row in enumerate(rows, 1):
        if "hash" in row:
            continue
        if row.get("shared", "") not in {*shared, ""}:
            return UserError(
                f"{file}: line {number} names the shared part {row['shared']}, which is missing; add its line"
            )
        try:
            _SoundRecord.model_validate_json(orjson.dumps(_with_shared(row, shared)), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            key, message = ".".join(map(str, first["loc"])) or "line", first["msg"].lower()
            return UserError(
                f"{file}: line {number} is not a record of this version of riebench (key {key!r}: {message}); "
                "make the run again, or read it with the version that made it"
            )
    return UserError(f"{file}: a record is damaged; restore the file or run again")
