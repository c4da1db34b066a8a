"""The instruments of the painting page: CLIP, LPIPS, the reader and the masker that are on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riebench.instruments.loading import ModelInstruments, model_instruments
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
"""Instrument to the parts of a model's weights that it needs."""


class PaintInstruments:
    """The scorers and the masker of a model; missing ones are left out.

    Args:
        entry: the model.
        settings: settings of the instruments.

    Attributes:
        missing: name of a missing instrument to the reason.
        clip: the CLIP scorer; None if it is missing.
        lpips: the LPIPS scorer; None if it is missing.
        world: the drawn world of mini, which reads pictures; None for other models.
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
        """Whether the masker is on this machine."""
        return self._masker_parts is not None

    @cached_property
    def masker(self) -> Masker:
        """The masker, loaded on first use.

        Raises:
            UserError: if its weights are not on this machine.
        """
        if self._masker_parts is None:
            raise UserError(f"there is no masker: {self.missing['masker']}")
        return self._masker_parts.masker()

    def region(self, image: Image, phrase: str, shape: tuple[int, int], grid: tuple[int, int]) -> BrushMask:
        """The brush mask of a phrase in a picture.

        With the grid's shape it equals the benchmark's masks. In a finer mask a cell is true if at least half of its
        pixels are.

        Args:
            image: picture ``[height, width, 3]``.
            phrase: the phrase to mask, such as "heart".
            shape: rows and columns of the mask.
            grid: rows and columns of the site's grid.

        Raises:
            UserError: if there is no masker.
            PairError: if the masker does not detect the phrase.
        """
        region = ground(self.masker, image, phrase)
        if shape == grid:
            return BrushMask.of(to_grid(region, *grid, MaskRules(blur_kernel=self._entry.blur_kernel)))
        return BrushMask.of(_coarser(region, shape))

    def scores(self, base: Image, edited: Image, prompt: str, seed: int) -> Iterator[dict[str, Any]]:
        """Yield CLIP of both pictures with the prompt, LPIPS between them, and the attributes that the reader sees."""
        if self.clip is not None and (cut := self.clip.cut(prompt)):
            yield {"clip": {"reason": f"none: the prompt has {cut}"}}
        elif self.clip is not None:
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
    """The cells ``[rows, columns]`` that lie at least half in a region; if none does, those with the largest share."""
    pixels = region.pixels()
    rows, columns = (np.arange(side) * cells // side for side, cells in zip(pixels.shape, shape, strict=True))
    inside, count = np.zeros(shape), np.zeros(shape)
    np.add.at(inside, (rows[:, None], columns[None, :]), pixels)
    np.add.at(count, (rows[:, None], columns[None, :]), 1)
    share = inside / np.maximum(count, 1)
    cells: NDArray[np.bool_] = share >= min(0.5, share.max())
    return cells
