"""The region of a picture that a grounding phrase names, and the rules by which it is found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from riebench.pairs import Pair
from riebench.pairs.grounding import BACKGROUND, EVERYTHING
from riebench.util.errors import PairError

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Fallback = Literal["largest", "touched"]
ADD_OBJECT, DELETE_OBJECT = 2, 3
FOREGROUND, COMPLEMENT = "foreground", "~"


@dataclass(frozen=True)
class Region:
    """Where a phrase is in a picture: instances, or all but them.

    The instances stay apart, because each goes to a grid alone, and a complement is taken on the grid and not in
    pixels (PROTOCOL.md, Masks).

    Attributes:
        instances: masks ``[n, height, width]`` of the objects found.
        complement: whether the phrase names everything but these objects, as ``background`` does.
    """

    instances: Mask
    complement: bool = False

    def pixels(self) -> Mask:
        """The region in pixels ``[height, width]``: the union of the instances, or its complement."""
        union = np.asarray(self.instances.any(0))
        return ~union if self.complement else union


@dataclass(frozen=True)
class MaskRules:
    """The rules of PROTOCOL's section on masks; the defaults are the published ones, faults mended.

    Attributes:
        blur_kernel: side of the blur before the grid, pixels.
        union: whether instances go to the grid one by one and are united there, or are united before.
        fallback: what stands for an instance of which nothing is left: the one cell that it covers most, or
            every cell it touches (what the published code returns).
        add_object: whether the source mask stands for both, or each picture has a mask of its own.
        delete_object: the same of the base mask.
        special_phrases: whether ``#everything``, ``background`` and ``~`` have their meaning.
    """

    blur_kernel: int = 31
    union: Literal["instances", "before"] = "instances"
    fallback: Fallback = "largest"
    add_object: Literal["source", "both"] = "source"
    delete_object: Literal["base", "both"] = "base"
    special_phrases: bool = True


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
