"""The input of metrics: edited pictures of a pair with their embeddings and distances, and the networks for these."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from riebench.metrics.clip import ClipScorer
    from riebench.metrics.lpips import LpipsScorer

    Image = NDArray[np.uint8]
    Mask = NDArray[np.bool_]
else:  # types alone: naming a metric needs no numpy
    Image = Mask = Any

Scores = dict[str, float | None]
"""Metric to its number; None where it is undefined."""
Truth = Callable[["Image"], Scores]
"""From an edited picture ``[height, width, 3]`` to its scores, for a pair whose truth is known."""


class Scorers(NamedTuple):
    """The networks that score.

    Attributes:
        clip: CLIP.
        lpips: LPIPS.
        more: networks of single metrics by the name of their weights; each has a ``name`` and a ``fingerprint``.
    """

    clip: ClipScorer
    lpips: LpipsScorer
    more: Mapping[str, Any] = {}


class Reference(NamedTuple):
    """The pictures, prompts and region of a pair, which edited pictures are compared with.

    Attributes:
        base: base picture, uint8 ``[height, width, 3]``.
        source: source picture, of the same shape.
        edit_prompt: as CLIP gets it.
        original_prompt: as CLIP gets it.
        region: the edited region, boolean ``[height, width]``: the union of the pair's two masks.
        truth: judges a picture; None where the truth is unknown.
    """

    base: Image
    source: Image
    edit_prompt: str
    original_prompt: str
    region: Mask
    truth: Truth | None = None


class Seen(NamedTuple):
    """The n distinct edited pictures of a pair with their embeddings and distances: the input of a metric.

    An attribute is empty if no metric of the run needs it (:attr:`riebench.metrics.Metric.needs`). All embeddings are
    unit vectors in float64 on the CPU.

    Attributes:
        pictures: uint8 ``[height, width, 3]`` each.
        reference: the base and source picture, prompts and region of the pair.
        clip: CLIP embeddings ``[n, d]`` of the pictures.
        clip_base: ``[d]`` of the base picture.
        clip_source: ``[d]`` of the source picture.
        clip_edit: ``[d]`` of the edit prompt; NaN if it has more tokens than CLIP takes, so that metrics are null.
        clip_original: ``[d]`` of the original prompt, likewise.
        clip_inside: ``[n, d]`` of the pictures with everything outside the region black; None if the region is empty.
        clip_outside: ``[n, d]`` of the pictures with the region black; None if the region is the whole picture.
        lpips_base: LPIPS of each picture to the base picture.
        lpips_source: LPIPS of each picture to the source picture.
        lpips_inside: mean of the LPIPS map to the base picture over the region; None if the region is empty.
        lpips_outside: mean of that map over the rest of the picture; None if there is none.
        verdicts: scores of each picture by the truth; None where the truth is unknown.
        more: further networks, see :class:`Scorers`.
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
