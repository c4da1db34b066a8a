"""Numbers with intervals, over features, pictures or attribute values."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from riebench.stats.resample import Bootstrap, quantiles

Array = NDArray[np.floating]
MOST_RESAMPLES, LEAST_RESAMPLES, CELLS = 2000, 200, 20_000_000
"""Resamples get fewer where there are very many units, so that units times resamples stay below ``CELLS``."""


class Estimate(NamedTuple):
    """A number with its 95 % interval; None where undefined.

    Attributes:
        value: the number.
        low: lower end of the interval.
        high: upper end.
        units: number of units with a value.
    """

    value: float | None
    low: float | None
    high: float | None
    units: int


UNDEFINED = Estimate(None, None, None, 0)


@lru_cache(maxsize=8)
def _resamples(units: int) -> Bootstrap:
    return Bootstrap([0] * units, _how_many(units))


def _how_many(units: int) -> int:
    return int(np.clip(CELLS // max(1, units), LEAST_RESAMPLES, MOST_RESAMPLES))


def number_or_none(value: float) -> float | None:
    """A number, None where it is not finite."""
    return float(value) if np.isfinite(value) else None


def mean_estimate(values: Array) -> Estimate:
    """The mean of ``[units]`` with its interval by bootstrap over the units; NaN has no part in it."""
    if not np.isfinite(values).any():
        return UNDEFINED
    means = _resamples(len(values)).means(np.asarray(values, float)[:, None])
    low, high = number_or_none(means.low[0]), number_or_none(means.high[0])
    return Estimate(float(means.mean[0]), low, high, int(means.count[0]))


def ratio_estimate(above: Array, below: Array) -> Estimate:
    """``sum(above) / sum(below)`` over ``[units]`` with its interval by bootstrap over the units."""
    if not np.sum(below) > 0:
        return UNDEFINED
    value = float(np.sum(above) / np.sum(below))
    if len(above) < 2:
        return Estimate(value, None, None, len(above))
    weights = _resamples(len(above)).weights
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = (np.asarray(above, float) @ weights) / (np.asarray(below, float) @ weights)
    return Estimate(value, *_interval(np.where(np.isfinite(drawn), drawn, np.nan)), len(above))


def one_minus(estimate: Estimate) -> Estimate:
    """``1 - x``, its interval turned round."""
    value, high, low = (None if end is None else 1 - end for end in estimate[:3])
    return Estimate(value, low, high, estimate.units)


def rank_correlation(a: Array, b: Array, seed: int = 0) -> Estimate:
    """Spearman's rank correlation of two columns ``[units]``, over the units that have both, by bootstrap."""
    both = np.isfinite(a) & np.isfinite(b)
    x, y, count = a[both], b[both], int(both.sum())
    if count < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Estimate(None, None, None, count)
    value = float(_correlations(x[:, None], y[:, None])[0])
    rows = np.random.default_rng(seed).integers(count, size=(count, _how_many(count)))
    return Estimate(value, *_interval(_correlations(x[rows], y[rows])), count)


def _interval(drawn: Array) -> tuple[float | None, float | None]:
    """Both ends of the interval of resamples ``[resamples]``; None where these are all the same."""
    low, high = (float(end[0]) for end in quantiles(drawn[None]))
    return (low, high) if np.round(high - low, 7) > 0 else (None, None)


def _correlations(x: Array, y: Array) -> Array:
    """Spearman's correlation of each pair of columns ``[units, columns]``; NaN where one does not vary."""
    one, two = (pd.DataFrame(values).rank().to_numpy() for values in (x, y))
    one, two = one - one.mean(0), two - two.mean(0)
    with np.errstate(invalid="ignore"):
        return np.asarray((one * two).sum(0) / np.sqrt((one**2).sum(0) * (two**2).sum(0)))
