"""Mini's model with its own masker, CLIP, LPIPS, SAEs and truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict

import torch

from riebench.masks import MaskRules
from riebench.metrics import ClipScorer, LpipsScorer
from riebench.mini.grammar import PromptError
from riebench.mini.judge import PairTruth
from riebench.mini.masker import MiniMasker
from riebench.mini.model import SAES, WEIGHTS, load_denoiser
from riebench.models import Denoiser
from riebench.models.sdxl import pick_device
from riebench.pairs import Pair
from riebench.sae import TopKSAE, load_sae
from riebench.spec.settings import Settings
from riebench.util.errors import UserError
from riebench.util.files import files_under, fingerprint

CLIP_NAME = "riebench-mini"
LPIPS_NAME = "lpips-mini"
CLIP_WEIGHTS = WEIGHTS / "clip" / "open_clip_model.safetensors"
LPIPS_TRUNK = WEIGHTS / "lpips" / "trunk.safetensors"
MASKER_WEIGHTS = WEIGHTS / "masker" / "masker.safetensors"


def load_clip() -> ClipScorer:
    """The CLIP of the drawn world, by the call that loads any open_clip model."""
    folder = CLIP_WEIGHTS.parent
    name = fingerprint(files_under(folder), folder)
    return ClipScorer(CLIP_NAME, CLIP_WEIGHTS, name, configs=folder / f"{CLIP_NAME}.json")


def load_lpips() -> LpipsScorer:
    """LPIPS on a trunk trained on the drawn world; not the published metric."""
    return LpipsScorer(LPIPS_NAME, LPIPS_TRUNK, fingerprint([LPIPS_TRUNK], LPIPS_TRUNK.parent))


def load_masker() -> MiniMasker:
    """The masker of the drawn world."""
    return MiniMasker(MASKER_WEIGHTS, fingerprint([MASKER_WEIGHTS], MASKER_WEIGHTS.parent))


def load_block_sae(block: str) -> TopKSAE:
    """The SAE of a block.

    Raises:
        UserError: if there is none for it.
    """
    if not (SAES / block).is_dir():
        known = ", ".join(sorted(p.name for p in SAES.iterdir()))
        raise UserError(f"mini has no SAE for the block {block!r}; there are SAEs for {known}")
    return load_sae(SAES / block)


def pair_truth(pair: Pair, seed: int) -> PairTruth:
    """The truth about a pair.

    Raises:
        UserError: if its prompts are not of the drawn world or differ in more than one attribute.
    """
    try:
        truth = PairTruth(pair.base_prompt, pair.edit_prompt, seed)
    except PromptError as error:
        raise UserError(f"pair {pair.id!r} is not for mini: {error}; use pairs of the drawn world") from None
    changed = truth.base.differences(truth.source)
    if len(changed) != 1:
        raise UserError(f"pair {pair.id!r} changes {list(changed)}; a pair for mini changes one attribute")
    return truth


class MiniParts:
    """What belongs to mini, from the package.

    Args:
        settings: of the run.

    Raises:
        UserError: if a part is not in the package, or a setting is not one of mini's.
    """

    truth = staticmethod(pair_truth)
    sources: Mapping[str, str] = {}
    SETTINGS = ("model.device", "model.dtype", "sae.", *(f"masker.{name}" for name in asdict(MaskRules())))

    def __init__(self, settings: Settings) -> None:
        for path in (CLIP_WEIGHTS, LPIPS_TRUNK, MASKER_WEIGHTS, SAES):
            if not path.exists():
                raise UserError(
                    f"{path}, a part of mini, is not there; reinstall riebench or run scripts/train_mini.py"
                )
        for name in settings.given():
            if not name.startswith(self.SETTINGS):
                raise UserError(f"the setting {name} is not for mini, whose parts come with it; leave it out")
        self.settings = settings.model
        self.device = pick_device("cpu" if settings.model.device == "auto" else settings.model.device)

    def denoiser(self, batch: int) -> Denoiser:
        """The pipeline."""
        return load_denoiser(batch, self.device, getattr(torch, self.settings.dtype))

    def masker(self, box_threshold: float) -> MiniMasker:
        """The masker, which knows no threshold of boxes."""
        return load_masker()

    def clip(self) -> ClipScorer:
        """CLIP."""
        return load_clip()

    def lpips(self) -> LpipsScorer:
        """LPIPS."""
        return load_lpips()

    def saes(self) -> tuple[Callable[[str], TopKSAE], str]:
        """The SAEs of the four blocks."""
        return load_block_sae, f"mini-{fingerprint(files_under(SAES), SAES)}"
