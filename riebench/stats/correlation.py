"""Spearman's rank correlation of means, with its interval. Needs no torch."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from riebench.stats.resample import quantiles

Array = NDArray[np.float64]
DRAWS = 2_000  # resamples, as each ranks all settings anew


def spearman(a: Array, b: Array, weights: NDArray[np.float32]) -> tuple[float, float, float]:
    """Spearman's correlation of column means ``[pairs, settings]`` with its interval; NaN where undefined.

    A resample holds fewer different pairs, so its correlation is weaker than that of the sample, as this is weaker than
    that of ever more pairs. The percentiles of the resamples therefore lie too low where the correlation is strong; the
    basic bootstrap (Davison and Hinkley 1997, 5.2) mends this, but is too narrow. The interval reaches over both. Of
    drawn data (90 pairs, 8, 20 and 40 settings whose spread is .7 and 1.3 times that of a setting's pairs, correlations
    from 0 to 1) it held the truth in 91 to 99 of 100 cases; percentiles alone in 0 to 98, the basic one in 73 to 96.
    """
    correlation = float(correlations(a, b, np.ones((1, len(a)), np.float32))[0])
    if a.shape[0] < 2 or np.isnan(correlation):
        return correlation, np.nan, np.nan
    low, high = (float(end[0]) for end in quantiles(correlations(a, b, weights)[None]))
    if not high > low:
        return correlation, np.nan, np.nan
    return correlation, max(-1.0, min(low, 2 * correlation - high)), min(1.0, max(high, 2 * correlation - low))


def correlations(a: Array, b: Array, weights: NDArray[np.float32]) -> Array:
    """Spearman's correlation of the means of columns ``[pairs, settings]`` for each row of weights of the pairs; NaN
    where undefined."""
    if a.shape[0] < 1 or a.shape[1] < 3:
        return np.full(len(weights), np.nan)
    with np.errstate(invalid="ignore"):
        share = weights / weights.sum(1, keepdims=True)
        # Ties share their mean rank.
        ranks = [pd.DataFrame(np.round(share @ v, 7)).rank(axis=1).to_numpy() for v in (a, b)]
        first, second = (r - r.mean(1, keepdims=True) for r in ranks)
        return np.asarray((first * second).sum(1) / np.sqrt((first**2).sum(1) * (second**2).sum(1)))
