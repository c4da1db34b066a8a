"""Noise: the same arms on the same pairs with other seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy as np
import pandas as pd

from riebench.audit.comparing import compare_arms
from riebench.audit.readings import compared
from riebench.stats.resample import Bootstrap

HALF_WIDTH = 1.959964  # of a 95 % interval, in standard errors of a normal distribution
Run = Mapping[str, pd.DataFrame]
"""Score to its values, pairs x arms, of one run."""


def spread(runs: Sequence[Run], categories: Sequence[int]) -> pd.DataFrame:
    """How far an arm's mean moves from seed to seed, beside the standard error that one run states.

    - ``sd_seeds``: standard deviation (n - 1) of the arm's mean over the runs.
    - ``standard_error``: half the width of the report's bootstrap interval (Efron 1979, over pairs, by category)
      divided by 1.96; the root mean square over the runs.
    - ``ratio``: the first by the second. The bootstrap draws pairs, so prompts and seeds; a reseeded run has the same
      prompts. An honest interval therefore gives a ratio of 1 at most, and a ratio near 1 where seeds make all the
      spread. With three runs a single ratio is rough; :func:`pooled` joins those of all arms.

    Returns:
        A row for each score and arm that has a value on half of the pairs in every run.
    """
    boot = Bootstrap(categories)
    rows = []
    for score in runs[0]:
        arms = _in_all([run[score] for run in runs])
        means = [boot.means(run[score][arms].to_numpy()) for run in runs] if arms else []
        middle = np.array([m.mean for m in means])
        errors = np.array([(m.high - m.low) / 2 / HALF_WIDTH for m in means])
        for i, arm in enumerate(arms):
            sd, error = middle[:, i].std(ddof=1), np.sqrt((errors[:, i] ** 2).mean())
            rows.append((score, arm, len(runs), middle[:, i].mean(), sd, error, sd / error))
    return pd.DataFrame(rows, columns=["score", "arm", "runs", "mean", "sd_seeds", "standard_error", "ratio"])


def pooled(found: pd.DataFrame) -> pd.DataFrame:
    """The ratio of each score over all arms: root mean square ``sd_seeds`` by root mean square ``standard_error``.

    Arms whose interval is undefined (the same value on all pairs) are left out.
    """
    known = found.dropna(subset=["standard_error"])
    squares = known.assign(sd_seeds=known["sd_seeds"] ** 2, standard_error=known["standard_error"] ** 2)
    roots = squares.groupby("score", sort=False)[["sd_seeds", "standard_error"]].mean() ** 0.5
    arms = known.groupby("score", sort=False)["arm"].size()
    return roots.assign(ratio=roots["sd_seeds"] / roots["standard_error"], arms=arms).reset_index()


def turns(runs: Sequence[Run]) -> pd.DataFrame:
    """How often the order of two arms turns round from one seed to another.

    For each score and two arms, over all ordered pairs of runs (i, j) in both of which the two have an order (their
    mean paired difference is not 0): ``turned`` counts those in which the order is not the same; ``told_apart`` those
    in which run i tells the two apart (Holm, 5 %); ``told_apart_turned`` those that are both, that is, a significant
    order which another seed contradicts.
    """
    rows = []
    orders = list(permutations(range(len(runs)), 2))
    for score in runs[0]:
        arms = _in_all([run[score] for run in runs])
        each = [compare_arms(run[score][arms]) for run in runs]
        if len(arms) < 2:
            continue
        signs = np.sign([one["difference"].to_numpy() for one in each])
        apart = np.array([one["told_apart"].to_numpy(bool) for one in each])
        turned = np.array([signs[i] * signs[j] < 0 for i, j in orders])
        ordered = np.array([signs[i] * signs[j] != 0 for i, j in orders])
        first_apart = ordered & np.array([apart[i] for i, _ in orders])
        rows.append(
            each[0][["a", "b"]].assign(
                score=score,
                least=np.min([one["difference"] for one in each], axis=0),
                most=np.max([one["difference"] for one in each], axis=0),
                checks=ordered.sum(0),
                turned=turned.sum(0),
                told_apart=first_apart.sum(0),
                told_apart_turned=(turned & first_apart).sum(0),
            )
        )
    columns = ["score", "a", "b", "least", "most", "checks", "turned", "told_apart", "told_apart_turned"]
    return pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)


def turn_shares(found: pd.DataFrame) -> pd.DataFrame:
    """The shares of :func:`turns` by score: of all orders, and of those that one run tells apart (null if it tells
    none apart)."""
    sums = found.groupby("score", sort=False)[["checks", "turned", "told_apart", "told_apart_turned"]].sum()
    return pd.DataFrame(
        {
            "turned": sums["turned"] / sums["checks"].where(sums["checks"] > 0),
            "told_apart": sums["told_apart"] / sums["checks"].where(sums["checks"] > 0),
            "told_apart_turned": sums["told_apart_turned"] / sums["told_apart"].where(sums["told_apart"] > 0),
        }
    ).reset_index()


def _in_all(frames: Sequence[pd.DataFrame]) -> list[str]:
    """The arms that every run compares."""
    return [arm for arm in compared(frames[0]) if all(arm in compared(frame) for frame in frames[1:])]
