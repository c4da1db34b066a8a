"""Named sweeps: the published one, and a part of it for an afternoon. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from riebench.models.sdxl import PAPER_FEATURES, PAPER_NEURONS
from riebench.util.errors import unknown


class Sweep(NamedTuple):
    """Values to try of one or more methods.

    Attributes:
        methods: names.
        strengths: factors on the whole intervention.
        k: numbers of features (or neurons), for methods that have the option.
        options: further options, given to every method that has them.
        candidates: how many features (or neurons) the k's were chosen from; a model with another number gets
            the same share. None takes them as they are.
    """

    methods: Sequence[str]
    strengths: Sequence[float] = (1.0,)
    k: Sequence[int] = ()
    options: Mapping[str, Any] = {}
    candidates: int | None = None


@dataclass(frozen=True)
class Preset:
    """Everything about a run but the model and the pairs.

    Attributes:
        says: what it is, in a line.
        sweeps: methods, options and strengths.
        steps: denoising steps of models that are not guided; None for the model's own.
        limit: pairs of each category at most; None for all.
        protocol: name.
        settings: of the model, by name; those that the user gives take precedence.
    """

    says: str
    sweeps: Sequence[Sweep]
    steps: int | None
    limit: int | None
    protocol: str
    settings: Mapping[str, Any] = field(default_factory=dict)


_NEURONS = (5000, 10000, 20000, 40000, 80000)
_PAPER = Preset(
    "the published sweep: 32 settings, at most 50 pairs of each category",
    (
        Sweep(("sae",), (1, 2), (80, 160, 320, 640), {"score": "first"}, PAPER_FEATURES),
        Sweep(("steering",), (0.25, 0.5, 1, 2)),
        Sweep(("neurons",), (1, 2), _NEURONS, {"score": "first"}, PAPER_NEURONS),
        Sweep(("neurons",), (1, 2), _NEURONS, {"score": "mean"}, PAPER_NEURONS),
    ),
    steps=4,
    limit=50,
    protocol="paper",
)
PRESETS = {
    "paper": _PAPER,
    "paper-flux": replace(
        _PAPER,
        says="the published sweep as the authors' newest notebook runs FLUX.1-schnell: 1024 pixels, 1 step, bfloat16",
        steps=1,
        settings={"model.size": 1024, "model.dtype": "bfloat16"},
    ),
    "paper-small": Preset(
        "a part of it for an afternoon: 9 settings, at most 6 pairs of each category",
        (
            Sweep(("sae",), (1, 2), (160, 320), {"score": "first"}, PAPER_FEATURES),
            Sweep(("steering",), (0.5, 1, 2)),
            Sweep(("neurons",), (1, 2), (20000,), {"score": "first"}, PAPER_NEURONS),
        ),
        steps=4,
        limit=6,
        protocol="paper",
    ),
    "shares": Preset(
        "the published shares of features and neurons, for --at-lpips: each k at strengths of its own",
        (
            Sweep(("sae",), (0.5, 1, 2), (80, 160, 320, 640), {}, PAPER_FEATURES),
            Sweep(("neurons",), (0.5, 1, 2), _NEURONS, {}, PAPER_NEURONS),
        ),
        steps=None,
        limit=None,
        protocol="riebench",
    ),
    "bench": Preset(
        "what 'riebench bench' measures: 12 settings of the published sweep",
        (
            Sweep(("sae",), (1, 2), (160, 320), {}, PAPER_FEATURES),
            Sweep(("steering",), (0.25, 0.5, 1, 2)),
            Sweep(("neurons",), (1, 2), (20000, 40000), {}, PAPER_NEURONS),
        ),
        steps=None,
        limit=None,
        protocol="riebench",
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
