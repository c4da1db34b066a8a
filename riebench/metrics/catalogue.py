"""Metrics by name. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from riebench.metrics.scoring import Seen

Scores = dict[str, float | None]
"""Metric to its number; null where it is undefined."""
Measure = Callable[["Seen"], Sequence[float | None]]


@dataclass(frozen=True)
class Metric:
    """A metric of edited pictures.

    Attributes:
        name: its column in records and tables.
        says: what it is, in a line.
        measure: what was seen in some pictures, to one number each.
        of_base: whether a record also holds it of the base picture, as ``NAME_base``; it may then use
            ``clip`` and ``lpips_source`` alone of what differs from picture to picture.
        drawn_world: whether it needs a pair whose truth is known.
    """

    name: str
    says: str
    measure: Measure
    of_base: bool = False
    drawn_world: bool = False


METRICS: dict[str, Metric] = {}
"""Every metric of a record, in the order of its columns."""


def metric(name: str, says: str, *, of_base: bool = False, drawn_world: bool = False) -> Callable[[Measure], Measure]:
    """Register a function as a metric; records, tables, figures, page and bench then have it.

    Raises:
        ValueError: if the name is taken.
    """

    def register(measure: Measure) -> Measure:
        if name in METRICS:
            raise ValueError(f"the metric name {name!r} is taken; choose another")
        METRICS[name] = Metric(name, says, measure, of_base, drawn_world)
        return measure

    return register
