"""Does switching a feature on or off change the picture as its meaning says, and only there?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from riebench.features.scores.estimate import Array

Picture = NDArray[np.uint8]


def clip_causality(similarity: Array, controls: Sequence[int]) -> Array:
    """Similarity of each feature's picture with its meaning, less that of the pictures of other features ``[f]`` (v1).

    Args:
        similarity: of the picture with feature g switched on and the meaning of feature f ``[f, g]``.
        controls: the features g that stand for random ones; a feature is no control of itself.
    """
    scores = []
    for feature, row in enumerate(similarity):
        others = [g for g in controls if g != feature]
        scores.append(row[feature] - row[others].mean() if others else np.nan)
    return np.array(scores)


def appeared(before: Mapping[str, str], after: Mapping[str, str], attribute: str, value: str) -> float:
    """1 if a picture shows a value that it did not show before, else 0; NaN if it did show it."""
    return float("nan") if before.get(attribute) == value else float(after.get(attribute) == value)


def vanished(before: Mapping[str, str], after: Mapping[str, str], attribute: str, value: str) -> float:
    """1 if a picture no longer shows a value that it showed before, else 0; NaN if it did not show it."""
    return float(after.get(attribute) != value) if before.get(attribute) == value else float("nan")


def share_kept(before: Mapping[str, str], after: Mapping[str, str], without: str | None = None) -> float:
    """Share of the attributes shown before, but one, that show the same value after; NaN if there are none."""
    others = [name for name in before if name != without]
    return float(np.mean([after.get(name) == before[name] for name in others])) if others else float("nan")


def pixel_change(base: Picture, edited: Picture) -> NDArray[np.float64]:
    """Absolute difference of two pictures ``[height, width]``, a mean over colours, white less black being 1."""
    return np.asarray(np.abs(base.astype(float) - edited).mean(-1) / 255)


def change_ratio(base: Picture, edited: Picture, inside: NDArray[np.bool_]) -> float:
    """Mean change inside the painted area ``[height, width]`` over that outside; NaN where the ratio is undefined.

    That is where the area is empty or everything, and where nothing outside has changed.
    """
    change = pixel_change(base, edited)
    if inside.all() or not inside.any() or not change[~inside].mean() > 0:
        return float("nan")
    return float(change[inside].mean() / change[~inside].mean())
