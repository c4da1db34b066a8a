"""Same mask for all: what is left of a difference between two methods if both may change the masks' inside alone?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from riebench.audit.comparing import compare_arms
from riebench.audit.readings import SCORES, Table
from riebench.report.arms import BASE
from riebench.settings.lpips_search import LPIPS, WITHIN
from riebench.stats.resample import Bootstrap

LEFT_COLUMNS = ["score", "a", "b", "pairs", "before", "before_low", "before_high", "after", "after_low", "after_high"]
Values = Mapping[str, pd.DataFrame]
"""Score to pairs x arms."""


def pictures_at(table: Table, budget: float) -> pd.DataFrame:
    """The picture of each arm and pair that has the budget: the weakest within 5 % of it; pairs without one are left
    out. The only picture of an arm that has no other (``prompt``, ``none``) is not at the budget, and not taken.

    Returns:
        Columns key, pair_id, arm.
    """
    parts = []
    for name, arm in zip(table.names, table.arms, strict=True):
        rows = arm.records
        near = rows[arm.curved & ((rows[LPIPS] - budget).abs() <= WITHIN * budget) & (rows["strength"] > 0)]
        first = near.sort_values("strength").drop_duplicates("pair_id")
        parts.append(first.assign(arm=name)[["key", "pair_id", "arm"]])
    return pd.concat(parts, ignore_index=True)


def before_and_after(table: Table, composites: pd.DataFrame) -> tuple[Values, Values]:
    """The scores of the pictures as they were made, and of their composites; pairs x arms each."""
    records = pd.concat([arm.records for arm in table.arms]).drop_duplicates("key").set_index("key")
    taken = composites[["key", "pair_id", "arm"]]
    before = taken.join(records.drop(columns=["pair_id"]), on="key")
    after = composites.assign(
        margin=composites["clip_text_edit"] - composites["clip_text_original"],
        gain=composites["clip_text_edit"] - before[BASE],
    )
    names = [name for name in (*SCORES, LPIPS) if name in before and name in after]
    return _pivoted(before, names), _pivoted(after, names)


def _pivoted(frame: pd.DataFrame, names: Sequence[str]) -> Values:
    return {name: frame.pivot(index="pair_id", columns="arm", values=name) for name in names}


def arms_before_and_after(before: Values, after: Values, categories: Mapping[str, int]) -> pd.DataFrame:
    """The mean of each arm and score before and after, and the change with its bootstrap interval over pairs.

    Args:
        before: of the pictures as they were made.
        after: of the pictures composited with the base picture outside the masks.
        categories: of each pair.
    """
    rows = []
    for score, frame in before.items():
        change = after[score] - frame
        means = Bootstrap([categories[pair] for pair in frame.index]).means(change.to_numpy(float))
        for i, arm in enumerate(frame):
            ends = (means.mean[i], means.low[i], means.high[i])
            rows.append((score, arm, int(means.count[i]), frame[arm].mean(), after[score][arm].mean(), *ends))
    columns = ["score", "arm", "pairs", "before", "after", "change", "change_low", "change_high"]
    return pd.DataFrame(rows, columns=columns)


def what_is_left(before: Values, after: Values, arms: Sequence[str], categories: Mapping[str, int]) -> pd.DataFrame:
    """The mean paired difference of each two arms before and after, with bootstrap intervals over the same resamples.

    ``a`` is the arm that is better before. ``apart_before`` and ``apart_after`` say whether the paired sign-flip test
    tells the two apart (Holm over all two arms of a score, 5 %). ``gone`` is before less after, with its interval: what
    was mask and not method; what is left after comes from inside the masks. The composites are of lower LPIPS than the
    pictures, each arm by as much as it had changed outside.
    """
    rows = []
    for score in (score for score in SCORES if score in before):
        frame = before[score]
        boot = Bootstrap([categories[pair] for pair in frame.index])
        known = [arm for arm in arms if arm in frame]
        apart = [compare_arms(values[score][known])["told_apart"] for values in (before, after)]
        for number, (one, other) in enumerate(combinations(known, 2)):
            a, b = (one, other) if (frame[one] - frame[other]).mean() >= 0 else (other, one)
            first, second = (values[score][a] - values[score][b] for values in (before, after))
            means = boot.means(np.stack([first, second, first - second], 1).astype(float))
            if means.count[0]:
                ends = [end for i in range(3) for end in (means.mean[i], means.low[i], means.high[i])]
                told = (bool(one[number]) for one in apart)
                rows.append((score, a, b, int(means.count[0]), *ends, *told))
    columns = [*LEFT_COLUMNS, "gone", "gone_low", "gone_high", "apart_before", "apart_after"]
    return pd.DataFrame(rows, columns=columns)
