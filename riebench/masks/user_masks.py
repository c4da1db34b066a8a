"""Masks that a user hands in, as arrays or a function, in the place of a masker's."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import numpy as np

from riebench.masks.region import Image, Mask, Region
from riebench.pairs import Pair
from riebench.util.errors import PairError

MaskSource = Callable[[Pair, Image, Image], tuple[Region, Region]]
"""From a pair, its base image and its source image to its regions (source, base); PairError where there are none."""

MaskFunction = Callable[[Pair, Image, Image], tuple[Mask, Mask]]
"""A user's function from a pair, its base image and its source image to its masks (source, base)."""

UserMasks = MaskFunction | Mapping[str, tuple[Mask, Mask]]
"""A user's masks: a function, or pair id to (source mask, base mask). Each mask is boolean, ``[height, width]``, or
``[n, height, width]`` for several instances."""


def regions_of_user_masks(given: UserMasks) -> MaskSource:
    """Regions of a user's masks, which are checked pair by pair.

    The function that is returned raises PairError if a pair has no masks, or if they do not fit its images.
    """

    def find(pair: Pair, base: Image, source: Image) -> tuple[Region, Region]:
        if callable(given):
            masks = given(pair, base, source)
        elif pair.id in given:
            masks = given[pair.id]
        else:
            raise PairError(f"no masks were given for the pair {pair.id!r}", where="masks")
        found = [_region(mask, base.shape[:2]) for mask in masks]
        if len(found) != 2:
            raise PairError(f"{len(found)} masks were given, expected two: (source, base)", where="masks")
        return found[0], found[1]

    return find


def _region(mask: Mask, size: tuple[int, ...]) -> Region:
    array = np.asarray(mask)
    if array.dtype != np.bool_ or array.ndim not in {2, 3} or array.shape[-2:] != size:
        fault = f"a mask has the type {array.dtype} and the shape {list(array.shape)}"
        raise PairError(f"{fault}, expected bool and [{size[0]}, {size[1]}]", where="masks")
    if not array.any():
        raise PairError("a mask is empty", where="masks")
    return Region(array if array.ndim == 3 else array[np.newaxis])


def user_masks_fingerprint(given: UserMasks) -> str:
    """A name for a user's masks in records: a hash of arrays, or the name of a function."""
    if callable(given):
        return f"given-{getattr(given, '__module__', '')}.{getattr(given, '__qualname__', type(given).__name__)}"
    digest = hashlib.sha256()
    for name in sorted(given):
        for mask in given[name]:
            array = np.ascontiguousarray(mask)
            digest.update(f"{name}{array.shape}".encode() + array.tobytes())
    return f"given-{digest.hexdigest()[:16]}"
