"""Lay values over the positions of a mask."""

from __future__ import annotations

from torch import Tensor


def spread(values: Tensor, mask: Tensor, spatial: bool = True) -> Tensor:
    """``[steps, channels, height, width]`` kept at the positions of a mask ``[height, width]``, 0 elsewhere.

    Without ``spatial``, the mean over the mask's positions stands at each of them.
    """
    if not spatial:
        values = values.flatten(2)[..., mask.flatten()].mean(-1)[..., None, None].expand_as(values)
    return values * mask
