"""Rank correlation of CLIP and LPIPS with the truth, over settings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from riebench.report.arms import TRUTH, Arm, Pairs
from riebench.report.resample import Bootstrap, quantiles

Array = NDArray[np.float64]
COMPARED = (("clip_text_edit", "edit_success"), ("lpips_base", "kept"))
DRAWS = 2_000  # resamples, as each ranks all settings anew


def agreement(arms: Sequence[Arm], pairs: Pairs, boot: Bootstrap) -> pd.DataFrame:
    """Spearman's rank correlation over settings between mean CLIP and edit_success, and mean LPIPS and kept.

    A setting's means are over the pairs that every setting scored, so that settings differ by nothing else. Settings
    with the same numbers for every pair (strength 0 of every arm, say) are one picture, and count once. Null with
    fewer than three settings, or if one of the two is the same for all.

    The interval resamples pairs, see :func:`spearman`.

    Returns:
        Columns metric, truth, correlation, low, high, settings, pairs; no row if the truth is unknown.
    """
    columns = ["metric", "truth", "correlation", "low", "high", "settings", "pairs"]
    if not all(m in arms[0].values for m in TRUTH):
        return pd.DataFrame(columns=columns)
    shape = (len(pairs.ids), -1)
    stacked = {m: np.concatenate([arm.values[m].reshape(shape) for arm in arms], 1) for m in sum(COMPARED, ())}
    defined = ~np.isnan(np.stack(list(stacked.values()))).any(0)
    scored = defined.any(0)
    common = defined[:, scored].all(1)
    used = {m: values[common][:, scored] for m, values in stacked.items()}
    numbers = np.concatenate(list(used.values()))
    distinct = np.unique(numbers, axis=1, return_index=True)[1] if len(numbers) else np.arange(numbers.shape[1])
    rows = []
    for metric, truth in COMPARED:
        a, b = (used[m][:, np.sort(distinct)] for m in (metric, truth))
        correlation, low, high = spearman(a, b, boot.weights[common, :DRAWS].T)
        rows.append((metric, truth, correlation, low, high, len(distinct), int(common.sum())))
    return pd.DataFrame(rows, columns=columns)


def spearman(a: Array, b: Array, weights: NDArray[np.float32]) -> tuple[float, float, float]:
    """Correlation of column means ``[pairs, settings]`` with its interval; NaN where undefined.

    A resample holds fewer different pairs, so its correlation is weaker than that of the sample, as this is weaker than
    that of ever more pairs. The percentiles of the resamples therefore lie too low where the correlation is strong; the
    basic bootstrap (Davison and Hinkley 1997, 5.2) mends this, but is too narrow. The interval reaches over both. Of
    drawn data (90 pairs, 8, 20 and 40 settings whose spread is .7 and 1.3 times that of a setting's pairs, correlations
    from 0 to 1) it held the truth in 91 to 99 of 100 cases; percentiles alone in 0 to 98, the basic one in 73 to 96.
    """
    found = float(correlations(a, b, np.ones((1, len(a)), np.float32))[0])
    if a.shape[0] < 2 or np.isnan(found):
        return found, np.nan, np.nan
    low, high = (float(end[0]) for end in quantiles(correlations(a, b, weights)[None]))
    if not high > low:
        return found, np.nan, np.nan
    return found, max(-1.0, min(low, 2 * found - high)), min(1.0, max(high, 2 * found - low))


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
