"""Look at all pictures of a pair once, so that each metric is a function of what was seen."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from riebench.metrics.catalogue import CLIP, LPIPS, METRICS, REGIONS, Scores

if TYPE_CHECKING:
    from torch import Tensor

    from riebench.metrics.clip import ClipScorer
    from riebench.metrics.lpips import LpipsScorer

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
        lpips_source: the same to the source image; of the base image last.
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


def score_images(
    scorers: Scorers, reference: Reference, images: Sequence[Image], names: Collection[str] | None = None
) -> list[Scores]:
    """Metrics of edited pictures, and those of the base picture that cost nothing as ``NAME_base``.

    A picture that comes more than once is looked at once.

    Args:
        scorers: the networks.
        reference: what the pictures are compared with.
        images: ``[height, width, 3]`` each.
        names: of the metrics; all but the optional ones unless given. Those of the drawn world need its truth.
    """
    pictures, of = _distinct(images)
    known = [m for m in METRICS.values() if reference.truth is not None or not m.drawn_world]
    metrics = [m for m in known if (not m.optional if names is None else m.name in names)]
    seen = look_at(scorers, reference, pictures, {need for m in metrics for need in m.needs})
    # The base image in the pictures' place, as far as it has been looked at already.
    base = seen._replace(pictures=[reference.base], clip=seen.clip_base[None], lpips_source=seen.lpips_source[-1:])
    of_base = {f"{m.name}_base": m.measure(base)[0] for m in metrics if m.of_base}
    columns = {m.name: m.measure(seen) for m in metrics}
    return [{**{name: values[i] for name, values in columns.items()}, **of_base} for i in of]


def look_at(
    scorers: Scorers,
    reference: Reference,
    pictures: Sequence[Image],
    needs: Set[str] = frozenset((CLIP, LPIPS, REGIONS)),
) -> Seen:
    """Look at distinct pictures: each, whole and by region, goes through CLIP once, and whole through LPIPS once.

    Args:
        scorers: the networks.
        reference: what the pictures are compared with.
        pictures: distinct ones.
        needs: see :attr:`riebench.metrics.Metric.needs`.
    """
    base, source, _, _, region, truth = reference
    keeps = np.repeat(region[..., None], base.shape[2], 2)  # of the shape of a picture, which multiplies fastest
    inside, outside = (
        [picture * part.view(np.uint8) for picture in pictures] if part.any() and {CLIP, REGIONS} <= needs else []
        for part in (keeps, ~keeps)
    )
    # An edited picture may be the base or the source image, and a masked one may be whole.
    whole, of_whole = _distinct([*pictures, base, source])
    every, of = _distinct([*whole, *inside, *outside])
    *of_pictures, of_base, of_source = of_whole
    of_inside, of_outside = of[len(whole) :][: len(inside)], of[len(whole) + len(inside) :]
    embedded, texts = _embedded(scorers.clip, every, reference) if CLIP in needs else _nothing_embedded(len(every))
    to_base: Sequence[Sequence[Tensor]] = []
    to_source = to_base
    by_region: tuple[Sequence[float | None], Sequence[float | None]] = ([], [])
    if LPIPS in needs:
        features, layers = scorers.lpips.features(whole), scorers.lpips.layers
        to_base = [layers(features[i], features[of_base]) for i in of_pictures]
        to_source = [layers(features[i], features[of_source]) for i in [*of_pictures, of_base]]
        if REGIONS in needs:
            by_region = scorers.lpips.means_by_region(to_base, region)
    return Seen(
        pictures=pictures,
        reference=reference,
        clip=embedded[of_pictures],
        clip_base=embedded[of_base],
        clip_source=embedded[of_source],
        clip_edit=texts[0],
        clip_original=texts[1],
        clip_inside=embedded[of_inside] if inside else None,
        clip_outside=embedded[of_outside] if outside else None,
        lpips_base=scorers.lpips.totals(to_base),
        lpips_source=scorers.lpips.totals(to_source),
        lpips_inside=by_region[0],
        lpips_outside=by_region[1],
        verdicts=[truth(picture) for picture in pictures] if truth else None,
        more=scorers.more,
    )


def _embedded(clip: ClipScorer, pictures: Sequence[Image], reference: Reference) -> tuple[Tensor, list[Tensor]]:
    """Embeddings ``[n, d]`` of pictures, and ``[d]`` of the edit prompt and of the original one."""
    prompts = (reference.edit_prompt, reference.original_prompt)
    return clip.images(pictures).double(), [clip.text(prompt).double() for prompt in prompts]


def _nothing_embedded(count: int) -> tuple[Tensor, list[Tensor]]:
    """The same without any width."""
    import torch

    return torch.empty(count, 0), [torch.empty(0)] * 2


def _distinct(images: Sequence[Image]) -> tuple[list[Image], list[int]]:
    """Distinct pictures in the order in which they come first, and where each of the given is among them."""
    places: dict[bytes, int] = {}
    of = [places.setdefault(image.tobytes(), len(places)) for image in images]
    return [images[of.index(i)] for i in range(len(places))], of
