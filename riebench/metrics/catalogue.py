"""Metrics by name: riebench's own, installed ones, and functions of a user's file. Needs no torch."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from riebench.records.code import code_hash, import_hash, remember_code
from riebench.records.schema import Record, Setting, with_hash
from riebench.util.errors import unknown
from riebench.util.live_code import live_hash
from riebench.util.plugins import Listed, Registry, place_of

if TYPE_CHECKING:
    from riebench.metrics.seen import Scorers, Seen

Measure = Callable[["Seen"], Sequence[float | None]]
CLIP, LPIPS, REGIONS = "clip", "lpips", "regions"
"""Parts of ``Seen`` that a metric may need: CLIP's, LPIPS's, and both also inside and outside the edited region."""
DEFAULT, PUBLISHED = "default", "published"
"""Names of sets of metrics, which ``--metrics`` takes as it takes the name of a metric."""
CURVE = ("clip_text_edit", "lpips_base")
"""Metrics that every record holds: tables and figures are made of them."""
NAME = "[a-z][a-z0-9_]*"
OF_SOURCE = "clip_text_edit_source"
"""The column of the source picture's ``clip_text_edit``."""
RESERVED = {*Record.model_fields, *Setting.model_fields, "k", DEFAULT, PUBLISHED, OF_SOURCE, "gain", "margin"}
"""Columns of a table of records or of a report that are no metrics of pictures, and names of sets."""


@dataclass(frozen=True)
class Metric:
    """A metric of edited pictures.

    Attributes:
        name: its column in records and tables.
        says: what it measures, in a line.
        measure: from a :class:`~riebench.metrics.seen.Seen` to one number for each of its pictures.
        of_base: whether a record also holds the metric of the base picture, as ``NAME_base``. The function is then
            called a second time with the base picture alone, by region nothing, and no verdicts.
        drawn_world: whether it needs a pair whose truth is known.
        needs: the parts of ``Seen`` that it uses, of :data:`CLIP`, :data:`LPIPS` and :data:`REGIONS`; the rest may be
            empty.
        scorer: the name of riebench's further network that it uses, ``seen.more[scorer]``; see
            :data:`riebench.weights.SCORERS`.
        published: whether RIEBench has it.
        optional: whether it is measured only where ``--metrics`` names it.
        files: paths of the files that it reads, as weights of its own.
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
    files: tuple[str | Path, ...] = ()

    @property
    def from_riebench(self) -> bool:
        """Whether the metric is one of riebench's own."""
        return self.measure.__module__.partition(".")[0] == "riebench"

    @property
    def code(self) -> str:
        """``module:function-HASH``, with the hash of the function's files and of those that it reads.

        What it imports beside these, or closes over, adds `` with HASH``.

        Raises:
            UserError: if a file cannot be read, or was edited since this process loaded it.
        """
        function = inspect.unwrap(self.measure)  # what a decorator closes over is its own
        closed = live_hash(function) if getattr(function, "__closure__", None) else ""
        more = import_hash(self.measure) + closed
        name = f"{place_of(self.measure)}-{code_hash(self.measure, map(str, self.files))}"
        return with_hash(name, more)


_REGISTRY: Registry[Metric] = Registry("metric")
METRICS: dict[str, Metric] = _REGISTRY.registered
"""Every metric that this process knows, by its name and in the order of the columns of records."""


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
    files: Sequence[str | Path] = (),
) -> Callable[[Measure], Measure]:
    """Register a function as a metric; records, tables, figures, page and bench then have it.

    The arguments are the attributes of :class:`Metric`.

    Raises:
        ValueError: if the name is taken or is no name as ``my_metric``, or ``needs`` names no part of ``Seen``.
    """
    parts = (CLIP, LPIPS, REGIONS)
    if isinstance(needs, str) or not {*needs} <= {*parts}:
        raise ValueError(f"the metric {name!r} has needs={needs!r}; expected a list of {', '.join(parts)}")
    of_bases = {f"{m.name}_base" for m in METRICS.values() if m.of_base}
    if not re.fullmatch(NAME, name) or name in RESERVED | of_bases:
        wrong = "is taken by a column of records" if re.fullmatch(NAME, name) else "is malformed"
        raise ValueError(f"the metric name {name!r} {wrong}; choose another, as my_metric")

    def register(measure: Measure) -> Measure:
        new = Metric(name, says, measure, of_base, drawn_world, tuple(needs), scorer, published, optional, tuple(files))
        if not new.from_riebench:  # whose version stands for them
            remember_code(measure)
        if name in METRICS or name in _REGISTRY.installed:
            _REGISTRY.check_free(name, measure)
        METRICS[name] = _REGISTRY.decorated[measure] = new
        return measure

    return register


def find_metric(name: str) -> Metric:
    """The metric of a name, of ``package.module:function`` or of ``my_file.py:function``.

    All metrics of a module that this call imports are optional: only runs that name one measure it.

    Raises:
        UserError: if there is no such metric, or its module cannot be imported.
    """
    if name in METRICS:
        return METRICS[name]
    before = set(METRICS)
    loaded = _REGISTRY.find(name)
    for new in {loaded.name, *METRICS} - before:
        METRICS[new] = replace(METRICS.get(new, loaded), optional=True)
    return METRICS[loaded.name]


def metrics_of(names: Iterable[str] | None, with_truth: bool = True) -> list[Metric]:
    """The metrics of some names, in the order of their columns.

    Args:
        names: as :func:`chosen` gives them; None for all but the optional ones.
        with_truth: whether the truth of the pictures is known; metrics of the drawn world are left out otherwise.

    Raises:
        UserError: as :func:`find_metric`.
    """
    if names is None:
        named = {metric.name for metric in METRICS.values() if not metric.optional}
    else:
        named = {find_metric(name).name for name in names}
    return [m for m in METRICS.values() if m.name in named and (with_truth or not m.drawn_world)]


def scorers_of(names: Collection[str] | None) -> set[str]:
    """The networks that some metrics need beside CLIP and LPIPS; ``names`` as of :func:`metrics_of`."""
    return {metric.scorer for metric in metrics_of(names) if metric.scorer is not None}


def measured_by(scorers: Scorers, names: Collection[str] | None) -> dict[str, str]:
    """Metric to its code if it is not riebench's, and to the network that measures it alone; others are left out.

    Args:
        scorers: with the networks that these metrics need.
        names: of metrics; None for all but the optional ones.
    """
    by_metric = {}
    for metric in metrics_of(names):
        network = scorers.more[metric.scorer] if metric.scorer else None
        parts = [] if metric.from_riebench else [metric.code]
        parts += [f"{network.name}-{network.fingerprint}"] if network else []
        if parts:
            by_metric[metric.name] = " ".join(parts)
    return by_metric


def chosen(words: Iterable[str]) -> tuple[str, ...]:
    """The names of the metrics that some words stand for, in the order of their columns, with those of :data:`CURVE`.

    A word is the name of a metric or of a set, or the place of a function, which stays as it is so that another process
    can load it. The set ``published`` is RIEBench's metrics, with the truth where it is known; ``default`` is all but
    the optional ones.

    Raises:
        UserError: if there is no such metric or set.
    """
    sets = {
        DEFAULT: [m.name for m in METRICS.values() if not m.optional],
        PUBLISHED: [m.name for m in METRICS.values() if m.published or m.drawn_world],
    }
    by_column = {name: name for name in CURVE}
    for word in words:
        if word not in sets and not word.endswith(".py") and ":" not in word and word not in known_names():
            raise unknown("metric", word, [*known_names(), *sets])
        by_column.update({find_metric(name).name: name for name in sets.get(word, [word])})
    return tuple(by_column[name] for name in METRICS if name in by_column)


def known_names() -> list[str]:
    """The names of all metrics, in the order of their columns; those that are installed but not loaded are last."""
    return [*METRICS, *(name for name in _REGISTRY.names() if name not in METRICS)]


def listed_metrics(names: Iterable[str] | None = None) -> list[Listed[Metric]]:
    """Metrics with their origin, loaded.

    Args:
        names: as :func:`find_metric` takes them. None: all that are registered or installed; one that cannot be loaded
            is listed with its error.

    Raises:
        UserError: if a named metric cannot be loaded.
    """
    if names is not None:
        return [Listed(name, _REGISTRY.holder(name) or name, find_metric(name)) for name in names]
    return [_REGISTRY.listing(name) for name in known_names()]
