"""The same inside the edited region and outside it."""

from __future__ import annotations

from collections.abc import Sequence

from riebench.metrics.published import clip_text_edit
from riebench.metrics.registry import metric
from riebench.metrics.scoring import Image, Mask, Scoring


@metric("clip_text_edit_inside", "clip_text_edit with all outside the edited region black; null where it is empty")
def clip_text_edit_inside(images: Sequence[Image], scoring: Scoring) -> Sequence[float | None]:
    """Of the pictures with all but the region black."""
    return _clip_within(scoring.region, images, scoring)


@metric("clip_text_edit_outside", "clip_text_edit with the edited region black; null where nothing is outside")
def clip_text_edit_outside(images: Sequence[Image], scoring: Scoring) -> Sequence[float | None]:
    """Of the pictures with the region black."""
    return _clip_within(~scoring.region, images, scoring)


@metric("lpips_base_inside", "mean of the LPIPS map to the base image inside the edited region")
def lpips_base_inside(images: Sequence[Image], scoring: Scoring) -> Sequence[float | None]:
    """Mean of the spatial distance map over the region; null where it is empty."""
    return scoring.scorers.lpips.total_within(scoring.lpips_layers(images, scoring.base), scoring.region)


@metric("lpips_base_outside", "mean of the LPIPS map to the base image outside the edited region")
def lpips_base_outside(images: Sequence[Image], scoring: Scoring) -> Sequence[float | None]:
    """Mean of the spatial distance map over the rest of the picture; null where nothing is outside."""
    return scoring.scorers.lpips.total_within(scoring.lpips_layers(images, scoring.base), ~scoring.region)


def _clip_within(part: Mask, images: Sequence[Image], scoring: Scoring) -> Sequence[float | None]:
    if not part.any():
        return [None] * len(images)
    return clip_text_edit([image * part[..., None] for image in images], scoring)
