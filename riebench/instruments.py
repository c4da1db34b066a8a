"""Everything a run measures with: model, masks, CLIP, LPIPS, SAEs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from riebench.util.errors import UserError
from riebench.masks import Masker, MaskRules
from riebench.masks.sources import MaskSource
from riebench.metrics import Scorers
from riebench.metrics.score import Truth
from riebench.models import Denoiser
from riebench.pairs import Pair
from riebench.records.schema import Value
from riebench.sae import TopKSAE
from riebench.util.trace import stage



@dataclass
class Instruments:
    """The loaded parts of a run.

    Attributes:
        name: of the model.
        denoiser: the model.
        masks: where the object is.
        rules: how masks come to a block's grid.
        scorers: CLIP and LPIPS.
        load_block_sae: block to its SAE, which is loaded when first asked for.
        truth: pair and seed to a judge of its edited images, where the truth is known.
        parts: fingerprints of all weights.
        conditions: further settings that can change numbers, as the type of the weights.
        sources: where the parts were found, with the revision where it is known.
        masker: what finds the masks of phrases; None if masks are given.
    """

    name: str
    denoiser: Denoiser
    masks: MaskSource
    rules: MaskRules
    scorers: Scorers
    load_block_sae: Callable[[str], TopKSAE]
    truth: Callable[[Pair, int], Truth] | None
    parts: dict[str, str]
    conditions: Mapping[str, Value] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    masker: Masker | None = None
    _saes: dict[str, TopKSAE] = field(default_factory=dict)

    def sae(self, block: str) -> TopKSAE:
        """The SAE of a block, checked against the model and on its device."""
        if block not in self._saes:
            with stage("load SAE") as facts:
                sae = self.load_block_sae(block).to(self.denoiser.device)
                facts[block] = f"{sae.n_features} x {sae.d_model}, k {sae.k}"
            channels = self.denoiser.lens.blocks[block].channels
            if sae.d_model != channels:
                raise UserError(f"the SAE of {block} is {sae.d_model} wide, the block has {channels} channels")
            self._saes[block] = sae
        return self._saes[block]
