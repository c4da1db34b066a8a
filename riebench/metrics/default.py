"""The default metrics: the six of RIEBench, four by region, and two of the drawn world (PROTOCOL.md, Metrics)."""

from __future__ import annotations

from collections.abc import Sequence

from riebench.metrics.catalogue import CLIP, LPIPS, REGIONS, metric
from riebench.metrics.seen import Seen


@metric(
    "clip_text_edit",
    "CLIP similarity of the edited image with the edit prompt",
    of_base=True,
    needs=(CLIP,),
    published=True,
)
def clip_text_edit(seen: Seen) -> Sequence[float | None]:
    """Cosine of the embeddings, one for each picture."""
    return (seen.clip @ seen.clip_edit).tolist()


@metric(
    "clip_text_original",
    "CLIP similarity of the edited image with the original prompt",
    of_base=True,
    needs=(CLIP,),
    published=True,
)
def clip_text_original(seen: Seen) -> Sequence[float | None]:
    """Cosine of the embeddings, one for each picture."""
    return (seen.clip @ seen.clip_original).tolist()


@metric(
    "clip_image_source",
    "CLIP similarity of the edited image with the source image",
    of_base=True,
    needs=(CLIP,),
    published=True,
)
def clip_image_source(seen: Seen) -> Sequence[float | None]:
    """Cosine of the embeddings, one for each picture."""
    return (seen.clip @ seen.clip_source).tolist()


@metric("clip_image_base", "CLIP similarity of the edited image with the base image", needs=(CLIP,), published=True)
def clip_image_base(seen: Seen) -> Sequence[float | None]:
    """Cosine of the embeddings, one for each picture."""
    return (seen.clip @ seen.clip_base).tolist()


@metric("lpips_base", "LPIPS of the edited image to the base image", needs=(LPIPS,), published=True)
def lpips_base(seen: Seen) -> Sequence[float | None]:
    """The distance, one for each picture."""
    return seen.lpips_base


@metric("lpips_source", "LPIPS of the edited image to the source image", of_base=True, needs=(LPIPS,), published=True)
def lpips_source(seen: Seen) -> Sequence[float | None]:
    """The distance, one for each picture."""
    return seen.lpips_source


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


@metric(
    "edit_success",
    "1 if the edited attribute reads as the edit prompt says, else 0 (drawn world only)",
    drawn_world=True,
    needs=(),
)
def edit_success(seen: Seen) -> Sequence[float | None]:
    """The reader's verdict on the edited attribute."""
    return [verdict["edit_success"] for verdict in seen.verdicts or ()]


@metric(
    "kept",
    "share of the other visible attributes that read as in the base scene (drawn world only)",
    drawn_world=True,
    needs=(),
)
def kept(seen: Seen) -> Sequence[float | None]:
    """The reader's verdict on the other attributes."""
    return [verdict["kept"] for verdict in seen.verdicts or ()]
