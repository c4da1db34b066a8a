"""The masker, CLIP, LPIPS and truth of the drawn world."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from riebench.metrics.clip import ClipScorer
from riebench.metrics.lpips import LpipsScorer
from riebench.mini.drawn_world import DrawnWorld
from riebench.mini.masker import MiniMasker
from riebench.mini.reader import PairTruth
from riebench.models.mini import WEIGHTS
from riebench.models.model import ModelEntry
from riebench.settings.protocols import Protocol
from riebench.settings.settings import Settings
from riebench.util.errors import UserError
from riebench.util.files import fingerprint

CLIP_NAME = "riebench-mini"
LPIPS_NAME = "lpips-mini"
CLIP_WEIGHTS = WEIGHTS / "clip" / "open_clip_model.safetensors"
CLIP_CONFIG = WEIGHTS / "clip" / f"{CLIP_NAME}.json"
LPIPS_TRUNK = WEIGHTS / "lpips" / "trunk.safetensors"
MASKER_WEIGHTS = WEIGHTS / "masker" / "masker.safetensors"


class MiniInstruments:
    """Mini's own instruments, whose weights come with the package.

    See :class:`riebench.instruments.loading.ModelInstruments`.

    Raises:
        UserError: if the package lacks a part.
    """

    locations: Mapping[str, str] = {}
    conditions: Mapping[str, Any] = {}
    truth = PairTruth
    world = DrawnWorld()

    def __init__(
        self,
        entry: ModelEntry | None = None,
        settings: Settings | None = None,
        protocol: Protocol | None = None,
        without: Collection[str] = (),
    ) -> None:
        for path in (CLIP_WEIGHTS, LPIPS_TRUNK, MASKER_WEIGHTS):
            if not path.exists():
                raise UserError(f"{path}, a part of mini, is missing; reinstall riebench or run scripts/train_mini.py")
        device = "auto" if settings is None else settings.model.device
        self._device = "cpu" if device == "auto" else device  # as its models
        self._clip = fingerprint([CLIP_WEIGHTS, CLIP_CONFIG], WEIGHTS)
        self._lpips, self._masker = fingerprint([LPIPS_TRUNK], WEIGHTS), fingerprint([MASKER_WEIGHTS], WEIGHTS)

    def masker(self) -> MiniMasker:
        """Mini's masker; it has no boxes, so no threshold applies."""
        return MiniMasker(MASKER_WEIGHTS, self._masker, self._device)

    def clip(self) -> ClipScorer:
        """CLIP trained on the drawn world, loaded as any model of open_clip."""
        return ClipScorer(CLIP_NAME, CLIP_WEIGHTS, self._clip, configs=CLIP_CONFIG, device=self._device)

    def lpips(self) -> LpipsScorer:
        """LPIPS with a trunk trained on the drawn world; its numbers are not those of the published metric."""
        return LpipsScorer(LPIPS_NAME, LPIPS_TRUNK, self._lpips, device=self._device)

    def scorer(self, name: str) -> Any:
        """Always refused: networks for photographs do not fit drawings, and none is trained on this world."""
        raise UserError(f"mini and mini-flux have no network {name!r}; leave out the metrics that need it")
