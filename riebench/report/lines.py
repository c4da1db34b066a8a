"""Read the lines of a records file; parts that many lines repeat are parsed once."""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow.json import ParseOptions, ReadOptions, read_json
from pydantic import Field, FiniteFloat, ValidationError

from riebench.records import Record, Setting
from riebench.util.errors import UserError

OWN = ("key", "status", "metrics", "reason", "error", "where", "seconds")
TEXTS = ("key", "status", "reason", "error", "where")
SCHEMA = pa.schema([*((name, pa.string()) for name in TEXTS), ("seconds", pa.float64())])
BLOCK = 1 << 22  # bytes that a thread parses at once
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Shared:
    """Parts that many records have in common: the distinct ones, and which of them each record has (``[records]``)."""

    rows: Sequence[Row]
    of: NDArray[np.intp]


@dataclass(frozen=True)
class Rows:
    """The records of a file, in its order; a record is its own part and one of each shared part.

    Attributes:
        own: the parts that differ from record to record, as the columns :data:`OWN`; ``metrics`` is a struct.
        pairs: the pairs.
        settings: the settings, with the model, parts and versions that go with them.
        notes: the figures of the plans.
    """

    own: pa.Table
    pairs: Shared
    settings: Shared
    notes: Shared


def read_rows(file: Path) -> Rows:
    """All records of a file; a torn last line is skipped with a warning on stderr.

    Raises:
        UserError: if the file cannot be read, holds no record, or a line is damaged; the message names the line.
        TypeError, ValueError, AttributeError: if a line is no record; :func:`damaged` says which.
    """
    rows = _in_pieces(file) or _as_whole(parse_each(file))
    if not len(rows.own):
        raise UserError(f"there are no records in {file}; give the folder of a finished run")
    return rows


def _raw_lines(file: Path) -> Iterator[bytes]:
    """The lines of a file, packed or not."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as opened:
            yield from opened
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file} cannot be read ({error}); restore the file or run again") from None


def parse_each(file: Path) -> list[Row]:
    """Each line as JSON, without a torn last one.

    Raises:
        UserError: if another line is damaged, or the file cannot be read.
    """
    rows = []
    lines = list(_raw_lines(file))
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise UserError(f"{file}: line {number} is damaged; restore the file or run again") from None
            if line.strip():
                print(f"riebench: the torn last line of {file} is left out", file=sys.stderr)
    return rows


class _SoundSetting(Setting):
    strength: FiniteFloat


class _SoundRecord(Record):
    """A record as riebench writes it: of a known category, with finite numbers."""

    category: Literal[1, 2, 3, 4, 5, 6, 7, 8, 9]
    setting: _SoundSetting
    metrics: dict[str, FiniteFloat | None] = Field(default_factory=dict)


def damaged(file: Path) -> UserError:
    """An error that names the first line which is not a record of this version."""
    for number, row in enumerate(parse_each(file), 1):
        try:
            _SoundRecord.model_validate_json(json.dumps(row), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            key, message = ".".join(map(str, first["loc"])) or "line", first["msg"].lower()
            return UserError(
                f"{file}: line {number} is not a record of this version of riebench (key {key!r}: {message}); "
                "make the run again, or read it with the version that made it"
            )
    return UserError(f"{file}: a record is damaged; restore the file or run again")


def _as_whole(rows: Sequence[Row]) -> Rows:
    """Rows that share nothing."""
    own = [json.dumps({name: row.get(name) for name in OWN}).encode() for row in rows]
    alone = np.arange(len(rows))
    return Rows(_parsed_by_arrow(own), Shared(rows, alone), Shared(rows, alone), Shared(rows, alone))


def _in_pieces(file: Path) -> Rows | None:
    """Lines as riebench writes them, cut before pair, setting, metrics, notes and reason; None if a line is different.

    No string of JSON holds the bytes that are looked for, because its own quotes are escaped; and a cut inside
    another value would leave brackets open, so that the pieces would not parse.
    """
    own: list[bytes] = []
    numbers: tuple[dict[bytes, int], ...] = ({}, {}, {})  # of the distinct pieces of pairs, settings and notes
    of: list[list[int]] = []
    try:
        for line in _raw_lines(file):
            pair = line.index(b'"pair_id":')
            setting = line.index(b'"setting":', pair)
            metrics = line.index(b'"metrics":', setting)
            note = line.index(b'"notes":', metrics)
            reason = line.index(b'"reason":', note)
            own.append(line[:pair] + line[metrics:note] + line[reason:].rstrip())
            cut = (line[pair:setting], line[setting:metrics], line[note:reason])
            of.append([known.setdefault(piece, len(known)) for known, piece in zip(numbers, cut, strict=True)])
        columns = np.array(of, np.intp).reshape(-1, len(numbers)).T
        shared = [Shared(_parsed(known), column) for known, column in zip(numbers, columns, strict=True)]
        return Rows(_parsed_by_arrow(own), *shared)
    except ValueError:  # of Arrow, too
        return None


def _parsed(pieces: Iterable[bytes]) -> list[Row]:
    """Pieces of lines of JSON, each an object of its own."""
    return [json.loads(b"{" + piece.rstrip().removesuffix(b",") + b"}") for piece in pieces]


def _parsed_by_arrow(own: Sequence[bytes]) -> pa.Table:
    """Lines of JSON, parsed by Arrow in threads.

    Raises:
        ValueError: if one is no JSON, or a value is of another type than others of its key.
    """
    if not own:
        return SCHEMA.empty_table()
    table = read_json(
        pa.BufferReader(b"\n".join(own)), ReadOptions(block_size=BLOCK), ParseOptions(explicit_schema=SCHEMA)
    )
    if len(table) != len(own):
        raise ValueError("a line holds more than a record")
    return table
