"""Bring a mask to the grid of a block (PROTOCOL: RIEBench's published resizing)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from riebench.masks.rules import Fallback

Mask = NDArray[np.bool_]
TAPS = 4  # Lanczos-4 reads four pixels to each side of a cell's centre


def grow(mask: Mask, kernel: int) -> Mask:
    """Gaussian blur with a square kernel, then ``> 0``.

    Every weight of the blur is positive, so what is left above zero is the mask widened by half the kernel
    in both directions: a box dilation of ``[height, width]``.
    """
    reach = kernel // 2
    for axis in (0, 1):
        ends = np.pad(mask, [(reach, reach) if a == axis else (0, 0) for a in (0, 1)])
        windows = np.lib.stride_tricks.sliding_window_view(ends, 2 * reach + 1, axis=axis)
        mask = np.asarray(windows.any(-1))
    return mask


def lanczos_matrix(cells: int, size: int) -> NDArray[np.float64]:
    """Rows of Lanczos-4 weights ``[cells, size]`` that sample ``size`` pixels at the centres of ``cells``.

    There is no smoothing over the cell: as in OpenCV's INTER_LANCZOS4, eight pixels around the centre count.
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
    """The one cell that the mask covers most, or every cell that it touches."""
    rows = np.arange(mask.shape[0]) * height // mask.shape[0]
    columns = np.arange(mask.shape[1]) * width // mask.shape[1]
    cover = np.zeros((height, width))
    np.add.at(cover, (rows[:, None], columns[None, :]), mask)
    if fallback == "touched":
        return cover > 0
    grid = np.zeros((height, width), bool)
    grid[np.unravel_index(cover.argmax(), cover.shape)] = True
    return grid


def to_grid(
    instances: Mask,
    height: int,
    width: int,
    kernel: int = 31,
    fallback: Fallback = "largest",
    union: Literal["instances", "before"] = "instances",
) -> Mask:
    """Instance masks ``[n, h, w]`` to one grid mask ``[height, width]``: each alone, then their union.

    Each is widened by the blur, sampled with Lanczos-4 and kept where positive; where nothing is left, the
    ``fallback`` stands for the instance (see :class:`riebench.masks.MaskRules`). Empty instances give nothing.
    """
    grid = np.zeros((height, width), bool)
    if union == "before":
        instances = np.asarray(instances.any(0))[np.newaxis]
    for mask in instances:
        if not mask.any():
            continue
        if mask.all():
            return np.ones((height, width), bool)
        wide = grow(mask, kernel).astype(np.float64)
        sampled = lanczos_matrix(height, mask.shape[0]) @ wide @ lanczos_matrix(width, mask.shape[1]).T
        # The weights of a row sum to 1 but for rounding, and so does their product with an empty mask to 0.
        cells = sampled > 1e-9
        grid |= cells if cells.any() else _covered(mask, height, width, fallback)
    return grid
