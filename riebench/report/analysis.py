"""Everything that a report says of one group of records, as frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from riebench import __version__
from riebench.errors import UserError
from riebench.pairs.pair import CATEGORIES
from riebench.report.arms import ANY, Arm, Pairs, make_arms
from riebench.report.gather import Group
from riebench.report.matching import gap
from riebench.report.resample import LEVEL, Bootstrap, Means, holm, letters, sign_flip
from riebench.report.scores import ENOUGH, HeldOut, Matched, choose_budgets, chosen_path, held_out, matched
from riebench.report.truth import agreement

Array = NDArray[np.float64]
ALL = "all"
MOST_NAMES = 6  # of arms in a note


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
        board: a row for each arm and category (``all`` first); see :func:`board_columns`.
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
    budgets = sorted(options.budgets) or automatic
    rank_at = _rank_at(budgets, options.rank_at)
    boot = Bootstrap(pairs.categories.tolist(), options.resamples, options.seed)
    scores = [matched(arm, pairs, budgets) for arm in arms]
    held = [held_out(arm, pairs, rank_at) if rank_at is not None else None for arm in arms]
    at = budgets.index(rank_at) if rank_at is not None else None
    board = _board(arms, pairs, boot, budgets, at, scores, held)
    board, order = _ranked(board, len(pairs.ids))
    arms, scores = [arms[i] for i in order], [scores[i] for i in order]
    comparisons = _comparisons(arms, pairs, boot, board, scores, at, options.seed)
    board = _grouped(board, comparisons)
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
    result.notes = [*group.notes, *_notes(result)]
    return result


def _rank_at(budgets: Sequence[float], wanted: float | None) -> float | None:
    if wanted is None:
        return budgets[(len(budgets) - 1) // 2] if budgets else None
    if wanted not in budgets:
        raise UserError(f"--rank-at is {wanted:g}; expected one of the budgets {', '.join(f'{b:g}' for b in budgets)}")
    return wanted


def scopes(pairs: Pairs) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """All pairs, then each category, as a name and which pairs belong to it; a lone category is ``all`` only."""
    yield ALL, np.ones(len(pairs.ids), bool)
    found = np.unique(pairs.categories)
    if len(found) > 1:
        for number in found:
            yield CATEGORIES[int(number)], pairs.categories == number


def main_blocks(analysis: Analysis) -> str:
    """The blocks that most methods were run on; of several such the largest set."""
    sets: dict[str, set[str]] = {}
    for arm in analysis.arms:
        if arm.blocks != ANY:
            sets.setdefault(arm.blocks, set()).add(arm.method)
    return max(sets, key=lambda b: (len(sets[b]), b.count("+"))) if sets else ANY


def board_columns(analysis: Analysis) -> dict[str, str]:
    """Columns of the leaderboard's CSV, and what they say."""
    end = {
        "": "mean over pairs",
        "_low": "lower end of its 95 % interval",
        "_high": "upper end",
        "_pairs": "pairs in it",
    }
    said = {
        "category": "all, or the name of a category",
        "rank": "by gain, or by the score where the base image is not known; null where too few pairs reach the budget",
        "group": "arms that share a letter are not told apart by the data",
        "method": "with the options that vary",
        "blocks": "joined by +; any where the numbers do not hang on them",
        "attempted": "pairs with a record",
        "scored": "pairs with at least one scored record",
        "failed": "failed records",
    }
    names = {f"score@{b:g}": f"clip_text_edit where lpips_base first reaches {b:g}" for b in analysis.budgets}
    names |= {f"gain@{b:g}": f"that over the clip_text_edit of the base image, at {b:g}" for b in analysis.budgets}
    for metric, text in {
        "gain": "clip_text_edit over that of the base image, at the ranking budget",
        "edit_success": "edit_success at the ranking budget",
        "kept": "kept at the ranking budget",
        "held_out_gain": "clip_text_edit over that of the base image, at a setting chosen on the other pairs",
        "held_out_clip_text_edit": "clip_text_edit at that setting",
        "held_out_lpips_base": "lpips_base at that setting",
        "held_out_edit_success": "edit_success at that setting",
        "held_out_kept": "kept at that setting",
    }.items():
        names[metric] = text
    for name, text in names.items():
        said |= {f"{name}{suffix}": f"{text}: {what}" for suffix, what in end.items()}
    return {
        **said,
        "k": "k of the scores at the ranking budget, for the two halves",
        "held_out_setting": "the settings chosen, for the two halves",
    }


def _add(row: dict[str, Any], name: str, means: Means, i: int) -> None:
    row[name], row[f"{name}_low"], row[f"{name}_high"] = means.mean[i], means.low[i], means.high[i]
    row[f"{name}_pairs"] = int(means.count[i])


def _board(
    arms: Sequence[Arm],
    pairs: Pairs,
    boot: Bootstrap,
    budgets: Sequence[float],
    at: int | None,
    scores: Sequence[Matched],
    held: Sequence[HeldOut | None],
) -> pd.DataFrame:
    """A row for each arm and scope, unranked."""
    columns: list[Array] = []
    names: list[list[str]] = []
    for score, out in zip(scores, held, strict=True):
        mine = {f"score@{b:g}": score.values["clip_text_edit"][:, j] for j, b in enumerate(budgets)}
        mine |= {f"gain@{b:g}": mine[f"score@{b:g}"] - pairs.base for b in budgets}
        if at is not None:
            mine["gain"] = mine[f"gain@{budgets[at]:g}"]
            mine |= {m: score.values[m][:, at] for m in score.values if m in ("edit_success", "kept")}
        if out is not None:
            mine |= {f"held_out_{m}": v for m, v in out.values.items()}
        names.append(list(mine))
        columns += mine.values()
    values = np.stack(columns, 1) if columns else np.zeros((len(pairs.ids), 0))
    rows = []
    for scope, members in scopes(pairs):
        means = boot.means(np.where(members[:, None], values, np.nan))
        column = 0
        for i, arm in enumerate(arms):
            row: dict[str, Any] = {
                "category": scope,
                "arm": i,
                "method": arm.label,
                "blocks": arm.blocks,
                "attempted": int((arm.attempted & members).sum()),
                "scored": int((arm.scored & members).sum()),
                "failed": arm.failed if scope == ALL else None,
            }
            for name in names[i]:
                _add(row, name, means, column)
                column += 1
            out = held[i]
            if at is not None:
                # Over the base image, so that an arm is not lifted by the pairs that it happens to reach the budget on.
                row["rank_score"] = row["gain"] if pairs.known else row[f"score@{budgets[at]:g}"]
                row["rank_pairs"] = row[f"score@{budgets[at]:g}_pairs"]
                row["k"] = " / ".join(_k(k[at]) for k in scores[i].k) if len(arm.ks) > 1 else _k(arm.ks[0])
            if out is not None:
                row["held_out_setting"] = " / ".join(_setting(arm, c) for c in out.chosen)
            rows.append(row)
    return pd.DataFrame(rows)


def _k(k: int | None) -> str:
    return "–" if k is None else str(k)


def _setting(arm: Arm, chosen: tuple[int | None, float] | None) -> str:
    if chosen is None:
        return "none"
    k, strength = chosen
    return f"{strength:g}" if arm.ks == [None] else f"k {_k(k)}, {strength:g}"


def _ranked(board: pd.DataFrame, pairs: int) -> tuple[pd.DataFrame, list[int]]:
    """The board in the order of its ranks, arms renumbered, and that order.

    A rank takes a score on half of all pairs of the table: an arm that was run on few of them, which may be the easy
    ones, has none.
    """
    overall = board[board["category"] == ALL].copy()
    if "rank_score" in overall:
        enough = overall["rank_pairs"] >= max(1, ENOUGH * pairs)
        key = overall["rank_score"].where(enough)
    else:
        key = pd.Series(np.nan, overall.index)
    overall["key"] = key
    overall = overall.sort_values(["key", "method", "blocks"], ascending=[False, True, True], na_position="last")
    order = overall["arm"].tolist()
    ranks = {arm: i + 1 for i, (arm, k) in enumerate(zip(order, overall["key"], strict=True)) if not np.isnan(k)}
    position = {arm: i for i, arm in enumerate(order)}
    board = board.drop(columns=["rank_score", "rank_pairs"], errors="ignore")
    whole = board["category"] == ALL
    board.insert(1, "rank", board["arm"].map(ranks).where(whole).astype("Int64"))
    board["arm"] = board["arm"].map(position)
    board["_scope"] = pd.Categorical(board["category"], [ALL, *CATEGORIES.values()])
    board = board.sort_values(["_scope", "arm"]).drop(columns="_scope")
    return board.reset_index(drop=True), order


def _comparisons(
    arms: Sequence[Arm],
    pairs: Pairs,
    boot: Bootstrap,
    board: pd.DataFrame,
    scores: Sequence[Matched],
    at: int | None,
    seed: int,
) -> pd.DataFrame:
    """Each two ranked arms at the ranking budget, over the pairs that both scored."""
    ranked = [int(a) for a in board[(board["category"] == ALL) & board["rank"].notna()]["arm"]]
    both = list(combinations(ranked, 2))
    if not both or at is None:
        return pd.DataFrame()
    values = np.stack([s.values["clip_text_edit"][:, at] for s in scores], 1)
    first, second = np.array(both).T
    differences = values[:, first] - values[:, second]
    means = boot.means(differences)
    below = means.mean < 0  # better on the pairs of both, and ranked below
    if below.any():
        first, second = np.where(below, second, first), np.where(below, first, second)
        differences = values[:, first] - values[:, second]
        means = boot.means(differences)
    p = sign_flip(differences, seed=seed)
    corrected = holm(p)
    paths = {i: chosen_path(arms[i], pairs, scores[i], at) for i in ranked}
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


def _grouped(board: pd.DataFrame, comparisons: pd.DataFrame) -> pd.DataFrame:
    """The board with the letters of the groups that the data cannot tell apart."""
    whole = board["category"] == ALL
    ranked = board[whole & board["rank"].notna()]["arm"].tolist()
    told = comparisons[comparisons["told_apart"]] if len(comparisons) else comparisons
    place = {arm: i for i, arm in enumerate(ranked)}
    different = [(place[a], place[b]) for a, b in zip(told["arm_a"], told["arm_b"], strict=True)] if len(told) else []
    names = dict(zip(ranked, letters(len(ranked), different), strict=True))
    board.insert(2, "group", board["arm"].map(names).where(whole))
    return board


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


def _against_rank(comparisons: pd.DataFrame) -> list[str]:
    """Which arms are told apart the other way round than they rank."""
    if comparisons.empty:
        return []
    found = comparisons[comparisons["told_apart"] & (comparisons["arm_a"] > comparisons["arm_b"])]
    said = [
        f"{row.a} is better than {row.b} (by {row.difference:.3f} on the {row.pairs} pairs of both)"
        for row in found.itertuples()
    ]
    if not said:
        return []
    more = f"; {len(said) - MOST_NAMES} more in comparisons.csv" if len(said) > MOST_NAMES else ""
    why = "told apart the other way round than they rank, as a rank is over the pairs that an arm alone has"
    return [f"{why}: {'; '.join(said[:MOST_NAMES])}{more}"]


def _notes(result: Analysis) -> list[str]:
    notes = []
    arms = result.arms
    if not any(arm.scored.any() for arm in arms):
        return [f"no pair was scored: all {len(result.group.frame)} records failed"]
    if not result.budgets:
        notes.append("no arm has two points of different LPIPS, so there is no score at matched LPIPS and no rank")
    elif not result.usual:
        said = ", ".join(f"{b:g}" for b in result.budgets)
        notes.append(f"the budgets {said} were chosen from the data, as the usual 0.1, 0.2, 0.3 and 0.4 lie outside it")
    outside = [a.name for a, r in zip(arms, result.overall["rank"], strict=True) if a.has_curve() and r is pd.NA]
    if result.rank_at is not None and outside:
        said = f"{len(outside)} arms, first {outside[0]}" if len(outside) > MOST_NAMES else "; ".join(outside)
        notes.append(f"on less than half of the pairs is LPIPS {result.rank_at:g} reached, so no rank: {said}")
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
