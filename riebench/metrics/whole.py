"""The six metrics of RIEBench (PROTOCOL.md, Metrics)."""

from __future__ import annotations

from collections.abc import Sequence

from riebench.metrics.catalogue import CLIP, LPIPS, metric
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
