"""The six metrics of RIEBench (PROTOCOL.md, Metrics)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from riebench.metrics.registry import metric
from riebench.metrics.scoring import Image, Scoring

if TYPE_CHECKING:
    from torch import Tensor


@metric("clip_text_edit", "CLIP similarity of the edited image with the edit prompt", of_base=True)
def clip_text_edit(images: Sequence[Image], scoring: Scoring) -> Sequence[float | None]:
    """Cosine of the embeddings, one for each picture."""
    return _numbers(scoring.clip(images) @ scoring.text(scoring.edit_prompt))


@metric("clip_text_original", "CLIP similarity of the edited image with the original prompt", of_base=True)
def clip_text_original(images: Sequence[Image], scoring: Scoring) -> Sequence[float | None]:
    """Cosine of the embeddings, one for each picture."""
    return _numbers(scoring.clip(images) @ scoring.text(scoring.original_prompt))


@metric("clip_image_source", "CLIP similarity of the edited image with the source image", of_base=True)
def clip_image_source(images: Sequence[Image], scoring: Scoring) -> Sequence[float | None]:
    """Cosine of the embeddings, one for each picture."""
    return _numbers(scoring.clip(images) @ scoring.clip([scoring.source])[0])


@metric("clip_image_base", "CLIP similarity of the edited image with the base image")
def clip_image_base(images: Sequence[Image], scoring: Scoring) -> Sequence[float | None]:
    """Cosine of the embeddings, one for each picture."""
    return _numbers(scoring.clip(images) @ scoring.clip([scoring.base])[0])


@metric("lpips_base", "LPIPS of the edited image to the base image")
def lpips_base(images: Sequence[Image], scoring: Scoring) -> Sequence[float | None]:
    """The distance, one for each picture."""
    return [scoring.scorers.lpips.total(layers) for layers in scoring.lpips_layers(images, scoring.base)]


@metric("lpips_source", "LPIPS of the edited image to the source image", of_base=True)
def lpips_source(images: Sequence[Image], scoring: Scoring) -> Sequence[float | None]:
    """The distance, one for each picture."""
    return [scoring.scorers.lpips.total(layers) for layers in scoring.lpips_layers(images, scoring.source)]


def _numbers(values: Tensor) -> list[float]:
    found: list[float] = values.tolist()
    return found
