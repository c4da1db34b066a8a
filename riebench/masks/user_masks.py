"""Masks of a user, as arrays or a function, in place of a masker."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import numpy as np

from riebench.masks.region import Image, Mask, Region
from riebench.pairs import Pair
from riebench.util.errors import PairError

MaskSource = Callable[[Pair, Image, Image], tuple[Region, Region]]
"""A function of a pair, its base image and its source image that returns the regions (source, base) or raises
PairError."""

MaskFunction = Callable[[Pair, Image, Image], tuple[Mask, Mask]]
"""A user's function of a pair, its base image and its source image that returns the masks (source, base)."""

UserMasks = MaskFunction | Mapping[str, tuple[Mask, Mask]]
"""A user's masks: a function, or pair id to (source mask, base mask). Each mask is boolean, ``[height, width]``, or
``[n, height, width]`` for several instances."""


def regions_of_user_masks(user_masks: UserMasks) -> MaskSource:
    """The function that returns the regions of a user's masks, checked pair by pair.

    It raises PairError if a pair has no masks, or if the masks do not fit the pair's images.
    """

    def find(pair: Pair, base: Image, source: Image) -> tuple[Region, Region]:
        if callable(user_masks):
            masks = user_masks(pair, base.copy(), source.copy())  # which it may draw on
        elif pair.id in user_masks:
            masks = user_masks[pair.id]
        else:
            raise PairError(f"no masks were given for the pair {pair.id!r}", where="masks")
        regions = [_region(mask, base.shape[:2]) for mask in masks]
        if len(regions) != 2:
            raise PairError(f"{len(regions)} masks were given, expected two: (source, base)", where="masks")
        return regions[0], regions[1]

    return find


def _region(mask: Mask, size: tuple[int, ...]) -> Region:
    array = np.array(mask)  # the user's own may be of the next pair later
    if array.dtype != np.bool_ or array.ndim not in {2, 3} or array.shape[-2:] != size:
        fault = f"a mask has the type {array.dtype} and the shape {list(array.shape)}"
        raise PairError(f"{fault}, expected bool and [{size[0]}, {size[1]}]", where="masks")
    if not array.any():
        raise PairError("a mask is empty", where="masks")
    return Region(array if array.ndim == 3 else array[np.newaxis])


def user_masks_fingerprint(masks: UserMasks) -> str:
    """The name of a user's masks in records: a hash of arrays, or the name of a function."""
    if callable(masks):
        return f"given-{getattr(masks, '__module__', '')}.{getattr(masks, '__qualname__', type(masks).__name__)}"
    digest = hashlib.sha256()
    for name in sorted(masks):
        for mask in masks[name]:
            array = np.ascontiguousarray(mask)
            digest.update(f"{name}{array.shape}".encode() + array.tobytes())
    return f"given-{digest.hexdigest()[:16]}"
