"""What a method sees of a pair: prompts, values, masks and SAEs of the chosen sites."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from riebench.methods.choosing import rank
from riebench.models.sites import Values, block_of
from riebench.pairs import Pair
from riebench.spec.protocols import RIEBENCH, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from riebench.sae import TopKSAE

T = TypeVar("T")
RunName = Literal["base", "source"]


@dataclass(frozen=True)
class Observed:
    """One pair as a method sees it; other methods see the same tensors.

    Attributes:
        pair: prompts, category, phrases.
        sites: the blocks to edit, in the order in which they run.
        base: site to the values ``[steps, positions, width]`` of the base run; of a method that needs neurons, also
            those of :attr:`neuron_sites`.
        source: the same of the source run.
        base_masks: site to boolean ``[positions]``: where the original phrase was found in the base image.
        source_masks: site to boolean ``[positions]``: where the edit phrase was found in the source image.
        sae: site to its SAE.
        seed: of the pair, for methods that draw.
        protocol: what is done where the published behaviour is doubtful.
    """

    pair: Pair
    sites: tuple[str, ...]
    base: Mapping[str, Values]
    source: Mapping[str, Values]
    base_masks: Mapping[str, Tensor]
    source_masks: Mapping[str, Tensor]
    sae: Callable[[str], TopKSAE]
    seed: int
    protocol: Protocol = RIEBENCH
    _kept: dict[Hashable, Any] = field(default_factory=dict)

    def values(self, run: RunName) -> Mapping[str, Values]:
        """Site to values, of the base or of the source run."""
        return self.base if run == "base" else self.source

    def masks(self, run: RunName) -> Mapping[str, Tensor]:
        """Site to mask, of the base or of the source run."""
        return self.base_masks if run == "base" else self.source_masks

    @property
    def neuron_sites(self) -> tuple[str, ...]:
        """The neurons of every layer of the chosen blocks, in order."""
        return tuple(site for site in self.base if site != block_of(site) and block_of(site) in self.sites)

    def codes(self, run: RunName, site: str) -> Tensor:
        """SAE codes ``[steps, positions, features]``, encoded once for a pair."""
        return self.once(("codes", run, site), lambda: self.sae(site).encode(self.values(run)[site]))

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` gives, worked out once for a pair and shared by all methods that ask for the key.

        Tensors in it are inference tensors: torch refuses to change them in place.
        """
        if key not in self._kept:
            import torch

            with torch.inference_mode():
                self._kept[key] = make()
        kept: T = self._kept[key]
        return kept

    def rank(self, source: Sequence[Tensor], base: Sequence[Tensor], k: int) -> tuple[list[Tensor], list[Tensor]]:
        """:func:`riebench.methods.rank` as the protocol of the run has it."""
        return rank(source, base, k, self.protocol.shares)

    def generator(self) -> torch.Generator:
        """A seeded generator of the pair's own."""
        import torch

        return torch.Generator().manual_seed(self.seed)
