"""Agreement with the truth: does what scores high also do what was asked, and no more?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from riebench.audit.readings import DONE, RANKING, Table, compared
from riebench.metrics import METRICS
from riebench.report.arms import TRUTH
from riebench.stats.correlation import DRAWS, correlations, spearman
from riebench.stats.resample import quantiles

SETTINGS, METHODS, INTERVENTIONS, WITHIN = "settings", "methods", "interventions", "pairs"
LOWER_IS_BETTER = (
    "clip_text_original",
    "clip_text_edit_outside",
    "lpips_base",
    "lpips_base_inside",
    "lpips_base_outside",
    "lpips_source",
    "mse_outside",
    "lpips_squeeze_outside",
    "structure_distance",
)
"""Metrics whose sign is turned, so that a positive correlation is agreement."""
COLUMNS = ["level", "budget", "metric", "correlation", "low", "high", "points", "pairs"]
"""``points``: settings or methods that are ranked; of the level ``pairs``, settings whose correlations are averaged."""
ROUNDING = 1e-9
Array = NDArray[np.float64]


def agreement_with_truth(table: Table, readings: Mapping[float, Mapping[str, pd.DataFrame]]) -> pd.DataFrame:
    """Spearman's rank correlation of every metric and ranking score with ``edit_success`` x ``kept``; the sign of
    :data:`LOWER_IS_BETTER` is turned.

    - ``settings``: of means over the pairs that every setting scored; settings with the same numbers count once.
    - ``methods``: of the arms' means at a budget, over the pairs on which every arm has it, of the arms that have it on
      half of the pairs. Few methods make a rough correlation. ``interventions``: the same without controls.
    - ``pairs``: over the pairs of one setting, averaged over the settings in which both vary: does the score tell pairs
      on which an edit worked from those on which it did not?

    Intervals resample pairs: those of means are of :func:`riebench.stats.correlation.spearman`; percentile bootstrap of
    the average for the level ``pairs``, where ranks are those of the whole sample. ``edit_success`` is a part of
    the truth and agrees for that reason.

    Args:
        table: the arms.
        readings: budget to metric to values, pairs x arms.
    """
    weights = table.boot.weights[:, :DRAWS].T
    truth = table.by_setting(DONE).to_numpy()
    rows: list[Row] = []
    for metric in audited_metrics(table):
        sign = -1 if metric in LOWER_IS_BETTER else 1
        values_of = sign * table.by_setting(metric).to_numpy()
        rows.append((SETTINGS, np.nan, metric, *_of_means(values_of, truth, weights)))
        for budget, values in readings.items():
            arms = compared(values[DONE])
            for level, names in ((METHODS, arms), (INTERVENTIONS, [arm for arm in arms if arm in table.interventions])):
                both = (sign * values[metric][names].to_numpy(), values[DONE][names].to_numpy())
                rows.append((level, budget, metric, *_of_means(*both, weights)))
        rows.append((WITHIN, np.nan, metric, *within_settings(values_of, truth, weights), len(truth)))
    return pd.DataFrame(rows, columns=COLUMNS)


def audited_metrics(table: Table) -> list[str]:
    """Rankings and metrics of edited pictures; neither the truth nor what a record says of its base picture."""
    known = [m for m in table.arms[0].values if m in METRICS and m not in TRUTH]
    return [*(score for score in RANKING if score in table.arms[0].values), *known]


Row = tuple[str, float, str, float, float, float, int, int]


def _of_means(values: Array, truth: Array, weights: NDArray[np.float32]) -> tuple[float, float, float, int, int]:
    """Correlation of the means of columns ``[pairs, columns]`` with its interval, and how many columns and pairs it is
    of: the pairs that have both numbers in every column that any pair has."""
    defined = ~np.isnan(values) & ~np.isnan(truth)
    columns = defined.any(0)
    common = defined[:, columns].all(1)
    both = np.concatenate([values[common][:, columns], truth[common][:, columns]])
    distinct = np.sort(np.unique(both, axis=1, return_index=True)[1])
    first, second = (one[common][:, columns][:, distinct] for one in (values, truth))
    return (*spearman(first, second, weights[:, common]), len(distinct), int(common.sum()))


def changed_agreement(mended: Table, faulty: Table, protocol: str) -> pd.DataFrame:
    """What a protocol does to the agreement of each ranking with the truth, over the settings and pairs of both.

    Returns:
        For each ranking the correlation ``without`` and ``with`` the other protocol, and their ``difference`` with its
        percentile interval over the same resamples of the pairs.
    """
    rows = []
    ids = [pair for pair in mended.pairs.ids if pair in set(faulty.pairs.ids)]
    truths = [table.by_setting(DONE).loc[ids] for table in (mended, faulty)]
    weights = mended.boot.weights[[mended.pairs.ids.index(pair) for pair in ids], :DRAWS].T
    for score in (score for score in RANKING if score in mended.scores and score in faulty.scores):
        both = [table.by_setting(score).loc[ids] for table in (mended, faulty)]
        names = [name for name in both[0] if name in both[1]]
        stacked = np.stack([frame[names].to_numpy() for frame in (*both, *truths)])
        scored = ~np.isnan(stacked).all((0, 1))
        common = ~np.isnan(stacked[:, :, scored]).any((0, 2))
        first, second, *truth = stacked[:, common][:, :, scored]
        whole = np.ones((1, int(common.sum())), np.float32)
        drawn = [
            correlations(a, b, np.vstack([whole, weights[:, common]]))
            for a, b in zip((first, second), truth, strict=True)
        ]
        low, high = (float(end[0]) for end in quantiles((drawn[1] - drawn[0])[None, 1:]))
        found = (float(drawn[0][0]), float(drawn[1][0]))
        rows.append((protocol, score, *found, found[1] - found[0], low, high, first.shape[1], len(first)))
    columns = ["protocol", "score", "without", "with", "difference", "low", "high", "settings", "pairs"]
    return pd.DataFrame(rows, columns=columns)


def within_settings(values: Array, truth: Array, weights: NDArray[np.float32]) -> tuple[float, float, float, int]:
    """The average over settings of the rank correlation over pairs, with its interval, and the number of settings.

    Args:
        values: ``[pairs, settings]``.
        truth: likewise.
        weights: of the pairs in each resample, ``[resamples, pairs]``.
    """
    each = []
    for metric, true in zip(values.T, truth.T, strict=True):
        both = ~np.isnan(metric) & ~np.isnan(true)
        x, y = (rankdata(column[both]) for column in (metric, true))
        if len(x) > 2 and np.ptp(x) > 0 and np.ptp(y) > 0:
            mine = weights[:, both].astype(float)
            each.append(_weighted(x, y, np.vstack([np.ones(len(x)), mine])))
    if not each:
        return np.nan, np.nan, np.nan, 0
    average = pd.DataFrame(each).mean().to_numpy(float)  # of those that a resample defines
    low, high = quantiles(average[None, 1:])
    return float(average[0]), float(low[0]), float(high[0]), len(each)


def _weighted(x: Array, y: Array, weights: Array) -> Array:
    """Pearson's correlation of two columns for each row of weights; NaN where one does not vary."""
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample may have none of these pairs
        share = weights / weights.sum(1, keepdims=True)
        dx, dy = x - (share @ x)[:, None], y - (share @ y)[:, None]
        covariance, x2, y2 = ((share * product).sum(1) for product in (dx * dy, dx**2, dy**2))
        found: Array = np.where((x2 > ROUNDING) & (y2 > ROUNDING), covariance / np.sqrt(x2 * y2), np.nan)
    return found
