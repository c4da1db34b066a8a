"""Notes of a report: remarks for its reader, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from riebench import __version__
from riebench.pairs.pair import CATEGORIES

if TYPE_CHECKING:
    from riebench.report.analysis import Analysis

MOST_NAMES = 6  # of arms in a note


def _against_rank(comparisons: pd.DataFrame) -> list[str]:
    """Arms that differ significantly in the opposite order of their ranks."""
    if comparisons.empty:
        return []
    found = comparisons[comparisons["told_apart"] & (comparisons["arm_a"] > comparisons["arm_b"])]
    reversed_pairs = [
        f"{row.a} is better than {row.b} (by {row.difference:.3f} on the {row.pairs} pairs of both)"
        for row in found.itertuples()
    ]
    if not reversed_pairs:
        return []
    rest = len(reversed_pairs) - MOST_NAMES
    more = f"; {rest} more in comparisons.csv" if rest > 0 else ""
    why = "told apart the other way round than they rank, as a rank is over the pairs that an arm alone has"
    return [f"{why}: {'; '.join(reversed_pairs[:MOST_NAMES])}{more}"]


def notes_of(result: Analysis) -> list[str]:
    """Notes on a group's records, and on numbers that are undefined."""
    notes = []
    arms = result.arms
    if not any(arm.scored.any() for arm in arms):
        return [f"no pair was scored: all {len(result.group.frame)} records failed"]
    if not result.budgets:
        notes.append("no arm has two points of different LPIPS, so there is no score at matched LPIPS and no rank")
    elif not result.usual:
        budgets = ", ".join(f"{b:g}" for b in result.budgets)
        notes.append(
            f"the budgets {budgets} were chosen from the data, as the usual 0.1, 0.2, 0.3 and 0.4 lie outside it"
        )
    outside = [a.name for a, r in zip(arms, result.overall["rank"], strict=True) if a.has_curve() and r is pd.NA]
    if result.rank_at is not None and outside:
        names = f"{len(outside)} arms, first {outside[0]}" if len(outside) > MOST_NAMES else "; ".join(outside)
        notes.append(f"on less than half of the pairs is LPIPS {result.rank_at:g} reached, so no rank: {names}")
    notes += _against_rank(result.comparisons)
    points = [a.name for a in arms if not a.has_curve() and a.scored.any()]
    if points:
        notes.append(f"one point instead of a curve, so no score at matched LPIPS: {'; '.join(points)}")
    if not result.pairs.known:
        scored = np.any([arm.scored for arm in arms], 0)
        count = int((scored & np.isnan(result.pairs.base)).sum())
        why = "of their base image (method none, or strength 0), so no gain over it"
        notes.append(f"{count} scored pairs have no record {why}; arms are ranked by CLIP")
    versions = sorted(result.group.frame["version"].dropna().unique())
    if set(versions) - {__version__}:
        notes.append(f"the records were made by riebench {', '.join(versions)}; this is {__version__}")
    lone = [
        CATEGORIES[int(c)]
        for c, n in zip(*np.unique(result.pairs.categories, return_counts=True), strict=True)
        if n < 2
    ]
    if lone:
        notes.append(f"one pair only, so no interval: {', '.join(lone)}")
    failed = int((result.group.frame["status"] != "ok").sum())
    if failed:
        notes.append(f"{failed} of {len(result.group.frame)} records failed")
    return notes
