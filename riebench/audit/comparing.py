"""Each two arms on the pairs that both have, as the report compares them."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from riebench.stats.resample import LEVEL, holm, sign_flip

FLIPS = 10_000
LEAST = 40
"""Sign flips for each comparison at least: fewer give no p-value that stays below 5 % after Holm's correction."""


def compare_arms(values: pd.DataFrame, flips: int = FLIPS, seed: int = 0) -> pd.DataFrame:
    """A row for each two columns of a frame of pairs x arms: the mean of their paired differences.

    Told apart: the p-value of the paired sign-flip test (Fisher 1935), corrected by Holm (1979) over all rows, is below
    5 %; as on the leaderboard.

    Returns:
        Columns a, b, pairs (that both have), difference (a - b), p, told_apart.
    """
    both = list(combinations(values.columns, 2))
    if not both:
        return pd.DataFrame(columns=["a", "b", "pairs", "difference", "p", "told_apart"])
    differences = np.stack([values[a].to_numpy() - values[b].to_numpy() for a, b in both], 1)
    p = sign_flip(differences, max(flips, LEAST * len(both)), seed)
    return pd.DataFrame(
        {
            "a": [a for a, _ in both],
            "b": [b for _, b in both],
            "pairs": (~np.isnan(differences)).sum(0),
            "difference": pd.DataFrame(differences).mean().to_numpy(),
            "p": p,
            "told_apart": holm(p) < 1 - LEVEL,
        }
    )
