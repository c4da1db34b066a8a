"""The instruments of real models: SDXL, Grounded SAM 2, the published SAEs, CLIP and LPIPS."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from riebench.catalog import ModelEntry
from riebench.util.errors import UserError
from riebench.lens import short_name
from riebench.masks import Masker
from riebench.metrics import ClipScorer, LpipsScorer
from riebench.metrics.score import Truth
from riebench.models import Denoiser
from riebench.models.sdxl import load_pipeline, pick_device
from riebench.pairs import Pair
from riebench.sae import TopKSAE, find_saes, load_sae
from riebench.spec.settings import ModelSettings, Settings
from riebench.util.user_cache import cache_folder
from riebench.weights import Weights, locate
from riebench.weights.fetch import read_ledger
from riebench.util.files import file_hash, fingerprint
from riebench.weights.parts import SAE_BLOCKS, SAE_SUFFIX
from riebench.weights.places import hub_snapshot

COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
TRUNKS = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
"""torchvision's files; the end of a name is the start of the file's SHA-256."""


class RealParts:
    """Parts of a real model, found on this machine.

    Args:
        entry: the model.
        settings: of the run.
        without: names of parts that the user hands in loaded.

    Raises:
        UserError: if weights are missing; SAEs may be, until they are asked for.
    """

    truth: Callable[[Pair, int], Truth] | None = None

    def __init__(self, entry: ModelEntry, settings: Settings, without: Sequence[str] = ()) -> None:
        self.entry = entry
        self.settings = settings
        self.weights: Weights = locate(entry.name, settings, optional=("sae",), without=without)

    @cached_property
    def sources(self) -> dict[str, str]:
        """Folder of each part, with the revision that was fetched or that the hub's cache names."""
        fetched = read_ledger(self.weights.root)
        found = {}
        for name, folder in self.weights.folders.items():
            cached = folder.name if folder.parent.name == "snapshots" else None
            revision = cached or fetched.get(name, {}).get("revision")
            found[name] = f"{folder} @ {revision}" if revision else str(folder)
        return found

    @cached_property
    def device(self) -> str:
        """The run's device."""
        return str(pick_device(self.settings.model.device))

    def denoiser(self, batch: int) -> Denoiser:
        """The pipeline from its folder, or from the hub's cache for a hub id."""
        settings = self.settings.model
        folder = self._pipeline_folder(settings)
        files = [f for c in COMPONENTS if (folder / c).is_dir() for f in (folder / c).rglob("*") if f.is_file()]
        name = f"{self._mark}{self.entry.name}-{fingerprint(files, folder)}"
        guidance = self.entry.guidance if settings.guidance is None else settings.guidance
        return Denoiser(
            load_pipeline(folder, settings), name, None, batch, guidance, settings.size, settings.unconditional
        )

    def _pipeline_folder(self, settings: ModelSettings) -> Path:
        if settings.source is None or Path(settings.source).is_dir():
            return self.weights.folders["model"]
        return hub_snapshot(settings.source, settings.revision)

    @property
    def _mark(self) -> str:
        """Random weights are called so wherever they are named."""
        return "standin-" if self.weights.standin else ""

    def masker(self, box_threshold: float) -> Masker:
        """Grounded SAM 2, its masks kept on the disk."""
        from riebench.masks.cache import CachedMasker
        from riebench.masks.gsam import (
            DETECTOR,
            SEGMENTER,
            GroundedSAM2,
            GroundedSAM2Files,
            GroundedSAM2Options,
        )

        folders, settings = self.weights.folders, self.settings.masker
        files = GroundedSAM2Files(
            folders["detector"] / DETECTOR, folders["text-encoder"], folders["segmenter"] / SEGMENTER
        )
        options = GroundedSAM2Options(
            box_threshold, settings.short_side, settings.long_side, self.device
        )
        return CachedMasker(GroundedSAM2.load(files, options), settings.cache or cache_folder() / "masks")

    def clip(self) -> ClipScorer:
        """CLIP; a model other than the published one needs its own file."""
        settings = self.settings.clip
        source = settings.source or self.weights.folders["clip"]
        if settings.source is None and settings.model != "ViT-L-14":
            raise UserError(f"clip.model is {settings.model!r}; name its checkpoint with --set clip.source=FILE")
        if not source.exists():
            raise UserError(f"there is no CLIP at {source}; name a checkpoint with --set clip.source=FILE")
        files = [f for f in source.iterdir() if f.is_file()] if source.is_dir() else [source]
        name = self._mark + fingerprint(files, source.parent)
        return ClipScorer(settings.model, source, name, quick_gelu=settings.quick_gelu, device=self.device)

    def lpips(self) -> LpipsScorer:
        """LPIPS; the trunk's file is checked by the hash in its name."""
        settings = self.settings.lpips
        trunk = settings.source or self.weights.folders["lpips"] / TRUNKS[settings.net]
        if not trunk.is_file():
            raise UserError(
                f"there is no {trunk}, the trunk of LPIPS; download https://download.pytorch.org/models/"
                f"{TRUNKS[settings.net]} and name it with --set lpips.source=FILE"
            )
        if not self.weights.standin:
            check_named_hash(trunk)
        name = self._mark + fingerprint([trunk], trunk.parent)
        title = "lpips" if settings.net == "alex" else f"lpips-{settings.net}"
        return LpipsScorer(title, trunk, name, settings.net, self.device)

    def saes(self) -> tuple[Callable[[str], TopKSAE], str]:
        """The published SAEs with RIEBench's k and size."""
        root, wanted = self.weights.folders.get("sae"), self.settings.sae
        if root is None:

            def missing(block: str) -> TopKSAE:
                locate(self.entry.name, self.settings)
                raise UserError(f"there is no SAE for {block!r}")

            return missing, "none"
        if wanted.k is None and wanted.features is None:
            folders = {str(short_name(block)): root / f"{block}{SAE_SUFFIX}" / "final" for block in SAE_BLOCKS}
        else:
            folders = find_saes(root, wanted.k, wanted.features)
        files = [f for folder in folders.values() for f in folder.iterdir() if f.is_file()]

        def load(block: str) -> TopKSAE:
            if block not in folders:
                raise UserError(
                    f"there is no SAE for the block {block!r} in {root}; there are some for {', '.join(folders)}"
                )
            return load_sae(folders[block])

        return load, f"{self._mark}published-{fingerprint(files, root)}"


def check_named_hash(path: Path) -> None:
    """See that a file begins its SHA-256 as its name says, where it says so.

    Raises:
        UserError: if it does not.
    """
    said = re.search(r"-([0-9a-f]{8,64})\.\w+$", path.name)
    if said and not file_hash(path).startswith(said.group(1)):
        raise UserError(f"{path} is damaged: its SHA-256 does not begin with {said.group(1)}; fetch it again")
