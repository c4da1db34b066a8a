"""What a run will take, before it is started: settings, U-Net forwards, memory, time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from riebench.catalog import entry_named
from riebench.engine.run import RunSpec
from riebench.lens import FOUR
from riebench.methods import find
from riebench.methods.registry import option_fields
from riebench.pairs import Pair
from riebench.spec.presets import NEURONS
from riebench.util.timings import timings
from riebench.weights import parts_of

PARAMETERS = {
    "U-Net": 2.57e9,
    "text encoders": 0.82e9,
    "VAE": 0.08e9,
    "Grounding DINO": 0.17e9,
    "SAM 2.1": 0.22e9,
    "CLIP": 0.43e9,
}
"""Of SDXL and its instruments; all but the pipeline's are held in float32."""
ROW = 0.9e9
"""Bytes of activations for each row of a forward pass at 512 px in float32, about."""
NEURON_VALUES = NEURONS * 16 * 16
"""Neurons of the four blocks at 512 px, one step of one run."""
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Forecast:
    """The plan of a run.

    Attributes:
        settings: of each pair.
        pairs: number of pairs.
        forwards: U-Net forwards (of one picture) with everything that is common done once.
        plain: the same if each setting ran base, source and edited run anew, and the masks' pictures besides.
        memory: bytes, about; None for the embedded model.
        seconds: on each device on which this model was run before; empty if it never was.
    """

    settings: int
    pairs: int
    forwards: int
    plain: int
    memory: float | None
    seconds: dict[str, float]


def forecast(spec: RunSpec, pairs: Sequence[Pair]) -> Forecast:
    """Plan a run without loading any weights.

    Raises:
        UserError: for an unknown model or method.
    """
    entry = entry_named(spec.model)
    steps = spec.steps or entry.steps
    blocks = len({b for name in spec.blocks for b in (FOUR if name == "all" else [name])})
    sets = 1 + (blocks if spec.alone and blocks > 1 else 0)
    settings, neurons = 0, False
    for sweep in spec.sweeps:
        for name in sweep.methods:
            cls = find(name)
            ks = len(sweep.k) if sweep.k and "k" in option_fields(cls) else 1
            settings += ks * len(sweep.strengths) * sets
            neurons |= bool(cls.needs_neurons)
    guidance = entry.guidance if spec.settings.model.guidance is None else spec.settings.model.guidance
    rows = 2 if guidance > 1 else 1
    forwards = len(pairs) * steps * rows * (2 + settings)
    plain = len(pairs) * steps * rows * (2 + 3 * settings)
    size = BYTES[spec.settings.model.dtype]
    memory = None
    if parts_of(spec.model):
        pipeline = {"U-Net", "text encoders", "VAE"}
        weights = sum(n * (size if name in pipeline else 4) for name, n in PARAMETERS.items())
        kept = 3 * NEURON_VALUES * steps * size if neurons else 0  # base, source and one plan
        memory = weights + ROW * rows * spec.batch * size / 4 + kept
    seconds = {device: each * forwards for device, each in timings(entry.name).items()}
    return Forecast(settings, len(pairs), forwards, plain, memory, seconds)
