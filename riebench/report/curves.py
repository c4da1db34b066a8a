"""Means with intervals of every setting of a group of records, over all pairs and for each category."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from typing import Any

import numpy as np
import pandas as pd

from riebench.records.schema import ALL_STEPS
from riebench.report.arms import ANY, CURVE, GAIN, TRUTH, Arm, Pairs, arms_of
from riebench.report.groups import Group
from riebench.report.marks import at_searched_lpips, marked_images
from riebench.stats.resample import Bootstrap

SHOWN = (CURVE[0], GAIN, CURVE[1], *TRUTH)
"""Metrics of the tables that a page is wide enough for; CSV files and the HTML page have all metrics."""


@dataclass
class Curves:
    """The settings of one group of records.

    Attributes:
        group: the records.
        pairs: the pairs.
        arms: methods with their options on a set of blocks.
        metrics: those of ``curves``; the first two are the axes of figures.
        main_blocks: the set of blocks that the largest number of methods was run on; the larger set if two are equal.
        intervals: the intervals of the steps in which arms are on, the shortest first, ``all`` last.
        main_interval: the last of them: figures that do not compare intervals are of its arms.
        block_sets: each set of blocks and its short name in tables and figures, the largest set first.
        curves: a row for each category (``all`` first), arm, k and strength: pairs with a record (``attempted``), pairs
            with a score (``pairs``), and ``METRIC_mean``, ``METRIC_low``, ``METRIC_high`` of each metric, with the
            number of pairs that have it (``METRIC_pairs``).
        at_lpips: the same at each LPIPS that was searched for, see :func:`~riebench.report.marks.at_searched_lpips`.
        images: where the base and the source image lie, see :func:`~riebench.report.marks.marked_images`.
    """

    group: Group
    pairs: Pairs
    arms: list[Arm]
    metrics: list[str]
    boot: InitVar[Bootstrap]

    def __post_init__(self, boot: Bootstrap) -> None:
        names = {arm.blocks: arm.where for arm in self.arms if arm.blocks != ANY}
        methods = {blocks: len({arm.method for arm in self.arms if arm.blocks == blocks}) for blocks in names}
        self.main_blocks = max(methods, key=lambda b: (methods[b], b.count("+")), default=ANY)
        self.intervals = sorted({arm.on_steps for arm in self.arms} - {ANY}, key=_length)
        self.main_interval = self.intervals[-1] if self.intervals else ANY
        self.block_sets = {blocks: names[blocks] for blocks in sorted(names, key=lambda b: (-b.count("+"), b))}
        self.curves = _means(self.arms, self.pairs, self.metrics, boot)
        self.at_lpips = at_searched_lpips(self.arms, self.pairs, self.metrics, boot)
        self.images = marked_images(self.arms, self.pairs)


def curves_of(group: Group) -> Curves:
    """The curves of a group, of the metrics :data:`SHOWN`."""
    pairs, arms = arms_of(group.frame)
    metrics = [metric for metric in arms[0].values if metric in SHOWN]
    return Curves(group, pairs, arms, metrics, Bootstrap(pairs.categories.tolist()))


def _length(interval: str) -> tuple[float, int]:
    """Number of steps and first step of an interval as ``1-3``; of ``all`` more than any other."""
    if interval == ALL_STEPS:
        return math.inf, 0
    first, _, last = interval.partition("-")
    return int(last or first) - int(first), int(first)


def _means(arms: Sequence[Arm], pairs: Pairs, metrics: Sequence[str], boot: Bootstrap) -> pd.DataFrame:
    """The frame :attr:`Curves.curves`."""
    shape = (len(pairs.ids), -1)
    settings = [(i, arm, k, s) for i, arm in enumerate(arms) for k in arm.ks for s in arm.strengths]
    values = np.concatenate([arm.values[m].reshape(shape) for m in metrics for arm in arms], 1)
    tried = np.concatenate([arm.tried.reshape(shape) for arm in arms], 1)
    frames = []
    for scope, members in pairs.scopes.items():
        means = boot.means(np.where(members[:, None], values, np.nan))
        columns: dict[str, Any] = {
            "category": scope,
            "arm": [i for i, *_ in settings],
            "method": [arm.label for _, arm, *_ in settings],
            "blocks": [arm.blocks for _, arm, *_ in settings],
            "on_steps": [arm.on_steps for _, arm, *_ in settings],
            "k": pd.array([k for *_, k, _ in settings], dtype="Int64"),
            "strength": [s for *_, s in settings],
            "attempted": tried[members].sum(0),
            "pairs": means.count[: len(settings)],
        }
        for j, metric in enumerate(metrics):
            part = slice(j * len(settings), (j + 1) * len(settings))
            columns |= {f"{metric}_mean": means.mean[part], f"{metric}_low": means.low[part]}
            columns |= {f"{metric}_high": means.high[part], f"{metric}_pairs": means.count[part]}
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)
