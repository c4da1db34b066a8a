"""What a feature index keeps of the codes of pictures as they pass, and which features have similar directions."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

ROWS = 1024
"""Features whose cosines with all others are worked out together."""


class Gathered:
    """What is kept of the pictures as they pass: sums, and each feature's top pictures with heat maps.

    Args:
        features: number of features.
        positions: number of positions in a picture.
        top: pictures kept for each feature.
        each: whether the largest code in every picture is kept, too.
    """

    def __init__(self, features: int, positions: int, top: int, each: bool = False) -> None:
        self.seen = 0
        self.active = torch.zeros(features, dtype=torch.long)
        self.total = torch.zeros(features, dtype=torch.double)
        self.highest = torch.zeros(features, top)
        self.pictures = torch.full((features, top), -1)
        self.heat = torch.zeros(features, top, positions, dtype=torch.half)
        self._each: list[Tensor] | None = [] if each else None

    def add(self, picture: int, codes: Tensor) -> None:
        """Take in the codes ``[steps, positions, features]`` of a picture."""
        self.seen += codes.shape[0] * codes.shape[1]
        self.active += (codes > 0).sum((0, 1)).cpu()
        self.total += codes.sum((0, 1)).cpu()
        heat = codes.amax(0)
        highest = heat.amax(0).cpu()
        if self._each is not None:
            self._each.append(highest.half())
        rows = (highest > self.highest.amin(1)).nonzero()[:, 0]
        places = self.highest[rows].argmin(1)
        self.highest[rows, places] = highest[rows]
        self.pictures[rows, places] = picture
        self.heat[rows, places] = heat[:, rows.to(heat.device)].T.half().cpu()

    def in_each(self) -> NDArray[np.float32]:
        """Largest code in each picture ``[pictures, features]``; only where ``each`` was asked for."""
        assert self._each is not None
        return torch.stack(self._each).float().numpy()

    def sort(self) -> None:
        """Put the largest codes first."""
        order = self.highest.argsort(dim=1, descending=True)
        self.highest, self.pictures = self.highest.gather(1, order), self.pictures.gather(1, order)
        self.heat = self.heat[torch.arange(len(order))[:, None], order]


def nearest_features(directions: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Numbers and cosines ``[n, count]`` of the directions ``[n, d]`` nearest to each, itself left out."""
    unit = normalize(directions.float(), dim=1)
    numbers, cosines = [], []
    for start in range(0, len(unit), ROWS):
        part = unit[start : start + ROWS] @ unit.T
        part[torch.arange(len(part)), torch.arange(start, start + len(part))] = -torch.inf
        values, indices = part.topk(min(count, len(unit) - 1), dim=1)
        numbers.append(indices)
        cosines.append(values)
    return torch.cat(numbers).cpu(), torch.cat(cosines).cpu()
