"""How each pair of an arm stands to an LPIPS budget: met, passed between two strengths, or out of reach."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from riebench.report.arms import Arm, Pairs
from riebench.report.matching import cross
from riebench.spec.search import LPIPS, NARROW, WITHIN

MET, JUMP, BETWEEN, BEYOND = "met", "jump", "between", "beyond"
OUTCOMES = {
    MET: f"a picture was made whose LPIPS is within {WITHIN:.0%} of the budget; its numbers are the score",
    JUMP: "the LPIPS jumps over the budget between two strengths that are close; the score is read between them",
    BETWEEN: "the LPIPS passes the budget between two strengths with no search between; the score is read there",
    BEYOND: "no strength that was tried reaches the budget; there is no score",
}
COLUMNS = {
    "method": "with the options that vary",
    "blocks": "joined by +",
    "on_steps": "steps in which the intervention is on",
    "k": "features (or neurons) in each direction; null for a default",
    "pair_id": "id of the pair",
    "budget": "LPIPS to the base image",
    "outcome": "; ".join(f"{name}: {text}" for name, text in OUTCOMES.items()),
    "strength": "of the picture that meets the budget, or of the last one before it is passed",
    "lpips": "of that picture",
    "next_strength": "of the first picture after it is passed",
    "next_lpips": "of that picture",
    "largest_lpips": "of all pictures of the pair",
}
"""Columns of :func:`reached`."""


def reached(arms: Sequence[Arm], pairs: Pairs, budgets: Sequence[float]) -> pd.DataFrame:
    """A row for each arm, k, pair with a score and budget; the columns are :data:`COLUMNS`."""
    parts = [_of_arm(arm, k, pairs, budgets) for arm in arms if arm.curved for k in range(len(arm.ks))]
    return pd.concat(parts, ignore_index=True) if parts and budgets else pd.DataFrame(columns=list(COLUMNS))


def _of_arm(arm: Arm, k: int, pairs: Pairs, budgets: Sequence[float]) -> pd.DataFrame:
    crossing = cross(arm.along(LPIPS, k), np.asarray(budgets, float), WITHIN)
    strengths, lpips = crossing.ends(arm.along("strength", k)), crossing.ends(arm.along(LPIPS, k))
    met, beyond = crossing.measured, np.isnan(crossing.share)
    second = met & (crossing.share == 1)  # the picture is at the end of the segment
    close = strengths[1] - strengths[0] <= NARROW * strengths[1]
    outcome = np.select([met, beyond, close], [MET, BEYOND, JUMP], BETWEEN)
    passed = ~met & ~beyond
    rows, columns = np.nonzero(np.repeat(arm.scored[:, None], len(budgets), 1))
    here = (rows, columns)
    return pd.DataFrame(
        {
            "method": arm.label,
            "blocks": arm.blocks,
            "on_steps": arm.on_steps,
            "k": pd.array([arm.ks[k]] * len(rows), dtype="Int64"),
            "pair_id": np.asarray(pairs.ids)[rows],
            "budget": np.asarray(budgets, float)[columns],
            "outcome": outcome[here],
            "strength": np.where(beyond, np.nan, np.where(second, *strengths[::-1]))[here],
            "lpips": np.where(beyond, np.nan, np.where(second, *lpips[::-1]))[here],
            "next_strength": np.where(passed, strengths[1], np.nan)[here],
            "next_lpips": np.where(passed, lpips[1], np.nan)[here],
            "largest_lpips": arm.span[1][rows],
        }
    )
