"""What a method sees of a pair: prompts, activations, masks and SAEs of the chosen blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from riebench.lens import Activations, Place
from riebench.pairs import Pair
from riebench.sae import TopKSAE


@dataclass(frozen=True)
class Observed:
    """One pair as a method sees it; the tensors are shared with other methods and not to be changed.

    Attributes:
        pair: prompts, category, phrases.
        blocks: the blocks to intervene in, in the order in which they run.
        base: activations of the base run: ``updates[block]`` ``[steps, channels, height, width]``, and, for methods
            that need them, ``neurons[place]`` ``[steps, height * width, neurons]``.
        source: activations of the source run.
        base_masks: block to boolean ``[height, width]``: where the original phrase was found in the base image.
        source_masks: block to boolean ``[height, width]``: where the edit phrase was found in the source image.
        find_sae: block to its SAE; use :meth:`sae`.
        seed: of the pair, for methods that draw.
    """

    pair: Pair
    blocks: tuple[str, ...]
    base: Activations
    source: Activations
    base_masks: Mapping[str, Tensor]
    source_masks: Mapping[str, Tensor]
    find_sae: Callable[[str], TopKSAE]
    seed: int
    _codes: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    def sae(self, block: str) -> TopKSAE:
        """The SAE of a block."""
        return self.find_sae(block)

    def codes(self, run: str, block: str) -> Tensor:
        """SAE codes ``[steps, features, height, width]`` of the ``"base"`` or ``"source"`` run, encoded once."""
        key = (run, block)
        if key not in self._codes:
            activations = self.base if run == "base" else self.source
            self._codes[key] = self.sae(block).encode_map(activations.updates[block])
        return self._codes[key]

    def generator(self) -> torch.Generator:
        """A seeded generator of the pair's own."""
        return torch.Generator().manual_seed(self.seed)

    @cached_property
    def neuron_places(self) -> tuple[Place, ...]:
        """Every layer with neurons in the chosen blocks, in order."""
        return tuple(place for place in self.base.neurons if place.block in self.blocks)
