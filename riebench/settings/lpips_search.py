"""Searching the strength at which an edited picture costs a given LPIPS. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from riebench.util.errors import UserError

if TYPE_CHECKING:
    from riebench.records import Record

LPIPS = "lpips_base"
"""The metric whose value is searched for."""
NARROW = 0.02
"""A jump is narrowed to this share of its upper strength at most."""
DIGITS = 4
FARTHER = 4
LEAST = 0.001
"""Where the LPIPS is over a budget at so weak a strength, it jumps over it from 0."""
TYPICAL_RUNS = 3
"""Of each budget, on mini; more where an LPIPS is jumped over or out of reach."""
WITHIN = 0.05
"""Share of a budget by which a picture's LPIPS may differ from it, unless another is asked for."""
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Number = Any
"""A float, or an array of floats."""
Points = Mapping[float, float | None]
"""The strengths at which a pair was edited, to LPIPS; None where there is no picture."""


class LpipsSearch(BaseModel):
    """What is searched for on every pair, by every condition, besides the strengths that were asked for.

    Attributes:
        budgets: values of LPIPS to the base image, smallest first.
        within: a picture meets a budget if its LPIPS differs from it by this share of it at most.
        most: the largest strength that is tried.
    """

    model_config = ConfigDict(frozen=True)

    budgets: Annotated[tuple[Positive, ...], Field(min_length=1)]
    within: Annotated[float, Field(gt=0, lt=1)] = WITHIN
    most: Positive = 32

    def next_strengths(self, points: Points) -> list[float]:
        """The strengths to try next, one for each budget that is still searched for; none when all is done.

        A budget is looked for where the LPIPS, from strength 0 up, first comes near it or passes it. As long as it
        does neither, the strength is multiplied by :data:`FARTHER`, up to ``most`` or to a strength at which there is
        no picture. Where it passes the budget between two strengths, one between these is tried: by turns the middle,
        and where a straight line would meet the budget. If these two are close to each other, it is a jump, and the
        search ends; that takes some twelve runs, and a budget that can be met three on average. It ends, too, where
        the LPIPS is the same at all strengths, the largest 16 times the smallest at least: strength does not matter.
        """
        path = [(0.0, 0.0), *sorted((s, v) for s, v in points.items() if 0 < s <= self.most and v is not None)]
        same = len({value for _, value in path[1:]}) == 1
        if same and path[-1][0] >= FARTHER**2 * path[1][0]:
            return []
        tries = [self._next(path, budget, len(points)) for budget in self.budgets]
        limit = min((s for s, value in points.items() if s > 0 and value is None), default=float("inf"))
        return list(dict.fromkeys(s for s in tries if s is not None and s < limit and s not in points))

    def _next(self, path: Sequence[tuple[float, float]], budget: float, tried: int) -> float | None:
        """The next strength for one budget; None if it is met, jumped over, or too large for all strengths."""
        after = next((i for i, (_, value) in enumerate(path) if value >= budget * (1 - self.within)), None)
        if after is None:
            top = path[-1][0]
            return None if top >= self.most else min(FARTHER * top or 1.0, self.most)
        (low, below), (high, above) = path[after - 1], path[after]
        if above <= budget * (1 + self.within) or ends(low, high):
            return None
        share = 0.5 if tried % 2 else (budget - below) / (above - below)
        return float(f"{low + share * (high - low):.{DIGITS}g}")


def ends(low: Number, high: Number) -> Number:
    """Whether nothing is tried between two strengths, so that an LPIPS between theirs is jumped over."""
    return (high - low <= NARROW * high) | (high <= LEAST)


def parse_search(budgets: Sequence[float | str], bounds: Mapping[str, float | None]) -> LpipsSearch:
    """A search from what was asked for.

    Args:
        budgets: of LPIPS.
        bounds: further attributes of the search; None stands for a default.

    Raises:
        UserError: if a number does not fit, or there are no budgets.
    """
    if not budgets:
        raise UserError("bounds of a search were given, but no LPIPS to search for; give it with --at-lpips")
    given = {name: value for name, value in bounds.items() if value is not None}
    try:
        found = LpipsSearch.model_validate({"budgets": tuple(budgets), **given})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"at_lpips ({first['loc'][0]}) is {first['input']!r}: {first['msg'].lower()}") from None
    return found.model_copy(update={"budgets": tuple(sorted(set(found.budgets)))})


def lpips_of(record: Record) -> float | None:
    """The LPIPS of a record's picture; None if there is no picture."""
    return record.metrics.get(LPIPS)
