"""Metrics of the drawn world, whose truth an attribute reader knows."""

from __future__ import annotations

from collections.abc import Sequence

from riebench.metrics.catalogue import metric
from riebench.metrics.seen import Seen


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
