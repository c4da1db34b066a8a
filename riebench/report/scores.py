"""Scores of arms, pair by pair: at matched LPIPS, and at settings chosen on other pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from riebench.report.arms import GAIN, Arm, Pairs
from riebench.report.matching import cross
from riebench.report.ranking import worth
from riebench.settings.lpips_search import WITHIN

Array = NDArray[np.float64]
BUDGETS = (0.1, 0.2, 0.3, 0.4)
ENOUGH = 0.5  # share of the pairs that must have a score for a rank
ARRIVED = 0.25  # share of the largest gain that the middle budget must have to be ranked at
NEARLY_ALL = 0.9  # share of the pairs of the fullest choice that another must have to be chosen


def choose_budgets(arms: Sequence[Arm]) -> tuple[list[float], bool]:
    """LPIPS budgets that enough pairs reach, and whether they are the usual ones.

    For each arm and LPIPS, count the share of pairs whose curve spans that LPIPS. The last budget is the largest LPIPS
    whose share is one half or more for at least two arms (or for the single arm with a curve); if no LPIPS has such a
    share, the largest with the greatest share. The result is the usual budgets up to the last one if these are at
    least two, otherwise four equal steps up to it, rounded down. It is empty if no arm has a curve.
    """
    spans = [arm.span[:, arm.attempted] for arm in arms if arm.curved]
    if not spans:
        return [], False
    levels = np.unique(np.concatenate([span.ravel() for span in spans]))
    levels = levels[np.isfinite(levels) & (levels > 0)]
    if not len(levels):
        return [], False
    shares = np.sort([_share(span, levels) for span in spans], axis=0)
    second = shares[max(0, len(shares) - 2)]
    most = float(levels[second >= min(ENOUGH, second.max())].max())
    if most >= BUDGETS[1]:
        return [b for b in BUDGETS if b <= most], True
    digits = 1 - math.floor(math.log10(most / 4))
    step = math.floor(most / 4 * 10**digits * (1 + 1e-9)) / 10**digits
    return [round(step * i, digits) for i in (1, 2, 3, 4)], False


def _share(span: Array, levels: Array) -> Array:
    """The share of pairs whose span ``[2, pairs]`` contains each level."""
    lowest, highest = np.sort(span)
    begun, ended = np.searchsorted(lowest, levels, "right"), np.searchsorted(highest, levels, "left")
    return (begun - ended) / len(lowest)


@dataclass(frozen=True)
class Matched:
    """Values of an arm at matched LPIPS.

    Attributes:
        values: metric to ``[pairs, budgets]``, NaN where the pair's curve does not meet the budget.
        measured: where the value is that of a picture with this LPIPS, and not read between two, ``[pairs, budgets]``.
        k: the k that gave the values of each half, ``[2][budgets]``.
    """

    values: dict[str, Array]
    measured: NDArray[np.bool_]
    k: list[list[int | None]]


def matched(arm: Arm, pairs: Pairs, budgets: Sequence[float], by: str = GAIN) -> Matched:
    """Read every metric of an arm at LPIPS budgets.

    Where an arm was run with several k, the values of each half of the pairs are those of the k that is best on the
    other half: no pair takes part in a choice that its own score is reported with, and a wide sweep is no advantage.
    """
    readings = []
    crossings = [cross(arm.along("lpips_base", i), np.asarray(budgets, float), WITHIN) for i in range(len(arm.ks))]
    for i, crossing in enumerate(crossings):
        readings.append({metric: crossing.read(arm.along(metric, i)) for metric in arm.values})
    if len(readings) == 1:
        return Matched(readings[0], crossings[0].measured, [arm.ks * len(budgets)] * 2)
    gains = np.stack([worth(f, pairs, by) for f in readings])
    values = {metric: np.full((len(pairs.ids), len(budgets)), np.nan) for metric in arm.values}
    measured = np.zeros((len(pairs.ids), len(budgets)), bool)
    chosen: list[list[int | None]] = [[], []]
    for half in (0, 1):
        rows = np.flatnonzero(pairs.half == half)
        for b in range(len(budgets)):
            k = _best(gains[:, pairs.half != half, b])
            chosen[half].append(None if k is None else arm.ks[k])
            if k is not None:
                measured[rows, b] = crossings[k].measured[rows, b]
                for metric in arm.values:
                    values[metric][rows, b] = readings[k][metric][rows, b]
    return Matched(values, measured, chosen)


def arrived_at(scores: Sequence[Matched], pairs: Pairs) -> int | None:
    """The number of the budget with the largest gain; None if the middle one (the lower of two) has a quarter.

    The gain at a budget is the largest mean of an arm with a score on at least half of the pairs there. The result is
    None too if no arm gains anything, or if the base images are not known.
    """
    if not pairs.known:
        return None
    gains = np.stack([score.values["clip_text_edit"] for score in scores]) - pairs.base[:, None]
    defined = ~np.isnan(gains)
    counts = defined.sum(1)
    means = np.where(defined, gains, 0).sum(1) / np.maximum(counts, 1)
    largest = np.where(counts >= max(1, ENOUGH * len(pairs.ids)), means, 0).max(0, initial=0)
    most = largest.max(initial=0)
    return None if most <= 0 or largest[(len(largest) - 1) // 2] >= ARRIVED * most else int(largest.argmax())


def chosen_path(arm: Arm, pairs: Pairs, score: Matched, at: int, metric: str) -> tuple[Array, Array]:
    """LPIPS and a metric of each pair along the k that gave its score at a budget, ``[pairs, strengths]`` each."""
    parts = []
    for name in ("lpips_base", metric):
        paths = np.stack([arm.along(name, i) for i in range(len(arm.ks))])
        ks = np.array([arm.ks.index(score.k[half][at]) if score.k[half][at] in arm.ks else 0 for half in (0, 1)])
        parts.append(paths[ks[pairs.half], np.arange(len(pairs.ids))])
    return parts[0], parts[1]


def _best(gains: Array) -> int | None:
    """The best row of ``[choices, pairs]`` by its mean, among those with nearly as many pairs as the fullest.

    A k too small for most pairs to reach a budget has a mean over the easy ones.
    """
    defined = ~np.isnan(gains)
    counts = defined.sum(1)
    if not counts.any():
        return None
    with np.errstate(invalid="ignore"):
        means = np.where(defined, gains, 0).sum(1) / counts
    return int(np.argmax(np.where(counts >= NEARLY_ALL * counts.max(), means, -np.inf)))


@dataclass(frozen=True)
class HeldOut:
    """Values of an arm at settings chosen on the other half of the pairs.

    Attributes:
        values: metric to ``[pairs]``.
        chosen: the setting (k, strength) that gave the values of each half; None if no setting was within the budget.
    """

    values: dict[str, Array]
    chosen: list[tuple[int | None, float] | None]


def held_out_scores(arm: Arm, pairs: Pairs, budget: float, by: str = GAIN) -> HeldOut:
    """Choose k and strength on each half by the ranking metric within an LPIPS budget; report the other half.

    A setting is within the budget if its mean LPIPS over the choosing half is. A tie takes the weaker strength.
    """
    shape = (len(pairs.ids), -1)
    lpips, gain = arm.values["lpips_base"].reshape(shape), worth(arm.values, pairs, by).reshape(shape)
    settings = [(k, s) for k in arm.ks for s in arm.strengths]
    values = {metric: np.full(len(pairs.ids), np.nan) for metric in arm.values}
    chosen: list[tuple[int | None, float] | None] = []
    for half in (0, 1):
        other = pairs.half != half
        with np.errstate(invalid="ignore"):
            cost = np.nansum(lpips[other], 0) / (~np.isnan(lpips[other])).sum(0)
        gains = np.where(cost <= budget, gain[other], np.nan)
        best = _best(gains.T)
        chosen.append(None if best is None else settings[best])
        if best is not None:
            rows = pairs.half == half
            for metric in arm.values:
                values[metric][rows] = arm.values[metric].reshape(shape)[rows, best]
    return HeldOut(values, chosen)
