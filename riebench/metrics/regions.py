"""CLIP similarity and LPIPS inside the edited region and outside it."""

from __future__ import annotations

from collections.abc import Sequence

from riebench.metrics.catalogue import CLIP, LPIPS, REGIONS, metric
from riebench.metrics.seen import Seen


@metric(
    "clip_text_edit_inside",
    "clip_text_edit with everything outside the edited region black; null where the region is empty",
    needs=(CLIP, REGIONS),
)
def clip_text_edit_inside(seen: Seen) -> Sequence[float | None]:
    """Cosine of the edit prompt and the pictures with everything outside the region black; None if it is empty."""
    if seen.clip_inside is None:
        return [None] * len(seen.pictures)
    return (seen.clip_inside @ seen.clip_edit).tolist()


@metric(
    "clip_text_edit_outside",
    "clip_text_edit with the edited region black; null where nothing is outside",
    needs=(CLIP, REGIONS),
)
def clip_text_edit_outside(seen: Seen) -> Sequence[float | None]:
    """Cosine of the edit prompt and the pictures with the region black; None if nothing is outside."""
    if seen.clip_outside is None:
        return [None] * len(seen.pictures)
    return (seen.clip_outside @ seen.clip_edit).tolist()


@metric("lpips_base_inside", "mean of the LPIPS map to the base image inside the edited region", needs=(LPIPS, REGIONS))
def lpips_base_inside(seen: Seen) -> Sequence[float | None]:
    """Mean of the spatial distance map over the region; None if it is empty."""
    return seen.lpips_inside


@metric(
    "lpips_base_outside", "mean of the LPIPS map to the base image outside the edited region", needs=(LPIPS, REGIONS)
)
def lpips_base_outside(seen: Seen) -> Sequence[float | None]:
    """Mean of the spatial distance map over the rest of the picture; None if nothing is outside."""
    return seen.lpips_outside
