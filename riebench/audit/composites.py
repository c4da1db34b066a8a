"""Composite the pictures of a run with their base picture outside the masks, and score them. Needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from riebench.engine.kept_pictures import KeptPictures, kept_pictures, pixels
from riebench.engine.request import requests_of
from riebench.instruments.loading import TruthOf, load_scorers
from riebench.metrics import METRICS, Reference, Scorers, score_images
from riebench.pairs import Pair
from riebench.records import read_records
from riebench.settings.lpips_search import LPIPS

if TYPE_CHECKING:
    from riebench.metrics.seen import Image

NEEDED = ("clip_text_edit", "clip_text_original", LPIPS)


def composite(picture: Image, reference: Reference) -> Image:
    """The picture inside the union of the pair's two masks, the base picture elsewhere; ``[height, width, 3]``."""
    return np.where(reference.region[..., None], picture, reference.base)


def score_composites(folder: Path, chosen: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Score the composites of some pictures that a run folder keeps.

    Args:
        folder: folder of the run.
        chosen: the pictures, a row each; columns key, pair_id, arm.

    Returns:
        The rows of ``chosen`` whose pictures exist, with a column for each metric, and the number of missing files.

    Raises:
        UserError: if weights of the scorers are missing, or run.json is missing from the folder.
    """
    keys = set(chosen["key"])
    records = [record for record in read_records(folder) if record.key in keys]
    kept_pairs, missing = kept_pictures(folder, records)
    if not kept_pairs:
        return chosen.head(0), len(missing)
    request = requests_of(folder)[-1]
    scorers, truth = load_scorers(request.model, request.settings, request.protocol, request.metrics)
    if request.handed_in:  # the truth of a pair is read from its pair file, and only the model's own pictures have one
        truth = None
    pairs = {pair.id: pair for earlier in requests_of(folder) for pair in earlier.pairs()} if truth else {}
    rows = [row for kept in kept_pairs for row in _scored_pair(kept, scorers, truth, pairs)]
    return chosen.merge(pd.DataFrame(rows), on="key"), len(missing)


def _scored_pair(
    kept: KeptPictures, scorers: Scorers, truth: TruthOf | None, pairs: Mapping[str, Pair]
) -> list[dict[str, str | float | None]]:
    """The metrics of each composite of a pair, with the key of its record."""
    first, reference = kept.records[0], kept.reference()
    judge = truth(pairs[first.pair_id], first.seed) if truth else None
    names = [*NEEDED, *(name for name, metric in METRICS.items() if judge and metric.drawn_world)]
    pictures = [composite(pixels(path), reference) for path in kept.pictures]
    scores = score_images(scorers, reference._replace(truth=judge), pictures, names)
    return [{"key": record.key, **score} for record, score in zip(kept.records, scores, strict=True)]
