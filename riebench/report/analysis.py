"""All numbers of a report on one group of records, as frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from riebench.report.agreement import agreement
from riebench.report.arms import ALL, arms_of
from riebench.report.board import comparisons_of, grouped, make_board, ranked
from riebench.report.curves import Curves, curve_rows
from riebench.report.groups import Group
from riebench.report.notes import notes_of
from riebench.report.resample import Bootstrap
from riebench.report.scores import choose_budgets, held_out_scores, matched
from riebench.util.errors import UserError


@dataclass(frozen=True)
class Options:
    """Choices of the user.

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
class Analysis(Curves):
    """The numbers of a report on one group: its curves (arms in the order of the leaderboard, all metrics), and more.

    Attributes:
        budgets: LPIPS budgets of the scores.
        usual: whether these are the usual ones, or given by the user.
        rank_at: the budget that ranks; None without budgets.
        board: a row for each arm and category (``all`` first); see :func:`riebench.report.board.board_columns`.
        comparisons: a row for each two ranked arms. The first, ``a``, has the higher mean over the pairs that both
            scored. It may rank below ``b``, because a rank uses every pair of an arm.
        truth: rank correlations with the truth; empty if the truth is unknown.
        failures: a row for each arm, stage and reason.
        notes: remarks for the reader.
    """

    budgets: list[float]
    usual: bool
    rank_at: float | None
    board: pd.DataFrame
    comparisons: pd.DataFrame
    truth: pd.DataFrame
    failures: pd.DataFrame
    notes: list[str] = field(default_factory=list)

    @property
    def overall(self) -> pd.DataFrame:
        """The leaderboard over all categories."""
        return self.board[self.board["category"] == ALL]

    @property
    def value(self) -> str:
        """What arms are ranked by: ``gain``, or ``score`` if the CLIP of some base image is unknown."""
        return "gain" if self.pairs.known else "score"


def analyse(group: Group, options: Options | None = None) -> Analysis:
    """Work out leaderboard, comparisons, curves, held-out scores and failures of a group.

    Raises:
        UserError: if ``rank_at`` is not one of the budgets.
    """
    options = options or Options()
    pairs, arms = arms_of(group.frame)
    automatic, usual = choose_budgets(arms)
    budgets = sorted(set(options.budgets)) or automatic
    rank_at = _rank_at(budgets, options.rank_at)
    boot = Bootstrap(pairs.categories.tolist(), options.resamples, options.seed)
    scores = [matched(arm, pairs, budgets) for arm in arms]
    held = [held_out_scores(arm, pairs, rank_at) if rank_at is not None else None for arm in arms]
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
        curves=curve_rows(arms, pairs, boot),
        truth=agreement(arms, pairs, boot),
        failures=_count_failures(group.frame),
    )
    result.notes = [*group.notes, *notes_of(result)]
    return result


def _rank_at(budgets: Sequence[float], wanted: float | None) -> float | None:
    if wanted is None:
        return budgets[(len(budgets) - 1) // 2] if budgets else None
    if wanted not in budgets:
        raise UserError(f"--rank-at is {wanted:g}; expected one of the budgets {', '.join(f'{b:g}' for b in budgets)}")
    return wanted


def _count_failures(frame: pd.DataFrame) -> pd.DataFrame:
    """The number of failed records and their pairs, by arm, stage and reason."""
    failed = frame[frame["status"] != "ok"]
    if failed.empty:
        return pd.DataFrame(columns=["method", "blocks", "where", "reason", "records", "pairs"])
    failed = failed.assign(**{c: failed[c].fillna("not recorded") for c in ("where", "reason")})
    groups = failed.groupby(["method", "blocks", "where", "reason"])
    found = groups.agg(records=("key", "size"), pairs=("pair_id", "nunique")).reset_index()
    return found.sort_values("records", ascending=False, kind="stable").reset_index(drop=True)
