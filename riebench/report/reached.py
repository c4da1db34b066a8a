"""How each pair of an arm stands to an LPIPS budget: met, passed between two strengths, or on one side of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from riebench.report.arms import Arm, Pairs
from riebench.report.matching import cross, highest, lowest
from riebench.settings.lpips_search import LPIPS, WITHIN, ends

MET, JUMP, BETWEEN, BEYOND, ABOVE = "met", "jump", "between", "beyond", "above"
OUTCOMES = {
    MET: f"a picture was made whose LPIPS is within {WITHIN:.0%} of the budget; its numbers are the score",
    JUMP: "the LPIPS jumps over the budget between two strengths that are close; the score is read between them",
    BETWEEN: f"the LPIPS passes the budget between two strengths, not within {WITHIN:.0%}; the score is read there",
    BEYOND: "no strength that was tried reaches the budget; there is no score",
    ABOVE: "every strength that was tried costs more; there is no score",
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
    "least_lpips": "of the pair's pictures with this k",
    "largest_lpips": "likewise",
}
"""Columns of :func:`reached`."""


def reached(arms: Sequence[Arm], pairs: Pairs, budgets: Sequence[float]) -> pd.DataFrame:
    """A row for each arm, k, pair with a score and budget; the columns are :data:`COLUMNS`."""
    parts = [_of_arm(arm, k, pairs, budgets) for arm in arms if arm.curved for k in range(len(arm.ks))]
    return pd.concat(parts, ignore_index=True) if parts and budgets else pd.DataFrame(columns=list(COLUMNS))


def counting(reached: pd.DataFrame, budget: float) -> dict[tuple[str, str, str, int | None, str], tuple[float, ...]]:
    """The strengths of the pictures that the score at a budget is of, by method, blocks, steps, k and pair.

    These are one strength where a picture meets the budget, and two where the score is read between two pictures.

    Args:
        reached: as of :func:`reached`.
        budget: one of its budgets.
    """
    rows = reached[(reached["budget"] == budget) & reached["strength"].notna()]
    return {
        (row["method"], row["blocks"], row["on_steps"], None if pd.isna(row["k"]) else int(row["k"]), row["pair_id"]): (
            (row["strength"],) if row["outcome"] == MET else (row["strength"], row["next_strength"])
        )
        for row in rows.to_dict("records")
    }


def _of_arm(arm: Arm, k: int, pairs: Pairs, budgets: Sequence[float]) -> pd.DataFrame:
    path, budget_array = arm.along(LPIPS, k), np.asarray(budgets, float)
    crossing = cross(path, budget_array, WITHIN)
    strengths, lpips = crossing.ends(arm.along("strength", k)), crossing.ends(path)
    smallest, largest = lowest(path), highest(path)
    met, unread = crossing.measured, np.isnan(crossing.share)
    second = met & (crossing.share == 1)  # the picture is at the end of the segment
    above = unread & (smallest[:, None] > budget_array)
    outcome = np.select([met, above, unread, ends(*strengths)], [MET, ABOVE, BEYOND, JUMP], BETWEEN)
    passed = ~met & ~unread
    rows, columns = np.nonzero(np.repeat(smallest[:, None] < np.inf, len(budgets), 1))
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
            "strength": np.where(unread, np.nan, np.where(second, *strengths[::-1]))[here],
            "lpips": np.where(unread, np.nan, np.where(second, *lpips[::-1]))[here],
            "next_strength": np.where(passed, strengths[1], np.nan)[here],
            "next_lpips": np.where(passed, lpips[1], np.nan)[here],
            "least_lpips": smallest[rows],
            "largest_lpips": largest[rows],
        }
    )
