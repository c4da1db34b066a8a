"""Everything that a report says of one group of records, as frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from riebench.util.errors import UserError
from riebench.report.arms import ANY, Arm, Pairs, make_arms
from riebench.report.board import ALL, comparisons_of, grouped, make_board, ranked, scopes
from riebench.report.gather import Group
from riebench.report.notes import notes_of
from riebench.report.resample import Bootstrap
from riebench.report.scores import choose_budgets, held_out, matched
from riebench.report.agreement import agreement

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Options:
    """What a user may choose.

    Attributes:
        budgets: LPIPS budgets; empty for the automatic choice.
        rank_at: the budget to rank at; None for the middle one (the lower of two).
        resamples: of the bootstrap.
        seed: of the bootstrap and of the sign flips.
    """

    budgets: tuple[float, ...] = ()
    rank_at: float | None = None
    resamples: int = 10_000
    seed: int = 0


@dataclass
class Analysis:
    """What a report says of one group.

    Attributes:
        group: the records.
        pairs: the pairs.
        arms: in the order of the leaderboard.
        budgets: LPIPS budgets of the scores.
        usual: whether these are the usual ones, or given.
        rank_at: the budget that ranks; None without budgets.
        board: a row for each arm and category (``all`` first); see :func:`riebench.report.board.board_columns`.
        comparisons: a row for each two ranked arms, the one first that is better on the pairs of both. That may be the
            one that ranks below, as a rank is over all pairs that an arm has.
        curves: a row for each arm, category, k and strength.
        truth: rank correlations with the truth; empty where it is not known.
        failures: a row for each arm, stage and reason.
        notes: what a reader has to know.
    """

    group: Group
    pairs: Pairs
    arms: list[Arm]
    budgets: list[float]
    usual: bool
    rank_at: float | None
    board: pd.DataFrame
    comparisons: pd.DataFrame
    curves: pd.DataFrame
    truth: pd.DataFrame
    failures: pd.DataFrame
    notes: list[str] = field(default_factory=list)

    @property
    def overall(self) -> pd.DataFrame:
        """The leaderboard over all categories."""
        return self.board[self.board["category"] == ALL]

    @property
    def value(self) -> str:
        """What arms are ranked by: ``gain``, or ``score`` where the base image is not known."""
        return "gain" if self.pairs.known else "score"

    def has(self, metric: str) -> bool:
        """Whether some record has a metric."""
        return f"{metric}_mean" in self.curves


def analyse(group: Group, options: Options | None = None) -> Analysis:
    """Work out leaderboard, comparisons, curves, held-out scores and failures of a group.

    Raises:
        UserError: if ``rank_at`` is not one of the budgets.
    """
    options = options or Options()
    pairs, arms = make_arms(group.frame)
    automatic, usual = choose_budgets(arms)
    budgets = sorted(set(options.budgets)) or automatic
    rank_at = _rank_at(budgets, options.rank_at)
    boot = Bootstrap(pairs.categories.tolist(), options.resamples, options.seed)
    scores = [matched(arm, pairs, budgets) for arm in arms]
    held = [held_out(arm, pairs, rank_at) if rank_at is not None else None for arm in arms]
    at = budgets.index(rank_at) if rank_at is not None else None
    board = make_board(arms, pairs, boot, budgets, at, scores, held)
    board, order = ranked(board, len(pairs.ids))
    arms, scores = [arms[i] for i in order], [scores[i] for i in order]
    comparisons = comparisons_of(arms, pairs, boot, board, scores, at, options.seed)
    board = grouped(board, comparisons)
    result = Analysis(
        group=group,
        pairs=pairs,
        arms=arms,
        budgets=budgets,
        usual=usual or bool(options.budgets),
        rank_at=rank_at,
        board=board,
        comparisons=comparisons,
        curves=_curves(arms, pairs, boot),
        truth=agreement(arms, pairs, boot),
        failures=_failures(group.frame),
    )
    result.notes = [*group.notes, *notes_of(result)]
    return result


def _rank_at(budgets: Sequence[float], wanted: float | None) -> float | None:
    if wanted is None:
        return budgets[(len(budgets) - 1) // 2] if budgets else None
    if wanted not in budgets:
        raise UserError(f"--rank-at is {wanted:g}; expected one of the budgets {', '.join(f'{b:g}' for b in budgets)}")
    return wanted


def main_blocks(analysis: Analysis) -> str:
    """The blocks that most methods were run on; of several such the largest set."""
    sets: dict[str, set[str]] = {}
    for arm in analysis.arms:
        if arm.blocks != ANY:
            sets.setdefault(arm.blocks, set()).add(arm.method)
    return max(sets, key=lambda b: (len(sets[b]), b.count("+"))) if sets else ANY


def _curves(arms: Sequence[Arm], pairs: Pairs, boot: Bootstrap) -> pd.DataFrame:
    """Means with intervals of every setting, over all pairs and for each category."""
    metrics = list(dict.fromkeys(m for arm in arms for m in arm.values))
    shape = (len(pairs.ids), -1)
    settings = [(i, arm, k, s) for i, arm in enumerate(arms) for k in arm.ks for s in arm.strengths]
    stacked = [np.concatenate([arm.values[m].reshape(shape) for arm in arms], 1) for m in metrics]
    values = np.concatenate(stacked, 1)
    frames = []
    for scope, members in scopes(pairs):
        means = boot.means(np.where(members[:, None], values, np.nan))
        columns: dict[str, Any] = {
            "category": scope,
            "arm": [i for i, *_ in settings],
            "method": [arm.label for _, arm, *_ in settings],
            "blocks": [arm.blocks for _, arm, *_ in settings],
            "k": pd.array([k for *_, k, _ in settings], dtype="Int64"),
            "strength": [s for *_, s in settings],
            "pairs": means.count[: len(settings)],
        }
        for j, metric in enumerate(metrics):
            part = slice(j * len(settings), (j + 1) * len(settings))
            columns |= {f"{metric}_mean": means.mean[part], f"{metric}_low": means.low[part]}
            columns[f"{metric}_high"] = means.high[part]
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def _failures(frame: pd.DataFrame) -> pd.DataFrame:
    """How often each arm failed for each reason."""
    failed = frame[frame["status"] != "ok"]
    if failed.empty:
        return pd.DataFrame(columns=["method", "blocks", "where", "reason", "records", "pairs"])
    failed = failed.assign(**{c: failed[c].fillna("not said") for c in ("where", "reason")})
    groups = failed.groupby(["method", "blocks", "where", "reason"])
    found = groups.agg(records=("key", "size"), pairs=("pair", "nunique")).reset_index()
    return found.sort_values("records", ascending=False, kind="stable").reset_index(drop=True)
