"""The hashes of the pictures that a run keeps, by which a picture that was changed since is told."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import orjson

from riebench.util.json_lines import mend_lines, read_lines

IMAGES = "images"
HASHES = f"{IMAGES}/hashes.jsonl"
"""A line for each picture that was written; of lines with one file the last counts. Earlier folders lack the file."""


def hash_lines(pictures: Mapping[str, bytes]) -> bytes:
    """The lines of some pictures: name of the file to its content."""
    lines = [{"file": name, "sha256": hashlib.sha256(data).hexdigest()} for name, data in pictures.items()]
    return b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines)


def mend_hashes(folder: Path) -> None:
    """Take off a last line that a killed process left half written in a run folder."""
    if (folder / HASHES).exists():
        mend_lines(folder / HASHES, _parse)


def image_hashes(folder: Path) -> dict[str, str]:
    """Name of each picture of a run folder to the SHA-256 of the file that the run wrote; only those that are known.

    Raises:
        UserError: if a line is damaged.
    """
    try:
        return dict(read_lines(folder / HASHES, _parse))
    except FileNotFoundError:
        return {}


def is_changed(picture: Path, hashes: Mapping[str, str]) -> bool:
    """Whether a picture is known to be another than the run wrote.

    Raises:
        OSError: if its hash is known and it cannot be read.
    """
    known = hashes.get(picture.name)
    return known is not None and hashlib.sha256(picture.read_bytes()).hexdigest() != known


def _parse(line: bytes) -> tuple[str, str]:
    row = orjson.loads(line)
    if not isinstance(row, dict) or not {"file", "sha256"} <= row.keys():
        raise ValueError("no hash of a picture")
    return str(row["file"]), str(row["sha256"])
