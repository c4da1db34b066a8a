"""Everything a run measures with: model, masker, CLIP, LPIPS, SAEs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from riebench.errors import UserError
from riebench.masks import Masker
from riebench.metrics import Scorers
from riebench.metrics.score import Truth
from riebench.models import Denoiser, ModelEntry
from riebench.pairs import Pair
from riebench.sae import TopKSAE


@dataclass
class Instruments:
    """The loaded parts of a run.

    Attributes:
        entry: the model's entry.
        denoiser: the model.
        masker: finds what a phrase names.
        scorers: CLIP and LPIPS.
        load_block_sae: block to its SAE, which is loaded when first asked for.
        truth: pair and seed to a judge of its edited images, where the truth is known.
        parts: fingerprints of all weights.
    """

    entry: ModelEntry
    denoiser: Denoiser
    masker: Masker
    scorers: Scorers
    load_block_sae: Callable[[str], TopKSAE]
    truth: Callable[[Pair, int], Truth] | None
    parts: dict[str, str]
    _saes: dict[str, TopKSAE] = field(default_factory=dict)

    def sae(self, block: str) -> TopKSAE:
        """The SAE of a block, checked against the model."""
        if block not in self._saes:
            sae = self.load_block_sae(block)
            channels = self.denoiser.lens.blocks[block].channels
            if sae.d_model != channels:
                raise UserError(f"the SAE of {block} is {sae.d_model} wide, the block has {channels} channels")
            self._saes[block] = sae
        return self._saes[block]
