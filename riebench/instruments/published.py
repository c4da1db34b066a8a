"""The published benchmark's instruments for real models: Grounded SAM 2, CLIP ViT-L-14, LPIPS."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from functools import cached_property
from pathlib import Path
from typing import Any

from riebench.instruments.world import World
from riebench.masks import Masker
from riebench.metrics import Truth
from riebench.metrics.clip import ClipScorer
from riebench.metrics.lpips import LpipsScorer
from riebench.models.devices import pick_device
from riebench.models.model import ModelEntry
from riebench.pairs import Pair
from riebench.settings.protocols import Protocol
from riebench.settings.settings import Settings
from riebench.util.errors import UserError
from riebench.util.files import cache_folder, file_hash, fingerprint
from riebench.weights import Weights, locate, scorer_file
from riebench.weights.fetch import read_ledger
from riebench.weights.parts import ALEXNET, SQUEEZENET

TRUNKS = {
    "alex": ALEXNET,
    "vgg": "vgg16-397923af.pth",
    "squeeze": SQUEEZENET,
}
"""LPIPS's trunk to the file name of torchvision's weights, which ends with the start of the file's SHA-256."""
PUBLISHED = "published"
"""The name of these instruments in a model's entry."""
PUBLISHED_CLIP = "ViT-L-14"


class PublishedInstruments:
    """Loads the masker and the scorers from the weights on this machine.

    See :class:`riebench.instruments.loading.ModelInstruments`.

    Args:
        entry: the model.
        settings: of the run.
        protocol: gives the settings that are not set.
        without: names of parts that are not needed.

    Raises:
        UserError: if weights are missing; SAEs may be missing until a method needs them.
    """

    truth: Callable[[Pair, int], Truth] | None = None
    world: World | None = None

    def __init__(self, entry: ModelEntry, settings: Settings, protocol: Protocol, without: Collection[str]) -> None:
        self.settings = settings
        self.protocol = protocol
        self.weights: Weights = locate(entry.name, entry.parts, settings, optional=("sae",), without=without)

    @cached_property
    def locations(self) -> dict[str, str]:
        """Name of a part to its folder, followed by the revision that was fetched or that the hub's cache names."""
        fetched = read_ledger(self.weights.root)
        locations = {}
        for name, folder in self.weights.folders.items():
            cached = folder.name if folder.parent.name == "snapshots" else None
            revision = cached or fetched.get(name, {}).get("revision")
            locations[name] = f"{folder} @ {revision}" if revision else str(folder)
        return locations

    @property
    def conditions(self) -> dict[str, bool]:
        """CLIP's activation, which its checkpoint does not hold."""
        return {"clip.quick_gelu": self._quick_gelu}

    @property
    def _quick_gelu(self) -> bool:
        chosen = self.settings.clip.quick_gelu
        return self.protocol.quick_gelu if chosen is None else chosen

    @cached_property
    def _device(self) -> str:
        return str(pick_device(self.settings.model.device))

    def _fingerprint(self, files: list[Path], root: Path) -> str:
        """The fingerprint of a part's files; that of random weights begins with ``standin-``."""
        return ("standin-" if self.weights.standin else "") + fingerprint(files, root)

    def _folder(self, part: str) -> Path:
        """The folder of a part.

        Raises:
            UserError: if the model's entry does not name the part.
        """
        if part not in self.weights.folders:
            mend = f"add it to the entry's parts, or name other instruments than {PUBLISHED!r}"
            needs = f"names no part {part!r}, which masker and scorers of photographs need"
            raise UserError(f"{self.weights.model} {needs}; {mend}")
        return self.weights.folders[part]

    def masker(self) -> Masker:
        """Grounded SAM 2; its masks are cached on the disk."""
        from riebench.masks.cache import CachedMasker
        from riebench.masks.gsam import (
            DETECTOR,
            SEGMENTER,
            GroundedSAM2,
            GroundedSAM2Files,
            GroundedSAM2Options,
        )

        folder, settings = self._folder, self.settings.masker
        files = GroundedSAM2Files(
            folder("detector") / DETECTOR, folder("text-encoder"), folder("segmenter") / SEGMENTER
        )
        threshold = self.protocol.box_threshold if settings.box_threshold is None else settings.box_threshold
        options = GroundedSAM2Options(threshold, settings.short_side, settings.long_side, self._device)
        return CachedMasker(GroundedSAM2.load(files, options), settings.cache or cache_folder() / "masks")

    def clip(self) -> ClipScorer:
        """CLIP; a model other than ViT-L-14 needs the setting ``clip.location``."""
        settings = self.settings.clip
        location = settings.location or self._folder("clip")
        if settings.location is None and settings.model != PUBLISHED_CLIP:
            raise UserError(f"clip.model is {settings.model!r}; name its checkpoint with --set clip.location=FILE")
        if not location.exists():
            raise UserError(f"there is no CLIP at {location}; name a checkpoint with --set clip.location=FILE")
        files = [f for f in location.iterdir() if f.is_file()] if location.is_dir() else [location]
        name = self._fingerprint(files, location.parent)
        return ClipScorer(settings.model, location, name, quick_gelu=self._quick_gelu, device=self._device)

    def lpips(self) -> LpipsScorer:
        """LPIPS; the trunk's file must have the hash that its name ends with."""
        settings = self.settings.lpips
        trunk = settings.location or self._folder("lpips") / TRUNKS[settings.net]
        if not trunk.is_file():
            raise UserError(
                f"{trunk}, the trunk of LPIPS, is missing; download https://download.pytorch.org/models/"
                f"{TRUNKS[settings.net]} and name it with --set lpips.location=FILE"
            )
        if not self.weights.standin:
            check_named_hash(trunk)
        title = "lpips" if settings.net == "alex" else f"lpips-{settings.net}"
        return LpipsScorer(title, trunk, self._fingerprint([trunk], trunk.parent), settings.net, self._device)

    def scorer(self, name: str) -> Any:
        """The network that a single metric needs, by the name of its part."""
        file = scorer_file(name, self.weights.model, self.settings)
        if not self.weights.standin:
            check_named_hash(file)
        mark = self._fingerprint([file], file.parent)
        if name == "lpips-squeeze":
            return LpipsScorer(name, file, mark, "squeeze", self._device)
        from riebench.metrics.dino import DinoScorer

        settings = self.settings.dino
        title = f"{settings.model}-bytes" if settings.byte_range else settings.model
        return DinoScorer(title, file, mark, settings.model, settings.byte_range, self._device)


def check_named_hash(path: Path) -> None:
    """Check a file's SHA-256 against the digits that end its name, as torchvision's do; other names pass.

    Raises:
        UserError: if the SHA-256 begins with other digits.
    """
    named = re.search(r"-([0-9a-f]{8,64})\.\w+$", path.name)
    if named and not file_hash(path).startswith(named.group(1)):
        raise UserError(f"{path} is damaged: its SHA-256 does not begin with {named.group(1)}; fetch it again")
