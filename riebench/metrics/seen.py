"""What is seen of the edited pictures of a pair before they are measured, and the networks that see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from riebench.metrics.clip import ClipScorer
    from riebench.metrics.lpips import LpipsScorer

Scores = dict[str, float | None]
"""Metric to its number; null where it is undefined."""
Image = NDArray[np.uint8]


Mask = NDArray[np.bool_]


Truth = Callable[[Image], Scores]
"""Judges an edited picture of a pair whose truth is known."""


class Scorers(NamedTuple):
    """The networks that score.

    Attributes:
        clip: CLIP.
        lpips: LPIPS.
        more: those that single metrics need, by the name of their weights; each has a ``name`` and a ``fingerprint``.
    """

    clip: ClipScorer
    lpips: LpipsScorer
    more: Mapping[str, Any] = {}


class Reference(NamedTuple):
    """What the edited pictures of a pair are compared with.

    Attributes:
        base: base image ``[height, width, 3]``.
        source: source image.
        edit_prompt: as it is embedded.
        original_prompt: as it is embedded.
        region: the edited region ``[height, width]``: the union of the pair's masks.
        truth: judges a picture, where the truth is known.
    """

    base: Image
    source: Image
    edit_prompt: str
    original_prompt: str
    region: Mask
    truth: Truth | None = None


class Seen(NamedTuple):
    """Some pictures, and what CLIP, LPIPS and the truth see in them. A metric is a function of this.

    What none of the chosen metrics needs is empty.

    Attributes:
        pictures: ``[height, width, 3]`` each.
        reference: what they are compared with.
        clip: CLIP embeddings ``[n, d]`` of the pictures, in float64 as all embeddings here.
        clip_base: of the base image ``[d]``.
        clip_source: of the source image.
        clip_edit: of the edit prompt.
        clip_original: of the original prompt.
        clip_inside: of the pictures with all but the region black ``[n, d]``; None where the region is empty.
        clip_outside: of the pictures with the region black; None where nothing is outside.
        lpips_base: LPIPS of each picture to the base image.
        lpips_source: the same to the source image.
        lpips_inside: means over the region of the LPIPS maps to the base image; null where it is empty.
        lpips_outside: means over the rest.
        verdicts: of the truth on each picture; None where it is not known.
        more: further scorers, see :class:`Scorers`.
    """

    pictures: Sequence[Image]
    reference: Reference
    clip: Tensor
    clip_base: Tensor
    clip_source: Tensor
    clip_edit: Tensor
    clip_original: Tensor
    clip_inside: Tensor | None
    clip_outside: Tensor | None
    lpips_base: Sequence[float | None]
    lpips_source: Sequence[float | None]
    lpips_inside: Sequence[float | None]
    lpips_outside: Sequence[float | None]
    verdicts: Sequence[Scores] | None
    more: Mapping[str, Any]
