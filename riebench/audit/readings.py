"""What the parts of an audit work on: the arms of a group of records, pair by pair, at one LPIPS budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from riebench.audit.own_runs import BUDGETS
from riebench.report.analysis import searched_for
from riebench.report.arms import BASE, CURVE, TRUTH, Arm, Pairs, arms_of
from riebench.report.groups import Group
from riebench.report.ranking import GAIN, MARGIN, SUCCESS
from riebench.report.scores import ENOUGH, matched
from riebench.stats.resample import Bootstrap

Array = NDArray[np.float64]
KEPT = "kept"
RANKING = (GAIN, MARGIN, SUCCESS)
"""Scores that a leaderboard can be ranked by."""
SCORES = (*RANKING, KEPT)
DONE = "done"
"""The truth of an edit in one number: ``edit_success`` x ``kept``."""
WITHOUT_METHOD = ("random", "sae-random", "noise", "paste", "sdedit", "prompt", "none")
"""Methods without a representation that was found; nor has one an arm that acts outside the denoiser."""


@dataclass(frozen=True)
class Table:
    """The arms of a group, and their pairs.

    Attributes:
        pairs: in the order of all arrays.
        arms: with ``gain`` and, where the truth is known, ``done`` among their metrics.
        names: of the arms; with the blocks where these differ.
        boot: resamples of the pairs.
    """

    pairs: Pairs
    arms: list[Arm]
    names: list[str]
    boot: Bootstrap

    @property
    def scores(self) -> list[str]:
        """The scores that the records have."""
        return [score for score in SCORES if score in self.arms[0].values]

    @property
    def interventions(self) -> list[str]:
        """The arms that change a representation which was found."""
        named = zip(self.names, self.arms, strict=True)
        return [name for name, arm in named if not arm.outside and arm.family not in WITHOUT_METHOD]

    def frame(self, columns: Array, names: Sequence[str]) -> pd.DataFrame:
        """``[pairs, names]`` as a frame, by pair id."""
        return pd.DataFrame(columns, pd.Index(self.pairs.ids, name="pair_id"), pd.Index(names))

    def at(self, budget: float) -> dict[str, pd.DataFrame]:
        """Every metric read at an LPIPS budget, as the report reads it: a frame of pairs x arms."""
        read = [matched(arm, self.pairs, [budget]).values for arm in self.arms]
        metrics = self.arms[0].values
        return {m: self.frame(np.concatenate([values[m] for values in read], 1), self.names) for m in metrics}

    def by_setting(self, metric: str) -> pd.DataFrame:
        """A metric at every strength that was asked for: a frame of pairs x settings, named as ``sae x2``."""
        names = [
            f"{name}{'' if k is None else f' k={k}'} x{strength:g}"
            for name, arm in zip(self.names, self.arms, strict=True)
            for k in arm.ks
            for strength in arm.strengths
        ]
        values = [arm.values[metric].reshape(len(self.pairs.ids), -1) for arm in self.arms]
        return self.frame(np.concatenate(values, 1), names)


def table_of(group: Group) -> Table:
    """The arms of a group."""
    frame = group.frame
    if BASE in frame:
        frame = frame.assign(gain=frame[CURVE[0]] - frame[BASE])
    if set(TRUTH) <= set(frame):
        frame = frame.assign(done=frame[SUCCESS] * frame[KEPT])
    pairs, arms = arms_of(frame)
    labels = [arm.label for arm in arms]
    names = labels if len(set(labels)) == len(labels) else [arm.name for arm in arms]
    return Table(pairs, arms, names, Bootstrap(pairs.categories.tolist()))


def compared(values: pd.DataFrame) -> list[str]:
    """The arms that have a value on half of the pairs, as a rank takes it."""
    return [str(arm) for arm in values if values[arm].notna().sum() >= max(1, ENOUGH * len(values))]


def budgets_of(group: Group, budget: float) -> list[float]:
    """The budgets that strengths were searched for, or the usual ones of mini, and the one that is audited."""
    return sorted({*(searched_for(group.frame) or BUDGETS), budget})
