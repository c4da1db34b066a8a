"""Loaded parts that a user hands in. Importing it needs no numpy, so that commands start at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from riebench.settings.settings import Settings, refuse_without_effect
from riebench.util.errors import UserError

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

    def check_settings(self, settings: Settings) -> None:
        """Refuse settings of what is loaded already.

        Raises:
            UserError: if there is such a setting.
        """
        if self.model is not None:
            self.model.refuse_other_settings(settings)
        if self.masks is not None:
            why = "masks= takes the masker's place; leave it out"
            refuse_without_effect(
                settings, ("masker.",), why, but=("masker.blur_kernel", "masker.union", "masker.fallback")
            )
        if self.scorers is not None:
            why = "scorers= takes the place of CLIP and LPIPS; leave it out"
            refuse_without_effect(settings, ("clip.", "lpips."), why, but=("lpips.squeeze",))


def _is_two(masks: Any) -> bool:
    return (isinstance(masks, list | tuple) or getattr(masks, "ndim", 0) > 0) and len(masks) == 2


def check_loaded(name: str, value: Any) -> None:
    """Refuse another object in place of a loaded part: the name of a model is none to refuse, nor is None.

    Args:
        name: of the argument, a field of :class:`HandedIn`.
        value: that was given.

    Raises:
        UserError: if it is no such part.
    """
    if name == "model" and not isinstance(value, str):
        from riebench.models.model import Model

        fits, expected = isinstance(value, Model), "a name, or a model that riebench.load gives"
    elif name == "scorers" and value is not None:
        from riebench.metrics.seen import Scorers

        fits, expected = isinstance(value, Scorers), "riebench.metrics.Scorers"
    elif name == "masks" and value is not None:
        pairs = value.values() if isinstance(value, Mapping) else ()
        fits = callable(value) or (isinstance(value, Mapping) and all(map(_is_two, pairs)))
        expected = "a function, or pair id to (source, base)"
    else:
        return
    if not fits:
        raise UserError(f"{name} is a {type(value).__name__}; expected {expected}")
