"""Metrics added to the records of a finished run, by our scorers or by a command; nothing is generated."""

from __future__ import annotations

import csv
import math
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from riebench.engine.kept_pictures import REFERENCES, KeptPictures, kept_pictures, pixels
from riebench.engine.request import metrics_named, refuse_unused_scorers, requests_of
from riebench.engine.resume import lacking, refuse_other_scorers
from riebench.instruments.loading import TruthOf, load_scorers
from riebench.metrics import METRICS, Scorers, Scores, measured_by, metrics_of, score_images
from riebench.metrics.catalogue import NAME, RESERVED, known_names
from riebench.models.entries import entry_named
from riebench.pairs import Pair
from riebench.pairs.brackets import without_brackets
from riebench.records import Record, RunFolder
from riebench.records.image_hashes import image_hashes, is_changed
from riebench.records.schema import with_hash
from riebench.settings.settings import changed, parse_settings, refuse_without_effect
from riebench.util.code_files import hash_of_files, imported_files, module_files
from riebench.util.errors import PairError, UserError
from riebench.util.files import file_hash

FOLDER, LIST, SCORES, BESIDE = "{folder}", "pictures.csv", "scores.csv", "references"
FILE = "file"
AGAIN = "measure all of them anew with --again, or score a copy of the folder"


class AddedMetrics(NamedTuple):
    """Metrics that were added to a run.

    Attributes:
        names: of the metrics.
        records: number of records that have them now.
        missing: files of pictures that are missing, damaged, or changed since the run.
        unscored: metric to the files of pictures that a command gave no number.
        undefined: metric to the number of these records in which it is null.
    """

    names: list[str]
    records: int
    missing: list[Path]
    unscored: Mapping[str, list[str]] = {}
    undefined: Mapping[str, int] = {}


def complete(
    folder: RunFolder,
    records: Sequence[Record],
    names: Sequence[str],
    scorers: Scorers,
    truth: TruthOf | None,
    pairs: Mapping[str, Pair],
    again: bool = False,
) -> tuple[list[Record], list[Path]]:
    """Measure the metrics that records lack from their kept pictures, and write the records.

    Args:
        folder: of the records; open.
        records: with pictures.
        names: of the metrics.
        scorers: that these need.
        truth: pair and seed to a judge of its edited images, where the truth is known.
        pairs: by id; only the truth needs them.
        again: whether to measure all of the metrics, and write all of the records at the end or none.

    Returns:
        The completed records, without those whose pictures are missing, and the missing files.

    Raises:
        UserError: if the records cannot be written, a metric raises on a pair, or a record would keep a metric by what
            no longer measures it.
    """
    kept, missing = kept_pictures(folder.path, records)
    networks = measured_by(scorers, names)
    completed: list[Record] = []
    for of_pair in kept:
        first = of_pair.records[0]
        lack = [name for name in names if again or any(name not in record.metrics for record in of_pair.records)]
        judge = truth(pairs[first.pair_id], first.seed) if truth else None
        reference = of_pair.reference()._replace(truth=judge)
        try:
            scores = score_images(scorers, reference, [pixels(path) for path in of_pair.pictures], lack)
        except PairError as error:
            raise UserError(f"pair {first.pair_id!r}: {error}; mend it, and the same command goes on") from None
        by = {name: networks[name] for name in lack if name in networks}
        added = [_with_metrics(record, score, by) for record, score in zip(of_pair.records, scores, strict=True)]
        if not again:
            folder.append(added)
        completed += added
    if again:
        _refuse_leaving(folder, completed, networks)
        folder.append(completed)
    return completed, missing


def _refuse_leaving(folder: RunFolder, measured: Sequence[Record], by: Mapping[str, str]) -> None:
    """Check that no other record has metrics of the same names by something else.

    Raises:
        UserError: if one has.
    """
    keys = {record.key for record in measured}
    others = [record for record in folder.records if record.key not in keys]
    refuse_other_scorers(by, others, "their pictures were not all measured, so nothing is written")


def add_metrics(
    path: Path, words: Sequence[str], settings: Mapping[str, Any] | None = None, again: bool = False
) -> AddedMetrics:
    """Add metrics to the records of a finished run; only what a record lacks is measured.

    Args:
        path: the run folder.
        words: names of metrics, or of sets of them.
        settings: that differ from those of the run, by name.
        again: whether records that have the metrics are measured too, as by a function that was mended.

    Raises:
        UserError: if the folder is no run or cannot be written, a metric is unknown, weights are missing, or they are
            not those that the run was scored by.
    """
    request = requests_of(path)[-1]
    own = parse_settings(settings or {})
    refuse_without_effect(
        own, ("model.", "masker.", "sae."), "nothing is generated; leave it out", but=("model.device",)
    )
    now = changed(request.settings, settings or {})
    if now.clip.quick_gelu != request.settings.clip.quick_gelu:
        raise UserError("clip.quick_gelu belongs to what the run was scored by; leave it out")
    request = request.model_copy(update={"settings": now})
    entry = entry_named(request.model)
    named = metrics_named(entry, words)
    refuse_unused_scorers(own, named)
    scorers, truth = load_scorers(request.model, request.settings, request.protocol, named)
    if request.handed_in:  # the truth is known of pairs that a file holds and of the model's own pictures
        truth = None
    names = [metric.name for metric in metrics_of(named, truth is not None)]
    with RunFolder(path) as folder:
        _refuse_other_scorers(folder, scorers, () if again else names)
        lack = [r for r in folder.records if r.status == "ok"] if again else lacking(folder.records, names)
        drawn = any(METRICS[name].drawn_world for name in names)
        pairs = {pair.id: pair for pair in request.pairs()} if drawn and lack else {}
        _refuse_none(folder)
        completed, missing = complete(folder, lack, names, scorers, truth if drawn else None, pairs, again)
        lacked = {record.key for record in lack}
        have = [r for r in folder.records if r.status == "ok" and r.key not in lacked] + completed
    undefined = {name: sum(record.metrics[name] is None for record in have) for name in names}
    return AddedMetrics(names, len(have), missing, undefined=undefined)


def _refuse_none(folder: RunFolder) -> None:
    """Check that a folder has records with pictures.

    Raises:
        UserError: if it has none.
    """
    if not any(record.status == "ok" for record in folder.records):
        what = "only failed records" if folder.records else "no records"
        raise UserError(f"{folder.path} holds {what}, so there is nothing to score; finish the run first")


def _refuse_other_scorers(folder: RunFolder, scorers: Scorers, names: Sequence[str]) -> None:
    """Check that CLIP, LPIPS and the networks of single metrics are those of the records.

    Raises:
        UserError: if they are not.
    """
    for name in ("clip", "lpips"):
        part = getattr(scorers, name)
        ours = f"{part.name}-{part.fingerprint}"
        for theirs in {record.parts.get(name, ours) for record in folder.records} - {ours}:
            end = "name its weights with --set, or score with what the run was scored by"
            raise UserError(f"the run was scored by the {name} {theirs}, and this one is {ours}; {end}")
    refuse_other_scorers(measured_by(scorers, names), folder.records, AGAIN)


def _with_metrics(record: Record, scores: Scores, by: Mapping[str, str]) -> Record:
    """A record with further metrics; ``by`` names what measured them."""
    update = {"metrics": record.metrics | scores, "measured_by": record.measured_by | dict(by)}
    return record.model_copy(update=update)


def add_by_command(path: Path, command: str, again: bool = False) -> AddedMetrics:
    """Add the metrics that a command measures of a run's pictures to its records.

    The command gets a folder with the pictures; ``pictures.csv`` with a row for each: its ``file``, ``pair_id``,
    ``prompt`` (of the edit) and ``original_prompt``, both without brackets, and its ``base``, ``source``, ``mask-base``
    and ``mask-source`` in the folder ``references``. It must write ``scores.csv`` there: a column ``file``, and one
    for each metric, empty where the metric is undefined. Records keep the command, with a hash of the files that it
    names and of what these import.

    Args:
        path: the run folder.
        command: words, in one of which ``{folder}`` stands for that folder; no shell reads them.
        again: whether another command may have measured metrics of these names before, in the same pictures.

    Raises:
        UserError: if the command fails or changes a picture of the run, its scores cannot be read, a name is one of
            riebench's metrics, or another command has measured a metric of that name in this run.
    """
    words = _words(command)
    if FOLDER not in command:
        raise UserError(f"the command {command!r} has no {FOLDER}; put it where the folder of pictures belongs")
    with RunFolder(path) as folder, TemporaryDirectory() as temporary:
        _refuse_none(folder)
        scored = [record for record in folder.records if record.status == "ok"]
        kept, missing = kept_pictures(path, scored)
        if not kept:
            raise UserError(f"{path} keeps no pictures that could be scored; run with --keep-images")
        by_file = _lay_out(kept, Path(temporary))
        files = _files_of(words)
        hashes = {file: file_hash(file) for file in files}
        _run(command, words, temporary)
        _refuse_overwriting(path, kept)
        # A file that the command has written is no part of it.
        code = hash_of_files(file for file in files if file.is_file() and file_hash(file) == hashes[file])
        names, scores = _read_scores(Path(temporary) / SCORES, by_file)
        by = dict.fromkeys(names, with_hash(command, code))
        if not again:
            refuse_other_scorers(by, folder.records, "give its column another name, or measure all anew with --again")
        measured = [_with_metrics(by_file[file], scores[file], by) for file in by_file if scores.get(file)]
        _refuse_leaving(folder, measured, by)
        folder.append(measured)
    unscored = {name: [file for file in by_file if name not in scores.get(file, {})] for name in names}
    undefined = {name: sum(row.get(name, 0) is None for row in scores.values()) for name in names}
    return AddedMetrics(names, len(measured), missing, unscored, undefined)


def _refuse_overwriting(path: Path, kept: Sequence[KeptPictures]) -> None:
    """Check that a command has left the run's pictures, which it was given as links, as they were.

    Raises:
        UserError: if it has changed one, as far as hashes are known.
    """
    hashes = image_hashes(path)
    for picture in [file for of_pair in kept for file in (*of_pair.references.values(), *of_pair.pictures)]:
        if not picture.is_file() or is_changed(picture, hashes):
            raise UserError(f"the command has changed {picture}; let it write new files alone, and run again")


def _files_of(words: Sequence[str]) -> list[Path]:
    """The files that a command names, its program among them if that is a script, and what Python files import."""
    modules = [word for option, word in pairwise(words) if option == "-m"]
    program = Path(shutil.which(words[0]) or words[0])
    named = [Path(word.rpartition("=")[2]) for word in words[1:] if FOLDER not in word]
    files = {file.absolute() for file in named if _is_file(file)}
    if _is_file(program) and program.open("rb").read(2) == b"#!":
        files.add(program.absolute())
    files |= {file for name in modules for file in module_files(name.partition(".")[0], Path())}
    return sorted(files | set(imported_files(files)))


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:
        raise UserError(f"the command {command!r} cannot be read ({str(error).lower()}); quote it anew") from None


def _is_file(path: Path) -> bool:
    with suppress(OSError, ValueError):  # a word that is no name of a file
        return path.is_file()
    return False


def _lay_out(kept: Sequence[KeptPictures], folder: Path) -> dict[str, Record]:
    """Put the pictures and their list into the command's folder; returns the record of each file."""
    (folder / BESIDE).mkdir()
    by_file: dict[str, Record] = {}
    with (folder / LIST).open("w", newline="", encoding="utf-8") as opened:
        rows = csv.writer(opened)
        rows.writerow([FILE, "pair_id", "prompt", "original_prompt", *REFERENCES])
        for of_pair in kept:
            beside = [f"{BESIDE}/{path.name}" for path in of_pair.references.values()]
            for name, path in zip(beside, of_pair.references.values(), strict=True):
                (folder / name).symlink_to(path.resolve())
            for record, path in zip(of_pair.records, of_pair.pictures, strict=True):
                (folder / path.name).symlink_to(path.resolve())
                by_file[path.name] = record
                prompts = [without_brackets(text) for text in (record.editing_prompt, record.original_prompt)]
                rows.writerow([path.name, record.pair_id, *prompts, *beside])
    return by_file


def _run(command: str, words: Sequence[str], folder: str) -> None:
    words = [word.replace(FOLDER, folder) for word in words]
    try:
        done = subprocess.run(words, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    except OSError as error:
        raise UserError(f"the command {words[0]!r} cannot be started ({error.strerror or error})") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise UserError(f"the command {command!r} failed with exit code {done.returncode}: {last}")


def _read_scores(path: Path, known: Mapping[str, Record]) -> tuple[list[str], dict[str, Scores]]:
    """The names of the metrics in the file that a command wrote, and the finite or undefined scores of each picture."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as opened:
            head, *rows = [row for row in csv.reader(opened) if row] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"the command wrote no {SCORES} that can be read ({error}); see 'riebench score --help'"
        ) from None
    names = [name for name in head if name != FILE]
    for name in names:
        taken = {name, name.removesuffix("_base")} & {*known_names(), *RESERVED}
        if taken or not re.fullmatch(NAME, name):
            what = "is one of riebench's metrics or columns of records, or no name as my_metric"
            raise UserError(f"the column {name!r} of {SCORES} {what}; give it another name")
    if FILE not in head or not names or len(set(head)) < len(head):
        raise UserError(f"{SCORES} has the columns {', '.join(head) or 'none'}; expected {FILE} and a metric or more")
    scores: dict[str, Scores] = {}
    for number, row in enumerate(rows, 2):
        cells = dict(zip(head, row, strict=False))
        if len(row) != len(head) or cells[FILE] not in known:
            raise UserError(f"{SCORES}, line {number}: {', '.join(row)} is no row of a picture in {LIST}")
        if cells[FILE] in scores:
            raise UserError(f"{SCORES}, line {number}: {cells[FILE]} is there twice; give each picture one row")
        numbers = {name: _number(cells[name], number) for name in names}
        scores[cells[FILE]] = {n: value for n, value in numbers.items() if value is None or math.isfinite(value)}
    return names, scores


def _number(text: str, line: int) -> float | None:
    """The number of a cell, which may be infinite or not a number; None for an empty cell."""
    try:
        return float(text) if text.strip() else None
    except ValueError:
        raise UserError(
            f"{SCORES}, line {line}: {text!r} is not a number; leave it empty where it is undefined"
        ) from None
