"""Loaded parts that a user hands in. Importing it needs no numpy, so that commands start at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from riebench.masks.user_masks import UserMasks
    from riebench.metrics import Scorers
    from riebench.models.model import Model


@dataclass
class HandedIn:
    """Loaded parts that are used in place of the model's own.

    Attributes:
        model: a loaded model.
        masks: see :data:`riebench.masks.user_masks.UserMasks`.
        scorers: CLIP and LPIPS.
        names: of the fields that are set.
        parts: names of the model's parts whose weights are therefore not needed.
    """

    model: Model | None = None
    masks: UserMasks | None = None
    scorers: Scorers | None = None

    def __post_init__(self) -> None:
        replaced: dict[str, Any] = {"model": self.model, "sae": self.model, "clip": self.scorers, "lpips": self.scorers}
        replaced |= dict.fromkeys(("detector", "text-encoder", "segmenter"), self.masks)
        self.names = [name for name in ("model", "masks", "scorers") if getattr(self, name) is not None]
        self.parts = [name for name, value in replaced.items() if value is not None]
