"""Write and read a run folder: ``run.json``, ``records.jsonl``, ``images/``."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from riebench.errors import UserError
from riebench.records.schema import Record

RECORDS, RUN, IMAGES, SHEETS = "records.jsonl", "run.json", "images", "sheets"


class RunFolder:
    """A folder that one run writes to.

    Args:
        path: the folder; made if it is not there.
        force: whether to discard a run that is there.

    Raises:
        UserError: if the folder cannot be written, or holds a run and ``force`` is not set.
    """

    def __init__(self, path: Path, force: bool = False) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            if (path / RECORDS).exists() and (path / RECORDS).stat().st_size:
                if not force:
                    raise UserError(f"the folder {path} holds a run; give another --out, or --force to discard it")
                for name in (RECORDS, RUN):
                    (path / name).unlink(missing_ok=True)
                for name in (IMAGES, SHEETS):
                    shutil.rmtree(path / name, ignore_errors=True)
            (path / RECORDS).touch()
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"the folder {path} cannot be written ({reason}); give another with --out") from None

    def write_run(self, content: dict[str, Any]) -> None:
        """Write ``run.json`` whole or not at all."""
        part = self.path / f"{RUN}.part"
        part.write_text(json.dumps(content, indent=2, default=str) + "\n")
        os.replace(part, self.path / RUN)

    def append(self, records: Iterable[Record]) -> None:
        """Add the records of a pair, and have them on the disk before returning."""
        with (self.path / RECORDS).open("a", encoding="utf-8") as file:
            file.write("".join(record.model_dump_json() + "\n" for record in records))
            file.flush()
            os.fsync(file.fileno())

    def keep_image(self, name: str, image: NDArray[np.uint8]) -> None:
        """Keep a picture as ``images/NAME.png``."""
        (self.path / IMAGES).mkdir(exist_ok=True)
        Image.fromarray(image).save(self.path / IMAGES / f"{name}.png")


def read_records(path: Path) -> list[Record]:
    """The records of a run folder (or of a ``records.jsonl``); a torn last line is dropped.

    Raises:
        UserError: if there are none, or a line other than the last is damaged.
    """
    file = path / RECORDS if path.is_dir() else path
    try:
        lines = file.read_bytes().removesuffix(b"\n").split(b"\n")
    except OSError:
        raise UserError(f"there are no records at {file}; give the folder of a finished run") from None
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(Record.model_validate_json(line))
        except ValidationError:
            if number < len(lines):
                raise UserError(f"{file}: line {number} is damaged; restore the file or run again") from None
            if line:
                print(f"riebench: the torn last line of {file} is left out", file=sys.stderr)
    if not records:
        raise UserError(f"there are no records in {file}")
    return records
