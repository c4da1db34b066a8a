"""The models that a run can name, and what belongs to each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from riebench.errors import unknown


@dataclass(frozen=True)
class ModelEntry:
    """A model by name.

    Attributes:
        name: as given to ``--model``.
        steps: denoising steps unless told otherwise.
        pairs: its own pair file.
        blur_kernel: side of the blur that masks get before they go to a block's grid, pixels.
        instruments: name of the set of masker, CLIP, LPIPS and SAEs that goes with it.
    """

    name: str
    steps: int
    pairs: Path
    blur_kernel: int
    instruments: str


def _mini() -> ModelEntry:
    from riebench.mini.model import PAIRS

    return ModelEntry(
        name="mini",
        steps=1,
        pairs=PAIRS,
        blur_kernel=15,  # the published 31 px belong to grid cells of 32 px; these are of 16 px
        instruments="mini",
    )


_ENTRIES: dict[str, Callable[[], ModelEntry]] = {"mini": _mini}


def model_names() -> list[str]:
    """Every model that can be named."""
    return list(_ENTRIES)


def entry_named(name: str) -> ModelEntry:
    """The entry of a model.

    Raises:
        UserError: if there is no such model.
    """
    if name not in _ENTRIES:
        raise unknown("model", name, _ENTRIES)
    return _ENTRIES[name]()
