"""The held-out pictures that all dictionaries of a call are judged on, with their embeddings, readings and areas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from riebench.features.score_settings import ScoreSettings
from riebench.features.scores.estimate import Array
from riebench.features.scores.interpretability import Truths, truths_of
from riebench.instruments.world import World
from riebench.masks import MaskRules, Region, to_grid
from riebench.metrics import Scorers
from riebench.metrics.lpips import Features
from riebench.models.model import Model
from riebench.models.sites import Change, Edit
from riebench.prompts import Prompted

Picture = NDArray[np.uint8]
Flags = NDArray[np.bool_]


class SharedPictures:
    """Pictures with their embeddings, readings and areas; each is computed once.

    Args:
        model: the model.
        scorers: CLIP and LPIPS.
        world: the truth about the pictures, if it is known.
        rules: how areas in pixels come to a site's grid.
        prompted: prompts and seeds.
        settings: of the scores.
    """

    def __init__(
        self,
        model: Model,
        scorers: Scorers,
        world: World | None,
        rules: MaskRules,
        prompted: Sequence[Prompted],
        settings: ScoreSettings,
    ) -> None:
        self.model, self.scorers, self.world, self.rules = model, scorers, world, rules
        self.prompted, self.settings = prompted, settings
        self.images: Sequence[Picture] = ()
        self._cells: dict[tuple[int, tuple[int, int], str | None], Flags] = {}
        self._read: dict[int, Mapping[str, str]] = {}
        self._features: dict[int, Features] = {}
        self.zeroed_at: dict[str, list[Picture]] = {}

    @cached_property
    def embeddings(self) -> Array:
        """CLIP embeddings ``[pictures, d]``."""
        return self.scorers.clip.images(self.images).double().numpy()

    @cached_property
    def order(self) -> list[int]:
        """All pictures in a drawn order, from which pictures for edits are taken; where the truth is known, first
        those that show every attribute."""
        drawn = [int(i) for i in np.random.default_rng(self.settings.seed).permutation(len(self.prompted))]
        return drawn if self.world is None else sorted(drawn, key=lambda i: -len(self.shown[i]))

    @cached_property
    def threshold_half(self) -> Flags:
        """The pictures on which thresholds are chosen ``[pictures]``; scores are of the others."""
        return np.arange(len(self.prompted)) % 2 == 0

    @cached_property
    def shown(self) -> list[Mapping[str, str]]:
        """The attributes of each prompt's true picture."""
        assert self.world is not None
        return [self.world.shown(prompt) for prompt, _ in self.prompted]

    @cached_property
    def truths(self) -> Truths | None:
        """The same as labels; None where it is not known."""
        return None if self.world is None else truths_of(self.shown, self.world.attributes)

    def cells(self, number: int, site: str, attribute: str | None = None) -> Flags:
        """Where an attribute (or the object) is on a site's grid ``[positions]``.

        Where the truth is not known it is the middle of the picture, half as high and wide.
        """
        grid = self.model.sites[site].grid
        key = number, grid, attribute
        if key not in self._cells:
            self._cells[key] = self._on_grid(number, grid, attribute)
        return self._cells[key]

    def _on_grid(self, number: int, grid: tuple[int, int], attribute: str | None) -> Flags:
        height, width = grid
        if self.world is None:
            middle = np.zeros(grid, bool)
            middle[height // 4 : height - height // 4, width // 4 : width - width // 4] = True
            return middle.ravel()
        return to_grid(
            Region(self.world.area(*self.prompted[number], attribute)[None]), height, width, self.rules
        ).ravel()

    def pixels(self, cells: Flags, site: str) -> Flags:
        """Cells ``[positions]`` of a site's grid as pixels ``[height, width]``."""
        height, width = self.model.sites[site].grid
        size = self.model.size
        rows, columns = (np.arange(size) * side // size for side in (height, width))
        return cells.reshape(height, width)[rows[:, None], columns[None, :]]

    def area(self, cells: Flags) -> Tensor:
        """Cells on the model's device."""
        return torch.from_numpy(cells).to(self.model.device)

    def reading(self, number: int) -> Mapping[str, str]:
        """The attributes that the reader sees in the untouched picture."""
        if number not in self._read:
            self._read[number] = self.read(self.images[number], number)
        return self._read[number]

    def read(self, image: Picture, number: int) -> Mapping[str, str]:
        """The attributes that the reader sees in a picture; ``number`` is that of its prompt."""
        assert self.world is not None
        return self.world.read(image, *self.prompted[number])

    def lpips_features(self, number: int) -> Features:
        """Of the untouched picture."""
        if number not in self._features:
            (self._features[number],) = self.scorers.lpips.features([self.images[number]])
        return self._features[number]

    def edited(self, numbers: Sequence[int], changes: Sequence[Mapping[str, Change]]) -> list[Picture]:
        """Pictures made again with a change each."""
        chosen = [self.prompted[number] for number in numbers]
        prompts, seeds = [p for p, _ in chosen], [s for _, s in chosen]
        runs = self.model.generate(prompts, seeds, self.settings.steps, edits=[Edit(change) for change in changes])
        return [run.image for run in runs]
