"""How far pictures change, and where."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]


def pixel_change(base: Picture, edited: Picture) -> NDArray[np.float64]:
    """Absolute difference of two pictures ``[height, width]``, a mean over colours, white less black being 1."""
    return np.asarray(np.abs(base.astype(float) - edited).mean(-1) / 255)


def change_ratio(base: Picture, edited: Picture, inside: NDArray[np.bool_]) -> float:
    """Mean change inside the painted area ``[height, width]`` over that outside; NaN where the ratio is undefined.

    That is where the area is empty or everything, and where nothing outside has changed.
    """
    change = pixel_change(base, edited)
    if inside.all() or not inside.any() or not change[~inside].mean() > 0:
        return float("nan")
    return float(change[inside].mean() / change[~inside].mean())
