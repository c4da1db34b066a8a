"""The leaderboard and the comparisons between its arms, as frames."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from riebench.pairs.pair import CATEGORIES
from riebench.records import INSIDE, OUTSIDE
from riebench.report.arms import ALL, CURVE, GAIN, Arm, Pairs
from riebench.report.matching import gap
from riebench.report.ranking import RANKINGS, ranked_metric
from riebench.report.scores import ENOUGH, HeldOut, Matched, chosen_path
from riebench.stats.resample import FLIPS, LEAST_FLIPS, LEVEL, Bootstrap, Means, holm, letters, sign_flip

Array = NDArray[np.float64]


def board_columns(budgets: Sequence[float], metrics: Sequence[str], by: str = GAIN) -> dict[str, str]:
    """Columns of the leaderboard's CSV with their descriptions, for these budgets and metrics."""
    end = {
        "": "mean over pairs",
        "_low": "lower end of its 95 % interval",
        "_high": "upper end",
        "_pairs": "pairs in it",
    }
    columns = {
        "category": "all, or the name of a category",
        "rank": f"by {by}{' (the score where the base image is not known)' if by == GAIN else ''}; null where too few "
        "pairs reach the budget",
        "rank_by_gain": "the rank by gain, where another is asked for",
        "group": "rows that share a letter are not told apart by the data",
        "method": "with the options that vary",
        "blocks": "joined by +; any where the numbers are the same for all blocks",
        "on_steps": "steps in which the intervention is on, as 1-3; any where the numbers are the same for all",
        "acts": "inside if the method changes values in the denoiser, outside if not (a picture, a prompt, nothing)",
        "attempted": "pairs with a record",
        "scored": "pairs with at least one scored record",
        "failed": "failed records",
    }
    names = {f"score@{b:g}": f"clip_text_edit where lpips_base first reaches {b:g}" for b in budgets}
    names |= {f"gain@{b:g}": f"that over the clip_text_edit of the base image, at {b:g}" for b in budgets}
    if by != GAIN:
        names |= {f"{by}@{b:g}": f"{by} ({RANKINGS[by]}) at {b:g}" for b in budgets}
    names |= {metric: f"{metric} at the ranking budget" for metric in metrics if metric not in CURVE}
    names |= {f"held_out_{metric}": f"{metric} at a setting chosen on the other pairs" for metric in metrics}
    for name, text in names.items():
        columns |= {f"{name}{suffix}": f"{text}: {what}" for suffix, what in end.items()}
    measured = {f"measured@{b:g}": f"pairs whose score at {b:g} is of a picture with that LPIPS" for b in budgets}
    return {
        **columns,
        **measured,
        "k": "k of the scores at the ranking budget, for the two halves",
        "held_out_setting": "the settings chosen, for the two halves",
    }


def _add(row: dict[str, Any], name: str, means: Means, i: int) -> None:
    row[name], row[f"{name}_low"], row[f"{name}_high"] = means.mean[i], means.low[i], means.high[i]
    row[f"{name}_pairs"] = int(means.count[i])


def make_board(
    arms: Sequence[Arm],
    pairs: Pairs,
    boot: Bootstrap,
    budgets: Sequence[float],
    at: int | None,
    scores: Sequence[Matched],
    held: Sequence[HeldOut | None],
    by: str = GAIN,
) -> pd.DataFrame:
    """The leaderboard before ranking: a row for each arm and scope."""
    by_arm = [_columns_of(score, out, pairs, budgets, at, by) for score, out in zip(scores, held, strict=True)]
    columns = [values for columns in by_arm for values in columns.values()]
    values = np.stack(columns, 1) if columns else np.zeros((len(pairs.ids), 0))
    rows = []
    for scope, members in pairs.scopes.items():
        means = boot.means(np.where(members[:, None], values, np.nan))
        column = 0
        for i, arm in enumerate(arms):
            row = _cells_of(arm, i, scope, members)
            for name in by_arm[i]:
                _add(row, name, means, column)
                column += 1
            row |= {f"measured@{b:g}": int(n) for b, n in zip(budgets, scores[i].measured[members].sum(0), strict=True)}
            if at is not None:
                # Over the base image, so that an arm is not lifted by the pairs that it happens to reach the budget on.
                row["gain_score"] = row["gain"] if pairs.known else row[f"score@{budgets[at]:g}"]
                row["rank_score"] = row["gain_score"] if by == GAIN else row[f"{by}@{budgets[at]:g}"]
                row["rank_pairs"] = row[f"score@{budgets[at]:g}_pairs"]
                row["k"] = " / ".join(_k(k[at]) for k in scores[i].k) if len(arm.ks) > 1 else _k(arm.ks[0])
            if (out := held[i]) is not None:
                row["held_out_setting"] = " / ".join(_setting(arm, c) for c in out.chosen)
            rows.append(row)
    return pd.DataFrame(rows)


def _columns_of(
    score: Matched, out: HeldOut | None, pairs: Pairs, budgets: Sequence[float], at: int | None, by: str
) -> dict[str, Array]:
    """The columns of an arm that have a mean and an interval, ``[pairs]`` each."""
    columns = {f"score@{b:g}": score.values["clip_text_edit"][:, j] for j, b in enumerate(budgets)}
    columns |= {f"gain@{b:g}": columns[f"score@{b:g}"] - pairs.base for b in budgets}
    if by != GAIN:
        columns |= {f"{by}@{b:g}": score.values[by][:, j] for j, b in enumerate(budgets)}
    if at is not None:
        columns |= {m: values[:, at] for m, values in score.values.items() if m not in CURVE}
    if out is not None:
        columns |= {f"held_out_{m}": values for m, values in out.values.items()}
    return columns


def _cells_of(arm: Arm, number: int, scope: str, members: NDArray[np.bool_]) -> dict[str, Any]:
    """The names and counts of an arm in a scope."""
    return {
        "category": scope,
        "arm": number,
        "method": arm.label,
        "blocks": arm.blocks,
        "on_steps": arm.on_steps,
        "acts": OUTSIDE if arm.outside else INSIDE,
        "attempted": int((arm.attempted & members).sum()),
        "scored": int((arm.scored & members).sum()),
        "failed": arm.failed if scope == ALL else None,
    }


def _k(k: int | None) -> str:
    return "–" if k is None else str(k)


def _setting(arm: Arm, chosen: tuple[int | None, float] | None) -> str:
    if chosen is None:
        return "none"
    k, strength = chosen
    return f"{strength:g}" if arm.ks == [None] else f"k {_k(k)}, {strength:g}"


def ranked(board: pd.DataFrame, pairs: int) -> tuple[pd.DataFrame, list[int]]:
    """The board sorted by rank with its arms renumbered, and the order of the arms.

    A rank takes a score on half of all pairs of the table: an arm that was run on few of them, which may be the easy
    ones, has none.
    """
    order, ranks = _order(board, "rank_score", pairs)
    _, by_gain = _order(board, "gain_score", pairs)
    position = {arm: i for i, arm in enumerate(order)}
    board = board.drop(columns=["rank_score", "gain_score", "rank_pairs"], errors="ignore")
    board = board.copy()  # pandas warns of inserting into a frame of many single columns
    whole = board["category"] == ALL
    board.insert(1, "rank", board["arm"].map(ranks).where(whole).astype("Int64"))
    if by_gain != ranks:
        board.insert(2, "rank_by_gain", board["arm"].map(by_gain).where(whole).astype("Int64"))
    board["arm"] = board["arm"].map(position)
    board["_scope"] = pd.Categorical(board["category"], [ALL, *CATEGORIES.values()])
    board = board.sort_values(["_scope", "arm"]).drop(columns="_scope")
    return board.reset_index(drop=True), order


def _order(board: pd.DataFrame, score: str, pairs: int) -> tuple[list[int], dict[int, int]]:
    """The arms from the best to the worst, those without a rank last, and the ranks of the others."""
    overall = board[board["category"] == ALL].copy()
    overall["key"] = np.nan
    if score in overall:
        overall["key"] = overall[score].where(overall["rank_pairs"] >= max(1, ENOUGH * pairs))
    overall = overall.sort_values(["key", "method", "blocks"], ascending=[False, True, True], na_position="last")
    order = overall["arm"].tolist()
    return order, {a: i + 1 for i, (a, key) in enumerate(zip(order, overall["key"], strict=True)) if not np.isnan(key)}


def comparisons_of(
    arms: Sequence[Arm],
    pairs: Pairs,
    boot: Bootstrap,
    board: pd.DataFrame,
    scores: Sequence[Matched],
    at: int | None,
    seed: int,
    by: str = GAIN,
) -> pd.DataFrame:
    """Each two ranked arms at the ranking budget, over the pairs that both scored."""
    ranked = [int(a) for a in board[(board["category"] == ALL) & board["rank"].notna()]["arm"]]
    both = list(combinations(ranked, 2))
    if not both or at is None:
        return pd.DataFrame()
    metric = ranked_metric(by)
    values = np.stack([s.values[metric][:, at] for s in scores], 1)
    first, second = np.array(both).T
    differences = values[:, first] - values[:, second]
    means = boot.means(differences)
    below = means.mean < 0  # better on the pairs of both, and ranked below
    if below.any():
        first, second = np.where(below, second, first), np.where(below, first, second)
        differences = values[:, first] - values[:, second]
        means = boot.means(differences)
    p = sign_flip(differences, max(FLIPS, LEAST_FLIPS * len(both)), seed)
    corrected = holm(p)
    paths = {i: chosen_path(arms[i], pairs, scores[i], at, metric) for i in ranked}
    areas = np.stack([gap(*paths[a], *paths[b]) for a, b in zip(first, second, strict=True)], 2)
    gaps, mean_gaps = boot.means(areas[0]), boot.means(areas[0] / areas[1])
    return pd.DataFrame(
        {
            "arm_a": first,
            "arm_b": second,
            "a": [arms[i].name for i in first],
            "b": [arms[i].name for i in second],
            "pairs": means.count,
            "difference": means.mean,
            "low": means.low,
            "high": means.high,
            "p": p,
            "p_holm": corrected,
            "told_apart": corrected < 1 - LEVEL,
            "area": gaps.mean,
            "area_low": gaps.low,
            "area_high": gaps.high,
            "area_pairs": gaps.count,
            "common_range": boot.means(areas[1]).mean,
            "mean_gap": mean_gaps.mean,
            "mean_gap_low": mean_gaps.low,
            "mean_gap_high": mean_gaps.high,
        }
    )


def grouped(board: pd.DataFrame, comparisons: pd.DataFrame) -> pd.DataFrame:
    """The board with letters; arms that share a letter do not differ significantly."""
    whole = board["category"] == ALL
    ranked = board[whole & board["rank"].notna()]["arm"].tolist()
    told = comparisons[comparisons["told_apart"]] if len(comparisons) else comparisons
    place = {arm: i for i, arm in enumerate(ranked)}
    different = [(place[a], place[b]) for a, b in zip(told["arm_a"], told["arm_b"], strict=True)] if len(told) else []
    names = dict(zip(ranked, letters(len(ranked), different), strict=True))
    board = board.copy()  # as above
    board.insert(2, "group", board["arm"].map(names).where(whole))
    return board
