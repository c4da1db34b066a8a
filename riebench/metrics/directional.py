"""CLIP directional similarity: whether the picture has moved as the prompt has (Gal et al., 2021)."""

from __future__ import annotations

from collections.abc import Sequence

from riebench.metrics.catalogue import CLIP, metric
from riebench.metrics.seen import Seen


@metric(
    "clip_directional",
    "cosine of what changed from base to edited image and from original to edit prompt in CLIP; null without change",
    needs=(CLIP,),
    optional=True,
)
def clip_directional(seen: Seen) -> Sequence[float | None]:
    """``cos(E(edited) - E(base), T(edit) - T(original))`` of unit embeddings, one for each picture."""
    moved, wanted = seen.clip - seen.clip_base, seen.clip_edit - seen.clip_original
    norms = moved.norm(dim=1) * wanted.norm()
    pairs = zip((moved @ wanted).tolist(), norms.tolist(), strict=True)
    return [dot / norm if norm else None for dot, norm in pairs]
