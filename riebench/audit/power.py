"""Power: what a number of pairs can tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from riebench.audit.comparing import compare_arms
from riebench.audit.readings import compared
from riebench.stats import resample

EFFECTS = {"gain": 0.01, "margin": 0.01, "edit_success": 0.05}
"""Score to a difference that a benchmark should see."""
WANTED, LEVEL = 0.8, 0.05
DRAWS = 40
SIMULATIONS = 400
ROUNDING = 1e-9
FLIPS, ALL_FLIPS = 2_000, resample.FLIPS
"""Sign flips of a subsample, and of all pairs."""
SIZES = tuple(10 * 2**i for i in range(10))


def told_apart(values: Mapping[str, pd.DataFrame], sizes: Sequence[int], seed: int = 0) -> pd.DataFrame:
    """The share of all two arms that are told apart, against the number of pairs.

    For each size, :data:`DRAWS` subsamples of the pairs without replacement; in each, every two arms that have a value
    on half of the pairs are tested as the report does it (paired sign flips, Holm over all of them, 5 %).
    ``share`` is the mean over subsamples, ``low`` and ``high`` the middle 95 % of them. The largest size, all
    pairs, has one subsample. Subsamples overlap the more the larger they are, so that their spread shrinks to nothing.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for score, whole in values.items():
        frame = whole[compared(whole)]
        for size in sorted({min(size, len(frame)) for size in sizes}):
            count = 1 if size == len(frame) else DRAWS
            drawn = [frame.iloc[rng.choice(len(frame), size, replace=False)] for _ in range(count)]
            flips = FLIPS if count > 1 else ALL_FLIPS
            shares = [compare_arms(part, flips, seed)["told_apart"].mean() for part in drawn]
            low, high = np.quantile(shares, [0.025, 0.975])
            rows.append((score, size, float(np.mean(shares)), low, high, frame.shape[1]))
    return pd.DataFrame(rows, columns=["score", "pairs", "share", "low", "high", "arms"])


def power_curves(values: Mapping[str, pd.DataFrame], arms: Sequence[str], seed: int = 0) -> pd.DataFrame:
    """The chance to see a true difference of :data:`EFFECTS` between two arms, by simulation.

    The paired differences of two real arms are centred and shifted by the effect, so that they keep their spread and
    shape; ``pairs`` of them are drawn with replacement, :data:`SIMULATIONS` times. Power is the share of draws in
    which a two-sided paired t-test (Student 1908; for these sizes next to the sign-flip test) is below 5 %. It is that
    of one comparison alone: Holm over many takes more pairs.

    Returns:
        Columns score, effect, a, b, pairs, power; no row for two arms that differ on no pair.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for score, effect in EFFECTS.items():
        frame = values.get(score, pd.DataFrame())
        known = [arm for arm in compared(frame) if arm in arms]
        for a, b in combinations(known, 2):
            difference = (frame[a] - frame[b]).dropna().to_numpy()
            if len(difference) < 2 or difference.std() == 0:
                continue
            shifted = difference - difference.mean() + effect
            rows += [(score, effect, a, b, size, _power(shifted, size, rng)) for size in SIZES]
    return pd.DataFrame(rows, columns=["score", "effect", "a", "b", "pairs", "power"])


def _power(shifted: NDArray[np.float64], size: int, rng: np.random.Generator) -> float:
    drawn = shifted[rng.integers(len(shifted), size=(SIMULATIONS, size))]
    error = drawn.std(1, ddof=1) / np.sqrt(size)
    seen = np.abs(drawn.mean(1)) > stats.t.ppf(1 - LEVEL / 2, size - 1) * error
    return float((seen & (error > ROUNDING)).mean())  # a draw of equal values tells nothing


def pairs_needed(curves: pd.DataFrame) -> pd.DataFrame:
    """The pairs at which the power of two arms reaches .8, interpolated in the logarithm of their number between two
    sizes; infinite where the largest size does not reach it.

    Returns:
        For each score the least, median and greatest over all two arms.
    """
    if curves.empty:
        return pd.DataFrame(columns=["score", "effect", "least", "median", "most", "comparisons"])
    needed = curves.groupby(["score", "effect", "a", "b"], sort=False)[["pairs", "power"]].apply(_reaches)
    by_score = needed.groupby(["score", "effect"], sort=False)
    return by_score.agg(least="min", median="median", most="max", comparisons="size").reset_index()


def _reaches(curve: pd.DataFrame) -> float:
    enough = np.flatnonzero(curve["power"] >= WANTED)
    if not len(enough):
        return np.inf
    last = max(1, int(enough[0]))
    power, size = curve["power"].to_numpy()[last - 1 : last + 1], np.log(curve["pairs"].to_numpy()[last - 1 : last + 1])
    return float(np.exp(np.interp(WANTED, power, size)))
