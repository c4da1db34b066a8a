"""Reading a method's curve at a given LPIPS, pair by pair, without ever extrapolating.

A pair's curve is the path of its (LPIPS, metric) points as the strength grows, joined by straight lines. It need not be
monotone: a strong intervention may break the picture and come back nearer to the base. The value at an LPIPS budget is
read where the path FIRST meets it, that is, at the weakest intervention that costs so much. Where a picture was made
whose LPIPS is as good as the budget, the value is that picture's, and not read between two. A budget that the path
never meets has no value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
GRID = 33  # points at which the area between two curves is sampled


@dataclass(frozen=True)
class Crossing:
    """Where paths first meet their budgets.

    Attributes:
        segment: index of the point before, ``[pairs, budgets]``; undefined where ``share`` is NaN.
        share: how far along the segment, 0 to 1; NaN where the path does not meet the budget.
        measured: where a point of the path is as good as the budget, and stands for it.
        order: the points of each pair in the order of its path, ``[pairs, strengths]``.
    """

    segment: NDArray[np.intp]
    share: Array
    measured: NDArray[np.bool_]
    order: NDArray[np.intp]

    def ends(self, values: Array) -> tuple[Array, Array]:
        """A metric ``[pairs, strengths]`` at the points before and after the crossings, ``[pairs, budgets]`` each."""
        path = np.take_along_axis(values, self.order, 1)
        if path.shape[1] < 2:
            nothing = np.full(self.share.shape, np.nan)
            return nothing, nothing
        return np.take_along_axis(path, self.segment, 1), np.take_along_axis(path, self.segment + 1, 1)

    def read(self, values: Array) -> Array:
        """A metric ``[pairs, strengths]`` at the crossings, ``[pairs, budgets]``."""
        before, after = self.ends(values)
        between = before + self.share * (after - before)
        return np.where(self.share == 0, before, np.where(self.share == 1, after, between))


def cross(lpips: Array, budgets: Array, within: float = 0.0) -> Crossing:
    """Where paths first meet budgets.

    Args:
        lpips: ``[pairs, strengths]`` by growing strength, NaN where not scored (the path goes on at the next point).
        budgets: ``[budgets]``, or ``[pairs, budgets]`` for budgets of each pair's own.
        within: share of a budget by which a point may differ from it and still be as good.
    """
    order = np.argsort(np.isnan(lpips), axis=1, kind="stable")
    path = np.take_along_axis(lpips, order, 1)
    targets = np.broadcast_to(budgets, (len(path), np.shape(budgets)[-1]))
    if path.shape[1] < 2:
        nowhere = np.zeros(targets.shape, bool)
        return Crossing(nowhere.astype(np.intp), np.full(targets.shape, np.nan), nowhere, order)
    start, end = path[:, None, :-1], path[:, None, 1:]
    target = targets[:, :, None]
    meets = (np.minimum(start, end) <= target) & (target <= np.maximum(start, end))
    segment = meets.argmax(2)
    before = np.take_along_axis(path, segment, 1)
    step = np.take_along_axis(path, segment + 1, 1) - before
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(step == 0, 0.0, (targets - before) / step)
    share = np.where(meets.any(2), share, np.nan)
    curved = (highest(path) > lowest(path))[:, None, None]  # a point alone is no curve, even on the budget
    near = curved & (np.abs(path[:, None] - target) <= within * target)
    first = near.argmax(2)
    measured = near.any(2) & (np.isnan(share) | (first <= segment + 1))
    at_end = first == path.shape[1] - 1  # which is the end of the last segment, and the start of none
    segment = np.where(measured, first - at_end, segment)
    return Crossing(segment, np.where(measured, at_end, share), measured, order)


def gap(lpips_a: Array, clip_a: Array, lpips_b: Array, clip_b: Array) -> tuple[Array, Array]:
    """The area between the curves of two methods over the LPIPS range that both have, pair by pair.

    Args:
        lpips_a: ``[pairs, strengths]`` of the one method; its strengths need not be the other's.
        clip_a: likewise.
        lpips_b: of the other.
        clip_b: likewise.

    Returns:
        The area, positive where a is above b, by the trapezoid rule on :data:`GRID` points, and the width of the common
        range, both ``[pairs]``; NaN where there is no common range.
    """
    low = np.fmax(lowest(lpips_a), lowest(lpips_b))
    high = np.fmin(highest(lpips_a), highest(lpips_b))
    width = np.where(high > low, high - low, np.nan)
    steps = np.linspace(0, 1, GRID)
    with np.errstate(invalid="ignore"):
        # Rounding must not put the last point outside the range.
        points = np.clip(low[:, None] + width[:, None] * steps, low[:, None], high[:, None])
    above = cross(lpips_a, points).read(clip_a) - cross(lpips_b, points).read(clip_b)
    return np.trapezoid(above, dx=1 / (GRID - 1), axis=1) * width, width


def lowest(lpips: Array) -> Array:
    """The least LPIPS of each pair; infinite without any."""
    return np.where(np.isnan(lpips), np.inf, lpips).min(1, initial=np.inf)


def highest(lpips: Array) -> Array:
    """The greatest LPIPS of each pair; minus infinity without any."""
    return np.where(np.isnan(lpips), -np.inf, lpips).max(1, initial=-np.inf)
