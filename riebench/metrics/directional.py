"""CLIP directional similarity: whether the picture changed in the direction of the prompt (Gal et al., 2021)."""

from __future__ import annotations

from collections.abc import Sequence

from riebench.metrics.catalogue import CLIP, metric
from riebench.metrics.seen import Seen


@metric(
    "clip_directional",
    "cosine in CLIP of the change from base to edited image and that from original to edit prompt; null without change",
    needs=(CLIP,),
    optional=True,
)
def clip_directional(seen: Seen) -> Sequence[float | None]:
    """``cos(E(edited) - E(base), T(edit) - T(original))`` of unit embeddings; None without change."""
    of_pictures, of_prompts = seen.clip - seen.clip_base, seen.clip_edit - seen.clip_original
    norms = of_pictures.norm(dim=1) * of_prompts.norm()
    pairs = zip((of_pictures @ of_prompts).tolist(), norms.tolist(), strict=True)
    return [dot / norm if norm else None for dot, norm in pairs]
