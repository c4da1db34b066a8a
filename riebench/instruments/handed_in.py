"""Loaded parts that a user hands in from Python."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from riebench.masks.given import GivenMasks
    from riebench.metrics.seen import Scorers
    from riebench.models.model import Model


@dataclass
class HandedIn:
    """Loaded parts that take the place of those that belong to the model's name.

    Attributes:
        model: a loaded model.
        masks: see :data:`riebench.masks.given.GivenMasks`.
        scorers: CLIP and LPIPS.
        names: of the parts that are given.
        parts: names of the weights that are not needed, since others are given.
    """

    model: Model | None = None
    masks: GivenMasks | None = None
    scorers: Scorers | None = None

    def __post_init__(self) -> None:
        have: dict[str, Any] = {"model": self.model, "sae": self.model, "clip": self.scorers, "lpips": self.scorers}
        have |= dict.fromkeys(("detector", "text-encoder", "segmenter"), self.masks)
        self.names = [name for name in ("model", "masks", "scorers") if getattr(self, name) is not None]
        self.parts = [name for name, value in have.items() if value is not None]
