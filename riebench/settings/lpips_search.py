"""The search for the strength at which an edited picture has a given LPIPS. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from riebench.util.errors import UserError

if TYPE_CHECKING:
    from riebench.records import Record, Setting

LPIPS = "lpips_base"
"""The metric that the budgets are of."""
NARROW = 0.02
"""A jump is narrowed until its two strengths differ by this share of the upper one."""
DIGITS = 5
"""Significant digits of a strength that is tried."""
FARTHER = 8
"""The largest factor on the largest strength as long as no budget is reached."""
AT_LEAST_FARTHER = 1.04
"""The smallest."""
BACK = 10
"""The largest factor by which a strength below the smallest one is smaller."""
ALIKE = 100
"""If the LPIPS is the same over this factor of strengths, they do not matter."""
SLOPES = 0.05, 4.0
"""The least and the largest power between two points: where the curve is flat, the search goes far."""
SLOPE = 1.5
"""The power of the strength with which the LPIPS rises, as long as one point alone is known."""
ROOT = 0.25
"""The power of the LPIPS that is smooth over the logarithm of the strength: between points, the curve is one of it."""
TINY = 0.01
"""An LPIPS below this share of a budget counts as this share: slopes are of its logarithm, and an LPIPS can be 0."""
INSIDE = 0.005
"""A strength that is tried keeps this share of the distance between two others from each of them."""
STALLED = 0.05
"""With another point closer beside a gap than this share of it, in logarithms, the middle of the gap is tried."""
LEAST = 0.001
"""No weaker strength is tried: an LPIPS above a budget at this strength jumps over the budget from 0."""
TYPICAL_RUNS = 3
"""Runs for each budget on mini, where a quarter of the budgets is out of reach; two where the LPIPS rises smoothly."""
WITHIN = 0.05
"""The default share of a budget by which a picture's LPIPS may differ from it."""
Searched = tuple[int, tuple[int, ...] | None]
"""What one search is of: a condition by its number, in an interval of the steps."""
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Number = Any
"""A float, or an array of floats."""


class SearchOptions(BaseModel):
    """The LPIPS budgets of a run, for which strengths are searched on every pair by every condition.

    Attributes:
        budgets: values of LPIPS to the base image, smallest first.
        within: a picture meets a budget if its LPIPS differs from it by this share of it at most.
        most: the largest strength that is tried.
    """

    model_config = ConfigDict(frozen=True)

    budgets: Annotated[tuple[Positive, ...], Field(min_length=1)]
    within: Annotated[float, Field(gt=0, lt=1)] = WITHIN
    most: Positive = 32


@dataclass(frozen=True)
class LpipsSearch:
    """The search of one condition, in one interval of the steps, on one pair.

    Attributes:
        options: the budgets.
        condition: the condition's number in the request.
        setting: a setting of the condition in that interval; its strength is not used.
        points: the strengths at which the pair was edited, to the LPIPS of the picture; None without a picture.
    """

    options: SearchOptions
    condition: int
    setting: Setting
    points: dict[float, float | None] = field(default_factory=dict)

    @property
    def searched(self) -> Searched:
        """The condition and the interval."""
        return self.condition, self.setting.on_steps

    def next_settings(self) -> list[Setting]:
        """The settings to run next; none at the end of the search."""
        return [self.setting.model_copy(update={"strength": strength}) for strength in self.next_strengths()]

    def next_strengths(self) -> list[float]:
        """The strengths to try next, one for each budget that is still searched for; none at the end of the search.

        The search is for the first strength, from 0 up, whose LPIPS is near a budget or above it. A smooth curve
        stands for the LPIPS (:class:`Curve`), and the strength at which it meets the budget is tried: beyond the
        points at most :data:`FARTHER` times the largest, up to ``most`` or to a strength without a picture. Where a
        point lies close beside a wide gap, as after a try that hardly narrowed it, the middle of the gap is tried. If
        the two strengths around a budget are close to each other, the LPIPS jumps over it and the search ends. It
        also ends if the LPIPS is the same at all strengths and the largest is at least :data:`ALIKE` times the
        smallest.
        """
        options = self.options
        known = {float(f"{s:.12g}"): v for s, v in self.points.items()}  # 0.3 and 3 * 0.1 are one strength
        measured = sorted((s, v) for s, v in known.items() if 0 < s <= options.most and v is not None)
        path = [(0.0, 0.0), *measured]
        same = len({value for _, value in measured}) == 1 and measured[0][1] > 0
        if same and path[-1][0] >= ALIKE * path[1][0]:
            return []
        limit = min((s for s, value in self.points.items() if s > 0 and value is None), default=math.inf)
        tries = [self._next(path, budget, limit) for budget in options.budgets]
        return list(dict.fromkeys(s for s in tries if s is not None and s < limit and s not in self.points))

    def _next(self, path: Sequence[tuple[float, float]], budget: float, limit: float) -> float | None:
        """The next strength for one budget; None if it is met, jumped over, or too large for all strengths."""
        within, most = self.options.within, self.options.most
        after = next((i for i, (_, value) in enumerate(path) if value >= budget * (1 - within)), None)
        curve = Curve([(s, max(value, TINY * budget)) for s, value in path[1:]])
        if after is None:
            top = path[-1][0]
            if not top:
                return min(1.0, most)
            if top >= most or (limit <= most and ends(top, limit)):
                return None
            aimed = min(max(curve.beyond(budget), AT_LEAST_FARTHER * top), FARTHER * top)
            return min(rounded(aimed if aimed < limit else math.sqrt(top * limit)), most)
        (low, _), (high, above) = path[after - 1], path[after]
        if above <= budget * (1 + within) or ends(low, high):
            return None
        aimed = curve.between(after - 1, budget) if low else max(curve.before(budget), high / BACK)
        margin = INSIDE * (high - low)
        return rounded(min(max(aimed, low + margin), high - margin))


@dataclass(frozen=True)
class Curve:
    """The LPIPS of a pair over the logarithm of the strength, through some points.

    Attributes:
        points: strengths, rising, with their LPIPS.
    """

    points: Sequence[tuple[float, float]]

    def beyond(self, budget: float) -> float:
        """The strength with an LPIPS above those of all points, by the slope at their end."""
        return self._on(self.points[-1], self.points[-2:], budget)

    def before(self, budget: float) -> float:
        """The strength with an LPIPS below those of all points, by the slope at their beginning."""
        return self._on(self.points[0], self.points[:2], budget)

    def between(self, after: int, budget: float) -> float:
        """The strength with an LPIPS between those of the points ``after - 1`` and ``after``."""
        x = [math.log(strength) for strength, _ in self.points]
        y = [value**ROOT for _, value in self.points]
        low, high = x[after - 1], x[after]
        if min(b - a for a, b in pairwise(x[max(after - 2, 0) : after + 2])) < STALLED * (high - low):
            return math.exp((low + high) / 2)
        from scipy.interpolate import PchipInterpolator  # not before it is needed: half a second

        curve, wanted = PchipInterpolator(x, y), budget**ROOT
        roots = curve.solve(wanted, extrapolate=False)
        inside = [root for root in roots if low <= root <= high]
        return math.exp(inside[0] if inside else (low + high) / 2)

    def _on(self, start: tuple[float, float], two: Sequence[tuple[float, float]], budget: float) -> float:
        """The strength at a budget on the power of the strength through a point, with the slope between two points."""
        slope = SLOPE
        if len(two) > 1:
            (s, v), (t, w) = two
            slope = min(max(math.log(w / v) / math.log(t / s), SLOPES[0]), SLOPES[1])
        return start[0] * (budget / start[1]) ** (1 / slope)


def rounded(strength: float) -> float:
    """A strength with as many digits as are tried."""
    return float(f"{strength:.{DIGITS}g}")


def ends(low: Number, high: Number) -> Number:
    """Whether two strengths are so close that none between them is tried: an LPIPS between theirs is jumped over."""
    return (high - low <= NARROW * high) | (high <= LEAST)


def parse_search(budgets: Sequence[float | str], bounds: Mapping[str, float | None]) -> SearchOptions:
    """The options of a search from what the user gave.

    Args:
        budgets: of LPIPS.
        bounds: the other attributes of the options; None stands for a default.

    Raises:
        UserError: if a number does not fit, or there are no budgets.
    """
    if not budgets:
        raise UserError("at_lpips_within or at_lpips_most without a budget; give it with --at-lpips")
    named = {name: value for name, value in bounds.items() if value is not None}
    try:
        options = SearchOptions.model_validate({"budgets": tuple(budgets), **named})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"at_lpips ({first['loc'][0]}) is {first['input']!r}: {first['msg'].lower()}") from None
    return options.model_copy(update={"budgets": tuple(sorted(set(options.budgets)))})


def lpips_of(record: Record) -> float | None:
    """The LPIPS of a record's picture to the base image; None without a picture."""
    return record.metrics.get(LPIPS)
