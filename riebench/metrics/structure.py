"""Structure distance: how much the layout of a picture changed, whatever its colours (PROTOCOL.md, Metrics)."""

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
    """Mean squared difference of the whole pictures' self-similarities (Tumanyan et al., 2022; PnPInversion's code)."""
    *edited, base = seen.more[DINO].self_similarities([*seen.pictures, seen.reference.base])
    return [(own - base).double().square().mean().item() for own in edited]
