"""Names of features, where the world is known: the attribute value that each detects best, and how well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from riebench.features.scores.estimate import Array
from riebench.features.scores.interpretability import detect, truths_of
from riebench.instruments.world import World


class Labels(NamedTuple):
    """A label and a score for each feature; None where a feature is hardly ever active, or nothing is known."""

    labels: Sequence[str | None]
    scores: Sequence[float | None]
    score_name: str | None


def label_features(highest: Array, shown: Sequence[Mapping[str, str]], world: World) -> Labels:
    """Label each feature ``attribute: value`` with the F1 of :func:`riebench.features.scores.interpretability.detect`.

    The value and the threshold are chosen on every other picture, the F1 is of the rest.

    Args:
        highest: largest code in each picture ``[pictures, n]``.
        shown: attribute to value, for each picture.
        world: its attributes.
    """
    truths = truths_of(shown, world.attributes)
    found = detect([highest], truths, np.arange(len(highest)) % 2 == 0)
    names = [": ".join(truths.values[value]) for value in found.value]
    # A feature that is active nowhere in the half that the value is chosen on has no threshold.
    scored = np.isfinite(found.threshold) & np.isfinite(found.f1)
    return Labels(
        [name if alive else None for name, alive in zip(names, scored, strict=True)],
        [round(float(score), 4) if alive else None for score, alive in zip(found.f1, scored, strict=True)],
        "F1",
    )
