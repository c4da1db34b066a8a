"""The region of a grounding phrase, and which phrase goes with which picture of a pair."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from riebench.masks.region import Mask, Region
from riebench.masks.rules import MaskRules
from riebench.pairs import Pair
from riebench.pairs.grounding import BACKGROUND, EVERYTHING
from riebench.util.errors import PairError

Image = NDArray[np.uint8]
ADD_OBJECT, DELETE_OBJECT = 2, 3
FOREGROUND, COMPLEMENT = "foreground", "~"


class Masker(Protocol):
    """Finds the objects that a phrase names in a picture."""

    name: str
    fingerprint: str

    def find(self, image: Image, phrase: str) -> Mask:
        """Instance masks ``[n, height, width]`` of a phrase in a picture ``[height, width, 3]``; n may be 0."""
        ...


def ground(masker: Masker, image: Image, phrase: str, special: bool = True) -> Region:
    """The region of a phrase in a picture ``[height, width, 3]`` (PROTOCOL.md, Masks).

    ``#everything`` is the whole picture. A phrase that contains ``background`` is the complement of "foreground", one
    that contains ``~`` the complement of the rest of the phrase. Without ``special`` these are phrases like any other.

    Raises:
        PairError: if the phrase is not found, or, of a complement, the object that it leaves out.
    """
    if special and phrase.strip() == EVERYTHING:
        return Region(np.ones((1, *image.shape[:2]), bool))
    if special and BACKGROUND in phrase:
        wanted, complement = FOREGROUND, True
    elif special and COMPLEMENT in phrase:
        wanted, complement = phrase.replace(COMPLEMENT, " ").strip(), True
    else:
        wanted, complement = phrase, False
    found = masker.find(image, wanted)
    if not found.any():
        reason = f", so there is no {phrase!r}" if complement else ""
        raise PairError(f"{masker.name} finds no {wanted!r} in the picture{reason}", where="masks")
    return Region(found, complement)


def pair_regions(masker: Masker, rules: MaskRules, pair: Pair, base: Image, source: Image) -> tuple[Region, Region]:
    """The regions (source, base) of a pair's grounding phrases, by its category (PROTOCOL.md, Masks).

    Add object: both are the region of the source phrase in the source image. Delete object: both are the region of
    the base phrase in the base image. All others: each phrase in its own image.

    Args:
        masker: finds the objects.
        rules: may give each image a mask of its own in every category, or make special phrases plain.
        pair: with its phrases and category.
        base: base image ``[height, width, 3]``.
        source: source image ``[height, width, 3]``.

    Raises:
        PairError: if a phrase is not found.
    """
    category, special = pair.editing_type_id, rules.special_phrases
    if category == DELETE_OBJECT and rules.delete_object == "base":
        found = ground(masker, base, pair.original_gsam_prompt, special)
        return found, found
    found = ground(masker, source, pair.editing_gsam_prompt, special)
    if category == ADD_OBJECT and rules.add_object == "source":
        return found, found
    return found, ground(masker, base, pair.original_gsam_prompt, special)
