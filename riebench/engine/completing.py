"""Add metrics to the records of a run from the pictures that its folder keeps; nothing is generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image as PILImage
from PIL import UnidentifiedImageError

from riebench.engine.request import metrics_named, requests_of
from riebench.engine.resume import lacking, refuse_other_scorers
from riebench.instruments.loading import load_scorers, measured_by
from riebench.instruments.model_instruments import TruthOf
from riebench.metrics import METRICS, Reference, Scorers, metrics_of, score_images
from riebench.metrics.seen import Image
from riebench.models.entries import entry_named
from riebench.pairs import Pair
from riebench.pairs.pair import without_brackets
from riebench.records import Record, RunFolder
from riebench.records.folder import IMAGES
from riebench.settings.protocols import PROTOCOLS
from riebench.settings.settings import changed
from riebench.util.errors import PairError, UserError

REFERENCES = ("base", "source", "mask-base", "mask-source")


class Kept(NamedTuple):
    """The pictures of a pair that a run folder keeps.

    Attributes:
        records: those of the pair whose pictures are there.
        references: file of each of :data:`REFERENCES`.
        pictures: file of the picture of each record.
    """

    records: list[Record]
    references: dict[str, Path]
    pictures: list[Path]


def kept_pictures(folder: Path, records: Sequence[Record]) -> tuple[list[Kept], list[Path]]:
    """The pictures of some records pair by pair, and the files that are missing or cannot be read.

    A pair without its base or source image or a mask is left out.
    """
    by_pair: dict[str, list[Record]] = {}
    for record in records:
        by_pair.setdefault(record.pair_id, []).append(record)
    found, missing = [], []
    for pair, mine in by_pair.items():
        references = {name: folder / IMAGES / f"{pair}-{name}.png" for name in REFERENCES}
        pictures = {record.key: folder / IMAGES / f"{pair}-{record.key}.png" for record in mine}
        lost = {path for path in (*references.values(), *pictures.values()) if not _readable(path)}
        missing += [path for path in (*references.values(), *pictures.values()) if path in lost]
        there = [record for record in mine if pictures[record.key] not in lost]
        if there and not lost.intersection(references.values()):
            found.append(Kept(there, references, [pictures[record.key] for record in there]))
    return found, missing


def complete(
    folder: RunFolder,
    records: Sequence[Record],
    names: Sequence[str],
    scorers: Scorers,
    truth: TruthOf | None,
    pairs: Mapping[str, Pair],
) -> tuple[list[Record], list[Path]]:
    """Measure what records lack of some metrics, and write them.

    Args:
        folder: that holds them; open.
        records: scored ones.
        names: of the metrics.
        scorers: that these need.
        truth: pair and seed to a judge of its edited images, where the truth is known.
        pairs: by id; only the truth needs them.

    Returns:
        The records as they are now, without those whose pictures are missing, and the missing files.

    Raises:
        UserError: if the records cannot be written, or a metric raises on a pair.
    """
    found, missing = kept_pictures(folder.path, records)
    by = measured_by(scorers, names)
    done: list[Record] = []
    for kept in found:
        first = kept.records[0]
        lack = [name for name in names if any(name not in record.metrics for record in kept.records)]
        judge = truth(pairs[first.pair_id], first.seed) if truth else None
        reference = reference_of(kept)._replace(truth=judge)
        try:
            scores = score_images(scorers, reference, [pixels(path) for path in kept.pictures], lack)
        except PairError as error:
            raise UserError(f"pair {first.pair_id!r}: {error}; mend it, and the same command goes on") from None
        mine = [
            record.model_copy(
                update={
                    "metrics": record.metrics | score,
                    "measured_by": record.measured_by | {name: by[name] for name in lack if name in by},
                }
            )
            for record, score in zip(kept.records, scores, strict=True)
        ]
        folder.append(mine)
        done += mine
    return done, missing


@dataclass
class Added:
    """What became of metrics that were added to a run.

    Attributes:
        metrics: their names.
        records: how many records have them now.
        missing: files of pictures that are not there.
    """

    metrics: list[str]
    records: int
    missing: list[Path]


def add_metrics(path: Path, words: Sequence[str], settings: Mapping[str, Any] | None = None) -> Added:
    """Add metrics to the records of a finished run.

    Args:
        path: the run folder.
        words: names of metrics, or of sets of them; only what a record lacks is measured.
        settings: that differ from those of the run, by name.

    Raises:
        UserError: if the folder is no run or cannot be written, a metric is unknown, weights are missing, or they are
            not those that the run was scored by.
    """
    request = requests_of(path)[-1]
    now = changed(request.settings, settings or {})
    if now.clip.quick_gelu != request.settings.clip.quick_gelu:
        raise UserError("clip.quick_gelu belongs to what the run was scored by; leave it out")
    request = request.model_copy(update={"settings": now})
    entry = entry_named(request.model)
    named = metrics_named(entry, words)
    scorers, truth = load_scorers(request.model, request.settings, request.protocol, named)
    if request.handed_in:  # the truth is known of pairs that a file holds and of the model's own pictures
        truth = None
    names = [metric.name for metric in metrics_of(named, truth is not None)]
    with RunFolder(path) as folder:
        _refuse_other_scorers(folder, scorers, names)
        lack = lacking(folder.records, names)
        drawn = any(METRICS[name].drawn_world for name in names)
        pairs = {pair.id: pair for pair in request.pairs()} if drawn and lack else {}
        done, missing = complete(folder, lack, names, scorers, truth if drawn else None, pairs)
        scored = sum(record.status == "ok" for record in folder.records)
    return Added(names, scored - len(lack) + len(done), missing)


def _refuse_other_scorers(folder: RunFolder, scorers: Scorers, names: Sequence[str]) -> None:
    """See that CLIP and LPIPS, and what measures single metrics, are those of the records.

    Raises:
        UserError: if they are not.
    """
    for name in ("clip", "lpips"):
        part = getattr(scorers, name)
        mine = f"{part.name}-{part.fingerprint}"
        for theirs in {record.parts.get(name, mine) for record in folder.records} - {mine}:
            end = "name its weights with --set, or score with what the run was scored by"
            raise UserError(f"the run was scored by the {name} {theirs}, and this one is {mine}; {end}")
    refuse_other_scorers(measured_by(scorers, names), folder.records, "score a copy of the folder")


def prompts_of(record: Record) -> tuple[str, str]:
    """The edit prompt and the original one as they are embedded."""
    prompts = (record.editing_prompt, record.original_prompt)
    brackets = PROTOCOLS[record.protocol].score_brackets
    return prompts if brackets else (without_brackets(prompts[0]), without_brackets(prompts[1]))


def reference_of(kept: Kept) -> Reference:
    """What the pictures of a pair are compared with; without the truth."""
    edit, original = prompts_of(kept.records[0])
    base, source, *masks = (pixels(kept.references[name]) for name in REFERENCES)
    return Reference(base, source, edit, original, region=np.any([mask[..., 0] > 127 for mask in masks], axis=0))


def pixels(path: Path) -> Image:
    """A picture that is kept (OSError)."""
    with PILImage.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _readable(path: Path) -> bool:
    try:
        pixels(path)
    except (OSError, UnidentifiedImageError, SyntaxError):
        return False
    return True
