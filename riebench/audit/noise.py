"""Noise: how far means and orders move if the same pairs get other seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from scipy.stats import chi2

from riebench.audit.evidence import Subject, compared, table_of
from riebench.audit.part import CSV, TONES, WIDTH, LeftOut, Part, cells, compare_arms, rows_of
from riebench.report.texttable import TextTable
from riebench.stats.resample import Bootstrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OFTEN, LEVEL = 0.05, 0.05
HALF_WIDTH = 1.959964  # of a 95 % interval, in standard errors of a normal distribution
Run = Mapping[str, pd.DataFrame]
"""Score to its values in one run, a frame of pairs x arms."""


@dataclass(frozen=True)
class Noise(Part):
    """See the module.

    Attributes:
        spread: see :func:`spread`.
        pooled: see :func:`pooled`.
        turns: see :func:`turns`.
        turn_shares: see :func:`turn_shares`.
        runs: number of compared runs.
    """

    name = "noise"
    title = "Noise: the same arms with other seeds"
    explanation = (
        "Other seeds give the same prompts other layouts. The tables compare the standard deviation of an arm's mean "
        "between runs with other seeds to the standard error that a single run reports (half the width of its 95 % "
        "bootstrap interval over pairs, divided by 1.96). The bootstrap resamples pairs, hence prompts and seeds, so "
        "a ratio of at most 1 is expected. 'Pooled' is the ratio of root mean squares over arms. The order of two "
        "arms is the sign of their mean paired difference. Told apart: paired sign-flip test, Holm over all "
        "comparisons, 5 %."
    )
    rules = (
        "Intervals look too narrow if the pooled ratio is above the 95 % quantile of correct intervals' ratio when all "
        "arms move together: the root of chi-square over its degrees of freedom, the number of runs less 1. With few "
        "runs only gross faults show.",
        f"A significant order holds under reseeding if other seeds reverse it in at most {OFTEN:.0%} of the cases.",
    )
    figure_file = "noise.png"

    spread: pd.DataFrame = field(metadata={CSV: "noise"})
    pooled: pd.DataFrame = field(metadata={CSV: "noise-pooled"})
    turns: pd.DataFrame = field(metadata={CSV: "order-turns"})
    turn_shares: pd.DataFrame = field(metadata={CSV: "order-turns-by-score"})
    runs: int
    notes: Sequence[str] = ()

    @classmethod
    def measure(cls, subject: Subject) -> Self:
        """Compare the audited records with those of the same pairs with other seeds."""
        if not subject.evidence.reseeded:
            raise LeftOut("no run has the same pairs with other seeds; make one with 'riebench run --seed'")
        tables = [table_of(group) for group in subject.evidence.reseeded]
        pairs = subject.table.pairs
        common = np.all([np.isin(pairs.ids, table.pairs.ids) for table in tables], axis=0)
        ids = np.array(pairs.ids)[common]
        notes = []
        if len(ids) < len(pairs.ids):
            notes.append(f"{cls.name}: over the {len(ids)} pairs that all runs have")
        every = [subject.values, *(table.at(subject.budget) for table in tables)]
        runs = [{score: values[score].loc[ids] for score in subject.values} for values in every]
        moved, turned = spread(runs, pairs.categories[common].tolist()), turns(runs)
        return cls(moved, pooled(moved), turned, turn_shares(turned), len(runs), notes)

    def tables(self) -> list[TextTable]:
        """Ratios pooled over arms, orders of two arms, and ratios of each arm."""
        columns = ["sd_seeds", "standard_error", "ratio"]
        each = [[r["score"], r["arm"], *cells(r, ["mean", *columns])] for r in rows_of(self.spread)]
        together = [[r["score"], str(r["arms"]), *cells(r, columns)] for r in rows_of(self.pooled)]
        shares = ["turned", "told_apart", "told_apart_turned"]
        turned = [[r["score"], *cells(r, shares)] for r in rows_of(self.turn_shares)]
        heads = ["SD between seeds", "standard error", "ratio"]
        order_heads = ["reversed", "told apart in one run", "reversed, of those"]
        return [
            TextTable("Pooled over arms", ["score", "arms", *heads], together),
            TextTable("Orders of two arms, as shares of all", ["score", *order_heads], turned),
            TextTable("Each arm", ["score", "arm", "mean", *heads], each, left=2),
        ]

    def figure(self) -> Figure:
        """Left: ratio of each arm (points) and pooled (lines). Right: shares of reversed orders."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        self._draw_ratios(left)
        self._draw_turns(right)
        return figure

    def _draw_ratios(self, axes: Axes) -> None:
        ratios = self.pooled.set_index("score")["ratio"]
        for number, (score, part) in enumerate(self.spread.groupby("score", sort=False)):
            axes.scatter(number + np.linspace(-0.25, 0.25, len(part)), part["ratio"], s=14, color=TONES[str(score)])
            axes.hlines(ratios.get(score, np.nan), number - 0.35, number + 0.35, color="#202020", linewidth=1.5)
        axes.axhline(1, color="#404040", linewidth=0.8, linestyle="--")
        scores = list(dict.fromkeys(self.spread["score"]))
        axes.set_xticks(range(len(scores)), scores)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("standard deviation between seeds\nby the standard error of a single run")
        axes.set_title("points: arms; black: pooled; at most 1 is expected")
        axes.grid(axis="x", visible=False)

    def _draw_turns(self, axes: Axes) -> None:
        shares = self.turn_shares
        places = np.arange(len(shares))
        axes.bar(places - 0.2, shares["turned"], 0.38, color="#8A8A8A", label="of all orders")
        apart = shares["told_apart_turned"]
        axes.bar(places + 0.2, apart.fillna(0), 0.38, color="#202020", label="of those told apart in one run")
        for place, share in enumerate(apart):
            text = "none" if np.isnan(share) else f"{share:.0%}"
            at = (place + 0.2, 0 if np.isnan(share) else share)
            axes.annotate(text, at, ha="center", va="bottom", fontsize=6.5)
        axes.set_xticks(places, shares["score"].tolist())
        axes.set(ylabel="share that other seeds reverse", title="order of two arms")
        axes.margins(y=0.3)  # room for the legend
        axes.grid(axis="x", visible=False)
        axes.legend()

    def verdict(self, ranking: str) -> list[str]:
        """Whether the ranking's intervals are wide enough, and whether its orders hold."""
        return [*self._interval_verdict(ranking), *self._order_verdict(ranking)]

    def _interval_verdict(self, ranking: str) -> list[str]:
        ratio = self.pooled.set_index("score")["ratio"].get(ranking, np.nan)
        if np.isnan(ratio):
            return []
        bar = by_chance(self.runs)
        judgement = "There is no sign that its intervals are" if ratio <= bar else "Its intervals look"
        return [
            f"{judgement} too narrow: between seeds means move by {ratio:.2f} of their standard error "
            f"(up to {bar:.2f} may be chance with {self.runs} runs)."
        ]

    def _order_verdict(self, ranking: str) -> list[str]:
        shares = self.turn_shares.set_index("score")
        if ranking not in shares.index or not shares["turned"].notna()[ranking]:
            return []
        row: Any = shares.loc[ranking]
        text = f"Other seeds reverse {row['turned']:.0%} of the orders of two arms"
        if not np.isnan(row["told_apart_turned"]):
            holds = "holds" if row["told_apart_turned"] <= OFTEN else "does not hold"
            text += (
                f", and {row['told_apart_turned']:.0%} of those that one run tells apart; a significant order {holds}"
            )
        return [f"{text}."]


def by_chance(runs: int) -> float:
    """The 95 % quantile of ``sd_seeds / standard_error`` over runs whose standard errors are correct."""
    return float(np.sqrt(chi2.ppf(1 - LEVEL, runs - 1) / (runs - 1)))


def spread(runs: Sequence[Run], categories: Sequence[int]) -> pd.DataFrame:
    """The standard deviation of each arm's mean between seeds, and the standard error that a single run reports.

    - ``sd_seeds``: standard deviation (n - 1) of the arm's mean over the runs.
    - ``standard_error``: half the width of the report's bootstrap interval (Efron 1979, over pairs, by category)
      divided by 1.96; the root mean square over the runs.
    - ``ratio``: ``sd_seeds / standard_error``. The bootstrap resamples pairs, hence prompts and seeds; a reseeded run
      keeps the prompts. So a correct interval gives a ratio of at most 1, and of about 1 if all spread comes from the
      seeds. A single ratio of three runs is rough; :func:`pooled` joins the ratios of all arms.

    Returns:
        A row for each score and arm that has a value on half of the pairs in every run.
    """
    boot = Bootstrap(categories)
    rows = []
    for score in runs[0]:
        arms = _in_all([run[score] for run in runs])
        means = [boot.means(run[score][arms].to_numpy()) for run in runs] if arms else []
        middle = np.array([m.mean for m in means])
        errors = np.array([(m.high - m.low) / 2 / HALF_WIDTH for m in means])
        for i, arm in enumerate(arms):
            sd, error = middle[:, i].std(ddof=1), np.sqrt((errors[:, i] ** 2).mean())
            rows.append((score, arm, len(runs), middle[:, i].mean(), sd, error, sd / error))
    return pd.DataFrame(rows, columns=["score", "arm", "runs", "mean", "sd_seeds", "standard_error", "ratio"])


def pooled(spreads: pd.DataFrame) -> pd.DataFrame:
    """The ratio of each score over all arms: root mean square ``sd_seeds`` by root mean square ``standard_error``.

    Arms whose interval is undefined (the same value on all pairs) are left out.

    Args:
        spreads: as of :func:`spread`.
    """
    known = spreads.dropna(subset=["standard_error"])
    squares = known.assign(sd_seeds=known["sd_seeds"] ** 2, standard_error=known["standard_error"] ** 2)
    roots = squares.groupby("score", sort=False)[["sd_seeds", "standard_error"]].mean() ** 0.5
    arms = known.groupby("score", sort=False)["arm"].size()
    return roots.assign(ratio=roots["sd_seeds"] / roots["standard_error"], arms=arms).reset_index()


def turns(runs: Sequence[Run]) -> pd.DataFrame:
    """Count how often the order of two arms is reversed by other seeds; a row for each score and two arms.

    Two arms have an order in a run if their mean paired difference is not 0. Counted are ordered pairs of runs (i, j)
    in which the two arms have an order in both: ``checks`` is their number. ``turned`` counts those with different
    orders, ``told_apart`` those in which run i tells the two arms apart (Holm, 5 %), and ``told_apart_turned`` those
    with both: a significant order that other seeds reverse. ``least`` and ``most`` are the smallest and the largest
    difference over the runs.
    """
    rows = []
    orders = list(permutations(range(len(runs)), 2))
    for score in runs[0]:
        arms = _in_all([run[score] for run in runs])
        each = [compare_arms(run[score][arms]) for run in runs]
        if len(arms) < 2:
            continue
        differences = np.array([comparison["difference"].to_numpy() for comparison in each])
        signs = np.sign(differences)
        apart = np.array([comparison["told_apart"].to_numpy(bool) for comparison in each])
        turned = np.array([signs[i] * signs[j] < 0 for i, j in orders])
        ordered = np.array([signs[i] * signs[j] != 0 for i, j in orders])
        first_apart = ordered & np.array([apart[i] for i, _ in orders])
        rows.append(
            each[0][["a", "b"]].assign(
                score=score,
                least=differences.min(0),
                most=differences.max(0),
                checks=ordered.sum(0),
                turned=turned.sum(0),
                told_apart=first_apart.sum(0),
                told_apart_turned=(turned & first_apart).sum(0),
            )
        )
    columns = ["score", "a", "b", "least", "most", "checks", "turned", "told_apart", "told_apart_turned"]
    return pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)


def turn_shares(turned: pd.DataFrame) -> pd.DataFrame:
    """The counts of :func:`turns` as shares by score: of all checks, and ``told_apart_turned`` as a share of the checks
    that one run tells apart (null if it tells none apart)."""
    sums = turned.groupby("score", sort=False)[["checks", "turned", "told_apart", "told_apart_turned"]].sum()
    return pd.DataFrame(
        {
            "turned": sums["turned"] / sums["checks"].where(sums["checks"] > 0),
            "told_apart": sums["told_apart"] / sums["checks"].where(sums["checks"] > 0),
            "told_apart_turned": sums["told_apart_turned"] / sums["told_apart"].where(sums["told_apart"] > 0),
        }
    ).reset_index()


def _in_all(frames: Sequence[pd.DataFrame]) -> list[str]:
    """The arms that have a value on half of the pairs in every run."""
    return [arm for arm in compared(frames[0]) if all(arm in compared(frame) for frame in frames[1:])]
