"""Metrics that another program measures: one whose packages cannot live beside ours."""

from __future__ import annotations

import csv
import math
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from riebench.engine.completing import REFERENCES, Kept, kept_pictures
from riebench.engine.resume import refuse_other_scorers
from riebench.metrics import METRICS, Scores
from riebench.pairs.pair import without_brackets
from riebench.records import Record, RunFolder
from riebench.util.errors import UserError

FOLDER, LIST, BACK, BESIDE = "{folder}", "pictures.csv", "scores.csv", "references"
FILE = "file"


def add_by_command(path: Path, command: str) -> tuple[list[str], int, list[Path]]:
    """Add to the records of a run what a command measures of their pictures.

    The command is given a folder: the pictures; ``pictures.csv`` with a row for each, its ``file``, ``pair_id``,
    ``prompt`` (of the edit) and ``original_prompt``, both without brackets, and its ``base``, ``source``, ``mask-base``
    and ``mask-source`` in the folder ``references``. It must leave there ``scores.csv``: a column ``file``, and one
    for each metric, empty where it is undefined.

    Args:
        path: the run folder.
        command: words, in one of which ``{folder}`` stands for that folder; no shell reads them.

    Returns:
        The names of the metrics, how many records have got them, and files of pictures that are missing.

    Raises:
        UserError: if the command fails, what it leaves cannot be read, a name is one of riebench's metrics, or
            another command has measured a metric of that name in this run.
    """
    if FOLDER not in command:
        raise UserError(f"the command {command!r} has no {FOLDER}; put it where the folder of pictures belongs")
    with RunFolder(path) as folder, TemporaryDirectory() as made:
        scored = [record for record in folder.records if record.status == "ok"]
        found, missing = kept_pictures(path, scored)
        if not found:
            raise UserError(f"{path} keeps no pictures that could be scored; run with --keep-images")
        by_file = _lay_out(found, Path(made))
        _run(command, made)
        names, scores = _read(Path(made) / BACK, by_file)
        refuse_other_scorers(dict.fromkeys(names, command), folder.records, "give its column another name")
        measured = [
            record.model_copy(
                update={
                    "metrics": record.metrics | scores[file],
                    "measured_by": record.measured_by | dict.fromkeys(names, command),
                }
            )
            for file, record in by_file.items()
            if file in scores
        ]
        folder.append(measured)
    return names, len(measured), missing


def _lay_out(found: Sequence[Kept], folder: Path) -> dict[str, Record]:
    """Lay the pictures out for the command; gives the record of each file."""
    (folder / BESIDE).mkdir()
    by_file: dict[str, Record] = {}
    with (folder / LIST).open("w", newline="", encoding="utf-8") as opened:
        rows = csv.writer(opened)
        rows.writerow([FILE, "pair_id", "prompt", "original_prompt", *REFERENCES])
        for kept in found:
            beside = [f"{BESIDE}/{path.name}" for path in kept.references.values()]
            for name, path in zip(beside, kept.references.values(), strict=True):
                (folder / name).symlink_to(path.resolve())
            for record, path in zip(kept.records, kept.pictures, strict=True):
                (folder / path.name).symlink_to(path.resolve())
                by_file[path.name] = record
                prompts = [without_brackets(text) for text in (record.editing_prompt, record.original_prompt)]
                rows.writerow([path.name, record.pair_id, *prompts, *beside])
    return by_file


def _run(command: str, folder: str) -> None:
    words = [word.replace(FOLDER, folder) for word in shlex.split(command)]
    try:
        done = subprocess.run(words, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    except OSError as error:
        raise UserError(f"the command {words[0]!r} cannot be started ({error.strerror or error})") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(f"the command {command!r} failed with exit code {done.returncode}: {last}")


def _read(path: Path, known: dict[str, Record]) -> tuple[list[str], dict[str, Scores]]:
    """The names of the metrics in what a command left, and the scores of each file."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as opened:
            head, *rows = [row for row in csv.reader(opened) if row] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"the command left no {BACK} that can be read ({error}); see 'riebench score --help'") from None
    names = [name for name in head if name != FILE]
    for name in names:
        if not re.fullmatch("[a-z][a-z0-9_]*", name) or {name, name.removesuffix("_base")} & METRICS.keys():
            raise UserError(f"the column {name!r} of {BACK} is one of riebench's metrics, or no name as my_metric")
    if FILE not in head or not names or len(set(head)) < len(head):
        raise UserError(f"{BACK} has the columns {', '.join(head) or 'none'}; expected {FILE} and a metric or more")
    scores: dict[str, Scores] = {}
    for number, row in enumerate(rows, 2):
        cells = dict(zip(head, row, strict=False))
        if len(row) != len(head) or cells[FILE] not in known:
            raise UserError(f"{BACK}, line {number}: {', '.join(row)} is no row of a picture in {LIST}")
        scores[cells[FILE]] = {name: _number(cells[name], number) for name in names}
    return names, scores


def _number(text: str, line: int) -> float | None:
    try:
        value = float(text) if text.strip() else None
    except ValueError:
        raise UserError(
            f"{BACK}, line {line}: {text!r} is not a number; leave it empty where it is undefined"
        ) from None
    return value if value is None or math.isfinite(value) else None
