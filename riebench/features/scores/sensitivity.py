"""Is a feature active where its meaning is named?"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from riebench.features.scores.estimate import Array
from riebench.features.scores.interpretability import Flags

AREAS = (0.01, 0.1, 0.3)
"""The shares of the picture's positions on which a feature has to be active."""


def active_share(share: Array, named: Flags, known: Flags, area: float) -> tuple[Array, Array]:
    """Share of pictures in which each feature is active on an area, ``[n]``: of those that name its meaning, of others.

    Args:
        share: share of the positions at which a feature is active ``[pictures, n]``.
        named: whether a picture names the meaning of the feature ``[pictures, n]``.
        known: whether it is known ``[pictures, n]``.
        area: from 0 to 1.
    """
    active = share >= area
    with np.errstate(invalid="ignore"):
        inside = (active & named & known).sum(0) / (named & known).sum(0)
        outside = (active & ~named & known).sum(0) / (~named & known).sum(0)
    return np.asarray(inside), np.asarray(outside)


def captions_naming(captions: Sequence[str], phrases: Sequence[str]) -> Flags:
    """Whether each caption holds each phrase as whole words, in any case ``[captions, phrases]``."""
    patterns = [re.compile(rf"(?<!\w){re.escape(phrase.strip())}(?!\w)", re.IGNORECASE) for phrase in phrases]
    return np.array([[bool(p.search(caption)) for p in patterns] for caption in captions], bool)
