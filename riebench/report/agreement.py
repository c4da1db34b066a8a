"""Rank correlation of CLIP and LPIPS with the truth, over settings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from riebench.report.arms import TRUTH, Arm, Pairs
from riebench.stats.correlation import DRAWS, spearman
from riebench.stats.resample import Bootstrap

Array = NDArray[np.float64]
COMPARED = (("clip_text_edit", "edit_success"), ("lpips_base", "kept"))


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
