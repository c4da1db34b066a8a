"""Metrics by name, and how some of them are chosen. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from riebench.util.errors import unknown

if TYPE_CHECKING:
    from riebench.metrics.seen import Seen

Measure = Callable[["Seen"], Sequence[float | None]]
CLIP, LPIPS, REGIONS = "clip", "lpips", "regions"
"""What a metric may need: pictures by CLIP, by LPIPS, and both also inside and outside the edited region."""
DEFAULT, PUBLISHED = "default", "published"
"""Sets of metrics that can be named as a metric can."""
CURVE = ("clip_text_edit", "lpips_base")
"""Metrics that every record holds: tables and figures are made of them."""


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
        needs: what it uses of :class:`~riebench.metrics.seen.Seen`; the rest may be empty.
        scorer: a further network that it needs, by the name of its weights; it is ``seen.more[scorer]``.
        published: whether RIEBench has it.
        optional: whether it is measured only where it is asked for.
    """

    name: str
    says: str
    measure: Measure
    of_base: bool = False
    drawn_world: bool = False
    needs: tuple[str, ...] = (CLIP, LPIPS, REGIONS)
    scorer: str | None = None
    published: bool = False
    optional: bool = False


METRICS: dict[str, Metric] = {}
"""Every metric of a record, in the order of its columns."""


def metric(
    name: str,
    says: str,
    *,
    of_base: bool = False,
    drawn_world: bool = False,
    needs: Sequence[str] = (CLIP, LPIPS, REGIONS),
    scorer: str | None = None,
    published: bool = False,
    optional: bool = False,
) -> Callable[[Measure], Measure]:
    """Register a function as a metric; records, tables, figures, page and bench then have it.

    The arguments are the attributes of :class:`Metric`.

    Raises:
        ValueError: if the name is taken.
    """

    def register(measure: Measure) -> Measure:
        if name in METRICS:
            raise ValueError(f"the metric name {name!r} is taken; choose another")
        METRICS[name] = Metric(name, says, measure, of_base, drawn_world, tuple(needs), scorer, published, optional)
        return measure

    return register


def scorers_of(names: Iterable[str]) -> set[str]:
    """The networks that some metrics need beside CLIP and LPIPS."""
    return {scorer for name in names if (scorer := METRICS[name].scorer) is not None}


def chosen(words: Iterable[str]) -> tuple[str, ...]:
    """The metrics that some names stand for, in the order of their columns, with those of :data:`CURVE`.

    The set ``published`` is RIEBench's metrics, with the truth where it is known; ``default`` is all but the optional
    ones.

    Raises:
        UserError: if there is no such metric or set.
    """
    sets = {
        DEFAULT: [m.name for m in METRICS.values() if not m.optional],
        PUBLISHED: [m.name for m in METRICS.values() if m.published or m.drawn_world],
    }
    names = set(CURVE)
    for word in words:
        if word not in METRICS and word not in sets:
            raise unknown("metric", word, [*METRICS, *sets])
        names.update(sets.get(word, [word]))
    return tuple(name for name in METRICS if name in names)
