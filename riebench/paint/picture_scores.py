"""CLIP, LPIPS, the reader and the masker of a model, as far as they are on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riebench.instruments.model_instruments import ModelInstruments, model_instruments
from riebench.masks import Masker, MaskRules, Region, ground, to_grid
from riebench.metrics.clip import ClipScorer
from riebench.metrics.lpips import LpipsScorer
from riebench.models.model import ModelEntry
from riebench.paint.state import BrushMask
from riebench.settings.protocols import RIEBENCH
from riebench.settings.settings import Settings
from riebench.util.errors import UserError

Image = NDArray[np.uint8]
NEEDED = {"clip": ("clip",), "lpips": ("lpips",), "masker": ("detector", "text-encoder", "segmenter")}
"""Parts of a model's weights that an instrument needs."""


class Judges:
    """The instruments of a model; one that is missing is left out, and why is kept.

    Args:
        entry: the model.
        settings: of the instruments.

    Attributes:
        missing: instrument to the reason why it is left out.
        clip: None where it is missing.
        lpips: None where it is missing.
    """

    def __init__(self, entry: ModelEntry, settings: Settings) -> None:
        self.missing: dict[str, str] = {}
        self._entry, self._settings = entry, settings
        clip, lpips = self._own("clip"), self._own("lpips")
        self.clip: ClipScorer | None = None if clip is None else clip.clip()
        self.lpips: LpipsScorer | None = None if lpips is None else lpips.lpips()
        self._masker_parts = self._own("masker")
        self.world = getattr(clip, "world", None)

    def _own(self, name: str) -> ModelInstruments | None:
        others = [part.name for part in self._entry.parts if part.name not in NEEDED[name]]
        try:
            return model_instruments(self._entry, self._settings, RIEBENCH, others)
        except UserError as error:
            self.missing[name] = str(error).partition("\n")[0]
            return None

    @property
    def has_masker(self) -> bool:
        """Whether phrases can be found in pictures."""
        return self._masker_parts is not None

    @cached_property
    def masker(self) -> Masker:
        """The masker, loaded when it is asked for first.

        Raises:
            UserError: if it is not on this machine.
        """
        if self._masker_parts is None:
            raise UserError(f"there is no masker: {self.missing['masker']}")
        return self._masker_parts.masker()

    def region(self, image: Image, phrase: str, shape: tuple[int, int], grid: tuple[int, int]) -> BrushMask:
        """Where a phrase is in a picture, as a brush mask of a shape.

        On the grid it is what the benchmark's masks are. Finer, a cell belongs to it if at least half of it does.

        Raises:
            PairError: if the phrase is not found.
        """
        region = ground(self.masker, image, phrase)
        if shape == grid:
            return BrushMask.of(to_grid(region, *grid, MaskRules(blur_kernel=self._entry.blur_kernel)))
        return BrushMask.of(_coarser(region, shape))

    def scores(self, base: Image, edited: Image, prompt: str, seed: int) -> Iterator[dict[str, Any]]:
        """CLIP of both pictures with the prompt, LPIPS between them, and what the reader sees, one after the other."""
        if self.clip is not None:
            of = self.clip.images([base, edited]).double() @ self.clip.text(prompt).double()
            yield {"clip": {"name": self.clip.name, "base": float(of[0]), "edited": float(of[1])}}
        if self.lpips is not None:
            features = self.lpips.features([base, edited])
            (total,) = self.lpips.totals([self.lpips.layers(*features)])
            yield {"lpips": {"name": self.lpips.name, "value": total}}
        if self.world is not None:
            try:
                seen = {
                    name: self.world.read(image, prompt, seed) for name, image in (("base", base), ("edited", edited))
                }
            except UserError as error:
                yield {"reader": {"reason": str(error)}}
            else:
                yield {"reader": {name: dict(values) for name, values in seen.items()}}


def _coarser(region: Region, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """A region's pixels as cells ``[rows, columns]``, each of which is at least half inside; at least one is."""
    pixels = region.pixels()
    rows, columns = (np.arange(side) * cells // side for side, cells in zip(pixels.shape, shape, strict=True))
    inside, count = np.zeros(shape), np.zeros(shape)
    np.add.at(inside, (rows[:, None], columns[None, :]), pixels)
    np.add.at(count, (rows[:, None], columns[None, :]), 1)
    share = inside / np.maximum(count, 1)
    cells: NDArray[np.bool_] = share >= min(0.5, share.max())
    return cells
