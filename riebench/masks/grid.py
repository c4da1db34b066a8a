"""Turn a region of a picture into a mask on the grid of a block."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from riebench.masks.region import Fallback, Mask, MaskRules, Region
from riebench.util.errors import PairError

TAPS = 4  # Lanczos-4 reads four pixels to each side of a cell's centre
ROUNDING = 1e-9  # sampled values up to this are 0: a row's weights sum to 1 only up to rounding


def to_grid(region: Region, height: int, width: int, rules: MaskRules) -> Mask:
    """A region as a mask ``[height, width]`` on a grid (PROTOCOL.md, Masks).

    Each instance is blurred and sampled with Lanczos-4; its cells are those with a positive result. If there are none,
    ``rules.fallback`` chooses cells. The mask is the union of the instances' cells; for a complement, all other cells.
    With ``rules.union == "before"`` the instances are united in pixels first. An instance without a pixel has no cell.

    Raises:
        PairError: if the mask has no cell.
    """
    instances = region.instances
    if rules.union == "before":
        instances = np.asarray(instances.any(0))[np.newaxis]
    union: Mask = np.zeros((height, width), bool)
    for instance in instances:
        union |= _instance_to_grid(instance, height, width, rules)
    grid = ~union if region.complement else union
    if not grid.any():
        fault = "the object leaves no cell for its complement" if region.complement else "the mask has no cell"
        raise PairError(f"{fault} on the grid of {height} x {width}", where="masks")
    return grid


def _instance_to_grid(mask: Mask, height: int, width: int, rules: MaskRules) -> Mask:
    """The cells ``[height, width]`` of one instance ``[h, w]``."""
    if not mask.any() or mask.all():
        return np.full((height, width), mask.any())
    wide = grow(mask, rules.blur_kernel).astype(np.float64)
    sampled = lanczos_matrix(height, mask.shape[0]) @ wide @ lanczos_matrix(width, mask.shape[1]).T
    cells = np.asarray(sampled > ROUNDING)
    return cells if cells.any() else _covered(mask, height, width, rules.fallback)


def grow(mask: Mask, kernel: int) -> Mask:
    """The cells ``[height, width]`` that are positive after a Gaussian blur of a mask (PROTOCOL.md, Masks).

    All weights of the blur are positive, so this is a dilation by a box: the mask grows by ``kernel // 2`` pixels on
    each side.
    """
    reach = kernel // 2
    for axis in (0, 1):
        ends = np.pad(mask, [(reach, reach) if a == axis else (0, 0) for a in (0, 1)])
        windows = np.lib.stride_tricks.sliding_window_view(ends, 2 * reach + 1, axis=axis)
        mask = np.asarray(windows.any(-1))
    return mask


@cache
def lanczos_matrix(cells: int, size: int) -> NDArray[np.float64]:
    """Rows of Lanczos-4 weights ``[cells, size]`` that sample ``size`` pixels at the centres of ``cells``.

    As in OpenCV's INTER_LANCZOS4, the eight pixels around a centre count, however many pixels a cell has.
    """
    matrix = np.zeros((cells, size))
    for cell in range(cells):
        centre = (cell + 0.5) * size / cells - 0.5
        first = int(np.floor(centre)) - TAPS + 1
        taps = np.arange(first, first + 2 * TAPS)
        weights = np.sinc(taps - centre) * np.sinc((taps - centre) / TAPS)
        np.add.at(matrix[cell], np.clip(taps, 0, size - 1), weights / weights.sum())
    return matrix


def _covered(mask: Mask, height: int, width: int, fallback: Fallback) -> Mask:
    """The one cell that a mask covers most, or every cell that it touches."""
    rows = np.arange(mask.shape[0]) * height // mask.shape[0]
    columns = np.arange(mask.shape[1]) * width // mask.shape[1]
    cover = np.zeros((height, width))
    np.add.at(cover, (rows[:, None], columns[None, :]), mask)
    if fallback == "touched":
        return cover > 0
    grid = np.zeros((height, width), bool)
    grid[np.unravel_index(cover.argmax(), cover.shape)] = True
    return grid
