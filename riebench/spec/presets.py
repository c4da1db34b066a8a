"""Named sweeps: the published one, and a part of it for an afternoon. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from riebench.util.errors import unknown
from riebench.spec.sweeps import Sweep

FEATURES = 4 * 5120
"""SAE features that the published k's were chosen from: four blocks."""
NEURONS = 4 * 10 * 5120
"""Neurons that the published k's were chosen from: ten layers of each of the four blocks."""


@dataclass(frozen=True)
class Preset:
    """Everything about a run but the model and the pairs.

    Attributes:
        says: what it is, in a line.
        sweeps: methods, options and strengths.
        steps: denoising steps.
        limit: pairs of each category at most.
        protocol: name.
    """

    says: str
    sweeps: Sequence[Sweep]
    steps: int
    limit: int
    protocol: str


PRESETS = {
    "paper": Preset(
        "the published sweep: 32 settings, at most 50 pairs of each category",
        (
            Sweep(("sae",), (1, 2), (80, 160, 320, 640), {"score": "first"}, FEATURES),
            Sweep(("steering",), (0.25, 0.5, 1, 2)),
            Sweep(("neurons",), (1, 2), (5000, 10000, 20000, 40000, 80000), {"score": "first"}, NEURONS),
            Sweep(("neurons",), (1, 2), (5000, 10000, 20000, 40000, 80000), {"score": "mean"}, NEURONS),
        ),
        steps=4,
        limit=50,
        protocol="paper",
    ),
    "paper-small": Preset(
        "a part of it for an afternoon: 9 settings, at most 6 pairs of each category",
        (
            Sweep(("sae",), (1, 2), (160, 320), {"score": "first"}, FEATURES),
            Sweep(("steering",), (0.5, 1, 2)),
            Sweep(("neurons",), (1, 2), (20000,), {"score": "first"}, NEURONS),
        ),
        steps=4,
        limit=6,
        protocol="paper",
    ),
}


def preset_named(name: str) -> Preset:
    """A preset by name.

    Raises:
        UserError: if there is no such preset.
    """
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]
