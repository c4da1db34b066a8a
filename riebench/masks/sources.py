"""Where a run's masks come from: a masker and phrases, or arrays and functions of the user's own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from riebench.masks.phrases import Masker, pair_instances
from riebench.masks.rules import MaskRules
from riebench.pairs import Pair
from riebench.util.errors import PairError

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
MaskFunction = Callable[[Pair, Image, Image], tuple[Mask, Mask]]
GivenMasks = MaskFunction | Mapping[str, tuple[Mask, Mask]]
"""Pair id to (source mask, base mask), or a function of pair, base image and source image that gives the two;
each mask is boolean, ``[height, width]`` or, for several instances, ``[n, height, width]``."""


def from_phrases(masker: Masker, rules: MaskRules) -> MaskFunction:
    """Masks of a pair's grounding phrases."""

    def find(pair: Pair, base: Image, source: Image) -> tuple[Mask, Mask]:
        return pair_instances(
            masker,
            pair.editing_type_id,
            base,
            source,
            pair.original_gsam_prompt,
            pair.editing_gsam_prompt,
            rules,
        )

    return find


def from_user(given: GivenMasks) -> MaskFunction:
    """Masks that are given; each is checked when its pair comes.

    The function that is returned raises PairError if a pair has none, or they do not fit its pictures.
    """

    def find(pair: Pair, base: Image, source: Image) -> tuple[Mask, Mask]:
        if callable(given):
            masks = given(pair, base, source)
        elif pair.id in given:
            masks = given[pair.id]
        else:
            raise PairError(f"no masks were given for the pair {pair.id!r}", where="masks")
        found = [_instances(mask, base.shape[:2]) for mask in masks]
        if len(found) != 2:
            raise PairError(f"{len(found)} masks were given, expected two: (source, base)", where="masks")
        return found[0], found[1]

    return find


def _instances(mask: Mask, size: tuple[int, ...]) -> Mask:
    array = np.asarray(mask)
    if array.dtype != np.bool_ or array.ndim not in {2, 3} or array.shape[-2:] != size:
        said = f"a mask has the type {array.dtype} and the shape {list(array.shape)}"
        raise PairError(f"{said}, expected bool and [{size[0]}, {size[1]}]", where="masks")
    if not array.any():
        raise PairError("a mask is empty", where="masks")
    return array if array.ndim == 3 else array[np.newaxis]


def given_fingerprint(given: GivenMasks) -> str:
    """Names given masks in records: by content for arrays, by the name of a function."""
    if callable(given):
        return f"given-{getattr(given, '__module__', '')}.{getattr(given, '__qualname__', type(given).__name__)}"
    digest = hashlib.sha256()
    for name in sorted(given):
        for mask in given[name]:
            array = np.ascontiguousarray(mask)
            digest.update(f"{name}{array.shape}".encode() + array.tobytes())
    return f"given-{digest.hexdigest()[:16]}"
