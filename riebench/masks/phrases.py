"""What a grounding phrase asks for, and which phrase goes with which picture of a pair."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from riebench.masks.rules import MaskRules
from riebench.util.errors import PairError

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
ADD_OBJECT, DELETE_OBJECT = 2, 3


class Masker(Protocol):
    """Finds what a phrase names in a picture."""

    name: str
    fingerprint: str

    def find(self, image: Image, phrase: str) -> Mask:
        """Instance masks ``[n, height, width]`` of a plain phrase in ``[height, width, 3]``; n is 0 if not found."""
        ...


def ground(masker: Masker, image: Image, phrase: str, special: bool = True) -> Mask:
    """Instance masks ``[n, height, width]`` of a phrase, special phrases included.

    ``#everything`` is the whole picture; a phrase with ``background`` in it is the complement of
    "foreground"; one with ``~`` is the complement of the rest of the phrase (RIEBench's published rules).
    Without ``special`` they are phrases like any other.

    Raises:
        PairError: if nothing is found.
    """
    height, width = image.shape[:2]
    if special and phrase.strip() == "#everything":
        return np.ones((1, height, width), bool)
    if special and "background" in phrase:
        found = _complement(masker.find(image, "foreground"), height, width)
    elif special and "~" in phrase:
        found = _complement(masker.find(image, phrase.replace("~", " ").strip()), height, width)
    else:
        found = masker.find(image, phrase)
    if not found.any():
        raise PairError(f"{masker.name} finds no {phrase!r} in the picture", where="masks")
    return found


def _complement(instances: Mask, height: int, width: int) -> Mask:
    union: Mask = np.zeros((height, width), bool)
    for mask in instances:
        union |= mask
    return ~union[np.newaxis]


def pair_instances(
    masker: Masker,
    category: int,
    base: Image,
    source: Image,
    base_phrase: str,
    source_phrase: str,
    rules: MaskRules = MaskRules(),  # noqa: B008 - it is frozen
) -> tuple[Mask, Mask]:
    """Instance masks (source, base) of a pair by its category (PROTOCOL: table of masks).

    Add object: the edit phrase on the source image stands for both. Delete object: the original phrase on
    the base image stands for both. All others: each phrase on its own picture.

    Raises:
        PairError: if a phrase is not found.
    """
    special = rules.special_phrases
    if category == DELETE_OBJECT and rules.delete_object == "base":
        found = ground(masker, base, base_phrase, special)
        return found, found
    found = ground(masker, source, source_phrase, special)
    if category == ADD_OBJECT and rules.add_object == "source":
        return found, found
    return found, ground(masker, base, base_phrase, special)
