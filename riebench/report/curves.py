"""Means with intervals of every setting of a group of records, over all pairs and for each category."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from riebench.report.arms import ANY, CURVE, TRUTH, Arm, Pairs, arms_of, scopes
from riebench.report.groups import Group
from riebench.report.resample import Bootstrap

SHOWN = (*CURVE, *TRUTH)
"""Metrics of the tables that a page is wide enough for; CSV files and the HTML page have all metrics."""


@dataclass
class Curves:
    """The settings of one group of records.

    Attributes:
        group: the records.
        pairs: the pairs.
        arms: methods with their options on a set of blocks.
        curves: a row for each category (``all`` first), arm, k and strength: pairs with a record (``attempted``), pairs
            with a score (``pairs``), and ``METRIC_mean``, ``METRIC_low``, ``METRIC_high`` of each metric.
    """

    group: Group
    pairs: Pairs
    arms: list[Arm]
    curves: pd.DataFrame

    @property
    def main_blocks(self) -> str:
        """The set of blocks that the largest number of methods was run on; the larger set if two are equal."""
        sets: dict[str, set[str]] = {}
        for arm in self.arms:
            if arm.blocks != ANY:
                sets.setdefault(arm.blocks, set()).add(arm.method)
        return max(sets, key=lambda b: (len(sets[b]), b.count("+"))) if sets else ANY

    @property
    def block_sets(self) -> dict[str, str]:
        """Each set of blocks and its short name in tables and figures, the largest set first."""
        names = {arm.blocks: arm.where for arm in self.arms if arm.blocks != ANY}
        return {blocks: names[blocks] for blocks in sorted(names, key=lambda b: (-b.count("+"), b))}

    @property
    def metrics(self) -> list[str]:
        """Metrics that some record has; the first two are the axes of the curves."""
        return [name.removesuffix("_mean") for name in map(str, self.curves) if name.endswith("_mean")]

    def has(self, metric: str) -> bool:
        """Whether some record has a metric."""
        return f"{metric}_mean" in self.curves

    def title_of(self, metric: str) -> str:
        """The name of a metric, with the LPIPS's own name, so that another LPIPS is not mistaken for the published."""
        return metric.replace("lpips", self.group.metric_name("lpips"), 1) if metric.startswith("lpips_") else metric


def curves_of(group: Group, metrics: Sequence[str] = SHOWN) -> Curves:
    """The curves of a group, of some metrics."""
    pairs, arms = arms_of(group.frame)
    return Curves(group, pairs, arms, curve_rows(arms, pairs, Bootstrap(pairs.categories.tolist()), metrics))


def curve_rows(
    arms: Sequence[Arm], pairs: Pairs, boot: Bootstrap, metrics: Sequence[str] | None = None
) -> pd.DataFrame:
    """The frame :attr:`Curves.curves`; of all metrics unless some are named."""
    found = list(dict.fromkeys(m for arm in arms for m in arm.values if metrics is None or m in metrics))
    shape = (len(pairs.ids), -1)
    settings = [(i, arm, k, s) for i, arm in enumerate(arms) for k in arm.ks for s in arm.strengths]
    values = np.concatenate([np.concatenate([arm.values[m].reshape(shape) for arm in arms], 1) for m in found], 1)
    tried = np.concatenate([arm.tried.reshape(shape) for arm in arms], 1)
    frames = []
    for scope, members in scopes(pairs.categories):
        means = boot.means(np.where(members[:, None], values, np.nan))
        columns: dict[str, Any] = {
            "category": scope,
            "arm": [i for i, *_ in settings],
            "method": [arm.label for _, arm, *_ in settings],
            "blocks": [arm.blocks for _, arm, *_ in settings],
            "k": pd.array([k for *_, k, _ in settings], dtype="Int64"),
            "strength": [s for *_, s in settings],
            "attempted": tried[members].sum(0),
            "pairs": means.count[: len(settings)],
        }
        for j, metric in enumerate(found):
            part = slice(j * len(settings), (j + 1) * len(settings))
            columns |= {f"{metric}_mean": means.mean[part], f"{metric}_low": means.low[part]}
            columns[f"{metric}_high"] = means.high[part]
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)
