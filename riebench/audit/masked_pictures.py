"""Pictures of a run composited with their base picture outside the masks, and scored again. Needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from riebench.engine.completing import Kept, kept_pictures, pixels, reference_of
from riebench.engine.request import requests_of
from riebench.instruments.loading import load_scorers
from riebench.instruments.model_instruments import TruthOf
from riebench.metrics import METRICS, Reference, Scorers, score_images
from riebench.metrics.seen import Image
from riebench.pairs import Pair
from riebench.records import read_records
from riebench.settings.lpips_search import LPIPS

NEEDED = ("clip_text_edit", "clip_text_original", LPIPS)


def composite(picture: Image, reference: Reference) -> Image:
    """The picture inside the region that both masks cover, the base picture elsewhere."""
    return np.where(reference.region[..., None], picture, reference.base)


def score_composites(folder: Path, chosen: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Score the composites of some pictures that a run folder keeps.

    Args:
        folder: of the run.
        chosen: columns key, pair_id, arm.

    Returns:
        The rows whose pictures are there, with a column for each metric, and the number of files that are missing.

    Raises:
        UserError: if weights of the scorers are missing, or the folder does not say what was run.
    """
    keys = set(chosen["key"])
    records = [record for record in read_records(folder) if record.key in keys]
    found, missing = kept_pictures(folder, records)
    if not found:
        return chosen.head(0), len(missing)
    request = requests_of(folder)[-1]
    scorers, truth = load_scorers(request.model, request.settings, request.protocol, request.metrics)
    if request.handed_in:  # the truth is known of pairs that a file holds and of the model's own pictures
        truth = None
    pairs = {pair.id: pair for one in requests_of(folder) for pair in one.pairs()} if truth else {}
    rows = [row for kept in found for row in _of_pair(kept, scorers, truth, pairs)]
    return chosen.merge(pd.DataFrame(rows), on="key"), len(missing)


def _of_pair(
    kept: Kept, scorers: Scorers, truth: TruthOf | None, pairs: Mapping[str, Pair]
) -> list[dict[str, str | float | None]]:
    """The metrics of the composites of a pair, with the keys of their records."""
    first, reference = kept.records[0], reference_of(kept)
    judge = truth(pairs[first.pair_id], first.seed) if truth else None
    names = [*NEEDED, *(name for name, metric in METRICS.items() if judge and metric.drawn_world)]
    pictures = [composite(pixels(path), reference) for path in kept.pictures]
    scores = score_images(scorers, reference._replace(truth=judge), pictures, names)
    return [{"key": record.key, **score} for record, score in zip(kept.records, scores, strict=True)]
