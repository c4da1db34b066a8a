"""All numbers of a report on one group of records, as frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from riebench.metrics import METRICS
from riebench.pairs.pair import CATEGORIES
from riebench.report.arms import ALL, GAIN, TRUTH, Arm, Pairs, arms_of, searched_for
from riebench.report.board import comparisons_of, grouped, make_board, ranked
from riebench.report.curves import Curves
from riebench.report.frame import COLUMNS
from riebench.report.groups import Group
from riebench.report.marks import IMAGES
from riebench.report.ranking import check_ranking
from riebench.report.reached import reached
from riebench.report.scores import NEARLY_ALL, arrived_at, choose_budgets, held_out_scores, matched
from riebench.stats.correlation import DRAWS, spearman
from riebench.stats.resample import FEW, RESAMPLES, SEED, Bootstrap, pairs_to_tell_apart
from riebench.util.errors import UserError
from riebench.version import __version__

MOST_NAMES = 6  # of arms in a note
LITTLE = 0.25  # share of the source image's gain below which a note says that little is edited
COMPARED = (("clip_text_edit", "edit_success"), ("lpips_base", "kept"))
"""Each metric with the truth it is correlated with."""


@dataclass(frozen=True)
class Options:
    """Choices of the user.

    Attributes:
        budgets: LPIPS budgets; empty for the automatic choice.
        rank_at: the budget to rank at; None for the middle one (the lower of two).
        resamples: of the bootstrap.
        seed: of the bootstrap and of the sign flips.
        rank_by: what arms are ranked by, one of :data:`riebench.report.ranking.RANKINGS`.
    """

    budgets: tuple[float, ...] = ()
    rank_at: float | None = None
    resamples: int = RESAMPLES
    seed: int = SEED
    rank_by: str = GAIN


@dataclass
class Analysis(Curves):
    """The numbers of a report on one group: its curves (arms in the order of the leaderboard, all metrics), and more.

    Attributes:
        budgets: LPIPS budgets of the scores.
        rank_at: the budget that ranks; None without budgets.
        why_there: how the budgets and the one that ranks were chosen, as a sentence; empty without budgets.
        rank_by: what ranks.
        board: a row for each arm and category (``all`` first); see :func:`riebench.report.board.board_columns`.
        ks: for each arm the k of the scores at the ranking budget, for the two halves of the pairs.
        failures: a row for each arm, stage and reason.
        comparisons: a row for each two ranked arms. The first, ``a``, has the higher mean over the pairs that both
            scored. It may rank below ``b``, because a rank uses every pair of an arm.
        truth: rank correlations with the truth; empty if the truth is unknown.
        reached: a row for each arm, k, pair and budget; see :data:`riebench.report.reached.COLUMNS`.
        notes: remarks for the reader.
    """

    budgets: list[float]
    rank_at: float | None
    why_there: str
    rank_by: str
    board: pd.DataFrame
    ks: list[list[int | None]]
    failures: pd.DataFrame
    comparisons: pd.DataFrame = field(default_factory=pd.DataFrame)
    truth: pd.DataFrame = field(default_factory=pd.DataFrame)
    reached: pd.DataFrame = field(default_factory=pd.DataFrame)
    notes: list[str] = field(default_factory=list)

    @property
    def overall(self) -> pd.DataFrame:
        """The leaderboard over all categories."""
        return self.board[self.board["category"] == ALL]

    @property
    def value(self) -> str:
        """The ranking metric; ``score`` instead of ``gain`` if the CLIP of some base image is unknown."""
        if self.rank_by != GAIN:
            return self.rank_by
        return "gain" if self.pairs.known else "score"

    @property
    def value_title(self) -> str:
        """The ranking metric as a word for tables."""
        return {"gain": "Gain", "score": "CLIP"}.get(self.value, self.value)


def analyse(group: Group, options: Options | None = None) -> Analysis:
    """Compute the leaderboard, comparisons, curves, held-out scores and failures of a group.

    Raises:
        UserError: if ``rank_at`` is not one of the budgets, or the records cannot be ranked so.
    """
    analysis, add_the_rest = analyse_for_figures(group, options)
    add_the_rest()
    return analysis


def analyse_for_figures(group: Group, options: Options | None = None) -> tuple[Analysis, Callable[[], None]]:
    """Compute what figures are drawn from.

    Returns:
        The analysis without comparisons, letters, truth, reached budgets and notes, and a function that adds these.

    Raises:
        UserError: as :func:`analyse`.
    """
    options = options or Options()
    pairs, arms = arms_of(group.frame)
    check_ranking(options.rank_by, arms[0].values)
    by = options.rank_by
    budgets, origin = _budgets(group, arms, options)
    boot = Bootstrap(pairs.categories.tolist(), options.resamples, options.seed)
    scores = [matched(arm, pairs, budgets, by) for arm in arms]
    rank_at, why_there = _rank_at(budgets, origin, options.rank_at, arrived_at(scores, pairs))
    held = [held_out_scores(arm, pairs, rank_at, by) if rank_at is not None else None for arm in arms]
    at = budgets.index(rank_at) if rank_at is not None else None
    board, order = ranked(make_board(arms, pairs, boot, budgets, at, scores, held, by), len(pairs.ids))
    arms, scores = [arms[i] for i in order], [scores[i] for i in order]
    result = Analysis(
        group=group,
        pairs=pairs,
        arms=arms,
        metrics=list(arms[0].values),
        boot=boot,
        budgets=budgets,
        rank_at=rank_at,
        why_there=why_there,
        rank_by=by,
        board=board,
        ks=[[None if at is None else k[at] for k in score.k] for score in scores],
        failures=_count_failures(group.frame),
    )

    def add_the_rest() -> None:
        result.comparisons = comparisons_of(arms, pairs, boot, board, scores, at, options.seed, by)
        result.board = grouped(board, result.comparisons)
        result.truth = agreement(arms, pairs, boot)
        result.reached = reached(arms, pairs, budgets)
        result.notes = [*group.notes, *_notes_of(result), *_partly_measured(group.frame)]

    return result, add_the_rest


SEARCHED, CHOSEN = "for which strengths were searched", "given with --budget"
USUAL = "the usual ones up to the largest that half of the pairs reach with two methods"
FROM_DATA = "chosen from the data: four steps up to the largest that half of the pairs reach with two methods"


def _budgets(group: Group, arms: Sequence[Arm], options: Options) -> tuple[list[float], str]:
    """The LPIPS budgets, and how they were chosen."""
    if options.budgets:
        return sorted(set(options.budgets)), CHOSEN
    if searched := searched_for(group.frame):
        return searched, SEARCHED
    budgets, usual = choose_budgets(arms)
    return budgets, USUAL if usual else FROM_DATA


def _rank_at(
    budgets: Sequence[float], origin: str, budget: float | None, arrived: int | None
) -> tuple[float | None, str]:
    """The budget to rank at, and how it and the budgets were chosen.

    Without a choice of the user it is the middle one (the lower of two); but ``arrived``, if it is not None, where the
    budgets were chosen from what the pairs reach.
    """
    if not budgets:
        return None, ""
    names = ", ".join(f"{b:g}" for b in budgets)
    if budget is not None and budget not in budgets:
        raise UserError(f"--rank-at is {budget:g}; expected one of the budgets {names}")
    number, why = (len(budgets) - 1) // 2, "the middle one"
    if origin in (USUAL, FROM_DATA) and arrived is not None:
        number, why = arrived, "which has the largest gain"
    if budget is not None:
        number, why = list(budgets).index(budget), "given with --rank-at"
    ranked = f"; ranked at {budgets[number]:g}, {why}" if len(budgets) > 1 else ""
    return budgets[number], f"compared at LPIPS {names}, {origin}{ranked}"


def _count_failures(frame: pd.DataFrame) -> pd.DataFrame:
    """The number of failed records and their pairs, by arm, stage and reason."""
    failed = frame[frame["status"] != "ok"]
    if failed.empty:
        return pd.DataFrame(columns=["method", "blocks", "where", "reason", "records", "pairs"])
    failed = failed.assign(**{c: failed[c].fillna("not recorded") for c in ("where", "reason")})
    groups = failed.groupby(["method", "blocks", "where", "reason"])
    failures = groups.agg(records=("key", "size"), pairs=("pair_id", "nunique")).reset_index()
    return failures.sort_values("records", ascending=False, kind="stable").reset_index(drop=True)


def _against_rank(comparisons: pd.DataFrame) -> list[str]:
    """Arms that differ significantly in the opposite order of their ranks."""
    if comparisons.empty:
        return []
    disagreeing = comparisons[comparisons["told_apart"] & (comparisons["arm_a"] > comparisons["arm_b"])]
    reversed_pairs = [
        f"{row.a} is better than {row.b} (by {row.difference:.3f} on the {row.pairs} pairs of both)"
        for row in disagreeing.itertuples()
    ]
    if not reversed_pairs:
        return []
    rest = len(reversed_pairs) - MOST_NAMES
    more = f"; {rest} more in comparisons.csv" if rest > 0 else ""
    why = "told apart the other way round than they rank, as a rank is over all pairs that a method has a score on"
    return [f"{why}: {'; '.join(reversed_pairs[:MOST_NAMES])}{more}"]


def _partly_measured(frame: pd.DataFrame) -> list[str]:
    """Metrics that not every scored record has, as they were chosen for some runs alone, or added to some records."""
    scored = frame[frame["status"] == "ok"]
    default = {name for name, known in METRICS.items() if not known.optional}
    known = {name: int(scored[name].notna().sum()) for name in map(str, frame) if name not in {*COLUMNS, *default}}
    return [
        f"{name} is known for {count} of {len(scored)} scored records, and its means are over these"
        for name, count in known.items()
        if not name.endswith("_base") and 0 < count < len(scored)
    ]


def _share_of_source(result: Analysis, gain: float) -> float:
    """The share that a gain is of the source image's; NaN where that is not known, or no gain."""
    whole = result.images[(result.images["category"] == ALL) & (result.images["image"] == IMAGES[1])][GAIN]
    return gain / float(whole.iloc[0]) if len(whole) and whole.iloc[0] > 0 else np.nan


def _few_edits(result: Analysis) -> list[str]:
    """Notes where ranks say little: no gain at the ranking budget, or another first method at one strength for all."""
    board, at = result.overall, result.rank_at
    ranked = board[board["rank"].notna()]
    if ranked.empty or at is None or not result.pairs.known:
        return []
    notes, share = [], _share_of_source(result, float(ranked["gain"].max()))
    lows = ranked["gain_low"].dropna()
    if share < LITTLE or (np.isnan(share) and len(lows) and not (lows > 0).any()):
        little = (
            "no method has a gain that is told from 0"
            if np.isnan(share)
            else (f"the best method has {max(0.0, share):.0%} of the gain of the source image")
        )
        searched = searched_for(result.group.frame)
        mend = f"the same run with {'a larger ' if searched else ''}--at-lpips searches stronger ones"
        notes.append(f"at LPIPS {at:g} {little}, so the ranks say little about edits: {mend}")
    held, first = f"held_out_{result.rank_by}", ranked.iloc[0]
    pairs, scored = int(first[f"score@{at:g}_pairs"]), int(first["scored"])
    if held in ranked and ranked[held].notna().any() and pairs < NEARLY_ALL * scored:
        best = ranked.iloc[int(ranked[held].fillna(-np.inf).to_numpy().argmax())]
        if best[held] > first[held]:
            name, leads = (result.arms[int(number)].name for number in (best["arm"], first["arm"]))
            known = int(best[f"{held}_pairs"])  # a half of the pairs if no setting was within the LPIPS on the other
            notes.append(
                f"held-out puts {name} first, the rank {leads}: held-out is over "
                f"{'all' if known == scored else f'{known} of'} {scored} pairs at one strength, "
                f"the rank over the {pairs} pairs that reach LPIPS {at:g}"
            )
    return notes


def _few_pairs(result: Analysis) -> list[str]:
    """Notes where intervals are too narrow, where no test can tell methods apart, and on methods without a pair in
    common."""
    notes, pairs, tested = [], int(np.any([arm.scored for arm in result.arms], 0).sum()), result.comparisons
    if 1 < pairs < FEW:
        why = "over 2, 3, 5 and 9 pairs they hold the mean in 50, 74, 87 and 90 of 100 cases"
        notes.append(f"{pairs} pairs are few, so the 95 % intervals are too narrow: {why}")
    if tested.empty:
        return notes
    most, needed = int(tested["pairs"].max()), pairs_to_tell_apart(max(1, int(tested["p"].notna().sum())))
    if most < needed:
        notes.append(f"with fewer than {needed} pairs that both scored, no test can tell two methods apart")
    if len(apart := tested[tested["pairs"] == 0]):
        first = f"{apart['a'].iloc[0]} and {apart['b'].iloc[0]}"
        notes.append(f"{len(apart)} comparisons are of methods without a pair in common, first {first}")
    return notes


def _notes_of(result: Analysis) -> list[str]:
    """Notes on a group's records, and on numbers that are undefined."""
    notes = []
    arms = result.arms
    if not any(arm.scored.any() for arm in arms):
        return [f"no pair was scored: all {len(result.group.frame)} records failed"]
    if not result.budgets:
        notes.append("no method has two points of different LPIPS, so there is no score at matched LPIPS and no rank")
    else:
        notes.append(result.why_there)
    notes += [*_few_edits(result), *_few_pairs(result)]
    unchosen = [a.name for a, ks in zip(arms, result.ks, strict=True) if None in ks and None not in a.ks]
    if result.rank_at is not None and unchosen:
        why = "no k could be chosen, as k is chosen on one half of the pairs for the other"
        notes.append(f"{why} and a half reaches LPIPS {result.rank_at:g} on no pair: {'; '.join(unchosen)}")
    ranks = zip(arms, result.overall["rank"], strict=True)
    outside = [a.name for a, r in ranks if a.curved and r is pd.NA and a.name not in unchosen]
    if result.rank_at is not None and outside:
        names = f"{len(outside)} rows, first {outside[0]}" if len(outside) > MOST_NAMES else "; ".join(outside)
        notes.append(f"less than half of the pairs reach LPIPS {result.rank_at:g}, so no rank: {names}")
    notes += _against_rank(result.comparisons)
    points = [a.name for a in arms if not a.curved and a.scored.any()]
    if points:
        below = any(s < 0 for a in arms if not a.curved for s in a.strengths)
        what = "no curve (strengths below 0 are on none)" if below else "one point instead of a curve"
        notes.append(f"{what}, so no score at matched LPIPS: {'; '.join(points)}")
    if not result.pairs.known:
        scored = np.any([arm.scored for arm in arms], 0)
        count = int((scored & np.isnan(result.pairs.base)).sum())
        why = "of their base image (method none, or strength 0), so no gain over it"
        notes.append(f"{count} scored pairs have no record {why}; methods are ranked by CLIP")
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


def agreement(arms: Sequence[Arm], pairs: Pairs, boot: Bootstrap) -> pd.DataFrame:
    """Spearman's rank correlation over settings between mean CLIP and edit_success, and mean LPIPS and kept.

    A setting's means are over the pairs that every setting scored, so that settings differ by nothing else. Settings
    with the same numbers for every pair (strength 0 of every arm, say) are one picture, and count once. Null with
    fewer than three settings, or if one of the two is the same for all.

    The interval resamples pairs, see :func:`spearman`.

    Returns:
        Columns metric, truth, correlation, low, high, settings, pairs; no row if the truth is unknown.
    """
    columns = ["metric", "truth", "correlation", "low", "high", "settings", "pairs"]
    if not all(m in arms[0].values for m in TRUTH):
        return pd.DataFrame(columns=columns)
    shape = (len(pairs.ids), -1)
    stacked = {m: np.concatenate([arm.values[m].reshape(shape) for arm in arms], 1) for m in sum(COMPARED, ())}
    defined = ~np.isnan(np.stack(list(stacked.values()))).any(0)
    scored = defined.any(0)
    common = defined[:, scored].all(1)
    used = {m: values[common][:, scored] for m, values in stacked.items()}
    numbers = np.concatenate(list(used.values()))
    distinct = np.unique(numbers, axis=1, return_index=True)[1] if len(numbers) else np.arange(numbers.shape[1])
    rows = []
    for metric, truth in COMPARED:
        a, b = (used[m][:, np.sort(distinct)] for m in (metric, truth))
        correlation, low, high = spearman(a, b, boot.weights[common, :DRAWS].T)
        rows.append((metric, truth, correlation, low, high, len(distinct), int(common.sum())))
    return pd.DataFrame(rows, columns=columns)
