"""What a method sees of a pair: prompts, activations, masks and SAEs of the chosen blocks."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from riebench.lens import Activations, Place
from riebench.methods.choosing import Shares, rank
from riebench.pairs import Pair
from riebench.sae import TopKSAE

T = TypeVar("T")


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
        shares: how the protocol makes mean activations comparable; use :meth:`rank`.
    """

    pair: Pair
    blocks: tuple[str, ...]
    base: Activations
    source: Activations
    base_masks: Mapping[str, Tensor]
    source_masks: Mapping[str, Tensor]
    find_sae: Callable[[str], TopKSAE]
    seed: int
    shares: Shares = "absolute"
    _kept: dict[Any, Any] = field(default_factory=dict)

    def sae(self, block: str) -> TopKSAE:
        """The SAE of a block."""
        return self.find_sae(block)

    def codes(self, run: str, block: str) -> Tensor:
        """SAE codes ``[steps, features, height, width]`` of the ``"base"`` or ``"source"`` run, encoded once."""
        activations = self.base if run == "base" else self.source
        return self.once(("codes", run, block), lambda: self.sae(block).encode_map(activations.updates[block]))

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` gives, worked out once for a pair and shared by all who ask for the key."""
        if key not in self._kept:
            self._kept[key] = make()
        kept: T = self._kept[key]
        return kept

    def rank(self, source: Sequence[Tensor], base: Sequence[Tensor], k: int) -> tuple[list[Tensor], list[Tensor]]:
        """:func:`riebench.methods.rank` as the protocol of the run has it."""
        return rank(source, base, k, self.shares)

    def generator(self) -> torch.Generator:
        """A seeded generator of the pair's own."""
        return torch.Generator().manual_seed(self.seed)

    @cached_property
    def neuron_places(self) -> tuple[Place, ...]:
        """Every layer with neurons in the chosen blocks, in order."""
        return tuple(place for place in self.base.neurons if place.block in self.blocks)
