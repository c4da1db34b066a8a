"""Structure distance: how far the layout of a picture has moved, whatever its colours (PROTOCOL.md, Metrics)."""

from __future__ import annotations

from collections.abc import Sequence

from riebench.metrics.catalogue import metric
from riebench.metrics.seen import Seen

DINO = "dino"


@metric(
    "structure_distance",
    "mean squared difference of the DINO self-similarities of the edited and the base image",
    needs=(),
    scorer=DINO,
    optional=True,
)
def structure_distance(seen: Seen) -> Sequence[float | None]:
    """Of the whole pictures, as Tumanyan et al. (2022) and PnPInversion have it."""
    *edited, base = seen.more[DINO].self_similarities([*seen.pictures, seen.reference.base])
    return [(one - base).double().square().mean().item() for one in edited]
