"""The region of a picture that a grounding phrase names, and the rules by which it is found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from riebench.pairs import Pair
from riebench.pairs.grounding import is_background, is_everything
from riebench.util.errors import PairError

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Fallback = Literal["largest", "touched"]
ADD_OBJECT, DELETE_OBJECT = 2, 3
FOREGROUND, COMPLEMENT = "foreground", "~"


@dataclass(frozen=True)
class Region:
    """The part of a picture that a phrase names: instances, or everything but them.

    The instances are kept apart, because each goes to a grid alone, and a complement is taken on the grid and not in
    pixels (PROTOCOL.md, Masks).

    Attributes:
        instances: masks ``[n, height, width]``, one of each object.
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
    """The rules of PROTOCOL.md, Masks; the defaults are the published ones with their faults mended.

    Attributes:
        blur_kernel: side of the blur before the grid, pixels.
        union: ``instances`` unites the instances on the grid; ``before`` unites them in pixels.
        fallback: the cells of an instance that is too small for the grid: ``largest``, the cell that it covers most, or
            ``touched``, every cell that it touches (as the published code does).
        add_object: ``source`` uses the source mask for both pictures; ``both`` gives each picture its own mask.
        delete_object: ``base`` uses the base mask for both pictures; ``both`` gives each picture its own mask.
        special_phrases: whether ``#everything``, ``background`` and ``~`` have their meaning.
    """

    blur_kernel: int = 31
    union: Literal["instances", "before"] = "instances"
    fallback: Fallback = "largest"
    add_object: Literal["source", "both"] = "source"
    delete_object: Literal["base", "both"] = "base"
    special_phrases: bool = True


class Masker(Protocol):
    """Finds the objects that a phrase names in a picture.

    Attributes:
        name: of the masker, for records.
        fingerprint: hash of its weights.
    """

    name: str
    fingerprint: str

    def find(self, image: Image, phrase: str) -> Mask:
        """Instance masks ``[n, height, width]`` of a phrase in a picture ``[height, width, 3]``; n may be 0."""
        ...


def ground(masker: Masker, image: Image, phrase: str, special: bool = True) -> Region:
    """The region of a phrase in a picture ``[height, width, 3]`` (PROTOCOL.md, Masks).

    ``#everything`` is the whole picture. A phrase with ``background`` is the complement of "foreground", a phrase with
    ``~`` the complement of the rest of the phrase; capital letters do not matter. With ``special=False`` these are
    ordinary phrases.

    Raises:
        PairError: if the masker finds no object of the phrase, or, for a complement, of the phrase's rest.
    """
    if special and is_everything(phrase):
        return Region(np.ones((1, *image.shape[:2]), bool))
    if special and is_background(phrase):
        noun, complement = FOREGROUND, True
    elif special and COMPLEMENT in phrase:
        noun, complement = phrase.replace(COMPLEMENT, " ").strip(), True
    else:
        noun, complement = phrase, False
    instances = masker.find(image, noun)
    if not instances.any():
        reason = f", so there is no {phrase!r}" if complement else ""
        raise PairError(f"{masker.name} finds no {noun!r} in the picture{reason}", where="masks")
    return Region(instances, complement)


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
        region = ground(masker, base, pair.original_gsam_prompt, special)
        return region, region
    region = ground(masker, source, pair.editing_gsam_prompt, special)
    if category == ADD_OBJECT and rules.add_object == "source":
        return region, region
    return region, ground(masker, base, pair.original_gsam_prompt, special)
