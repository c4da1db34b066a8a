"""Look at all pictures of a pair once, so that each metric is a function of what was seen."""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set
from typing import TYPE_CHECKING

import numpy as np

from riebench.metrics.catalogue import CLIP, LPIPS, METRICS, REGIONS
from riebench.metrics.seen import Image, Reference, Scorers, Scores, Seen

if TYPE_CHECKING:
    from torch import Tensor

    from riebench.metrics.clip import ClipScorer


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
