"""The metrics that rank arms at matched LPIPS."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from riebench.report.arms import GAIN, Pairs
from riebench.util.errors import UserError, unknown

Array = NDArray[np.float64]
MARGIN, SUCCESS = "margin", "edit_success"
RANKINGS = {
    GAIN: "CLIP similarity with the edit prompt over that of the base image, as published",
    MARGIN: "CLIP similarity with the edit prompt minus that with the original prompt",
    SUCCESS: "share of pairs whose edited attribute reads as the edit prompt says (drawn world only)",
}
"""The values of ``--rank-by``, with their descriptions."""


def check_ranking(by: str, metrics: Collection[str]) -> None:
    """Check that arms can be ranked by ``by``.

    Raises:
        UserError: if there is no such ranking, or no record has its metric.
    """
    if by not in RANKINGS:
        raise unknown("ranking", by, RANKINGS)
    if by != GAIN and by not in metrics:
        lack = "the truth, which is known on mini alone" if by == SUCCESS else "clip_text_original"
        raise UserError(f"these records cannot be ranked by {by}, as they lack {lack}; use --rank-by {GAIN}")


def ranked_metric(by: str) -> str:
    """The metric whose values are compared pair by pair; a gain is CLIP, as both have the same base image."""
    return "clip_text_edit" if by == GAIN else by


def worth(values: Mapping[str, Array], pairs: Pairs, by: str) -> Array:
    """The values that rank arms, ``[pairs, ...]`` as ``values``.

    A gain is the CLIP similarity itself if that of some base image is unknown.
    """
    metric_values = values[ranked_metric(by)]
    if by != GAIN or not pairs.known:
        return metric_values
    return metric_values - pairs.base.reshape(-1, *[1] * (metric_values.ndim - 1))
