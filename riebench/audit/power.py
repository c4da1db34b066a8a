"""Power: how many pairs it takes to tell two arms apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from riebench.audit.evidence import RANKING, Subject, compared
from riebench.audit.part import CSV, TONES, WIDTH, Part, compare_arms, rows_of
from riebench.report.texttable import TextTable, interval
from riebench.stats import resample

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EFFECTS = {"gain": 0.01, "margin": 0.01, "edit_success": 0.05}
"""Score to a difference that a benchmark should see."""
TARGET_POWER, LEVEL = 0.8, 0.05
DRAWS = 40
SIMULATIONS = 400
ROUNDING = 1e-9
FLIPS, ALL_FLIPS = 2_000, resample.FLIPS
"""Sign flips of a subsample, and of all pairs."""
SIZES = tuple(10 * 2**i for i in range(10))


@dataclass(frozen=True)
class Power(Part):
    """See the module.

    Attributes:
        told_apart: see :func:`told_apart`.
        curves: see :func:`power_curves`.
        needed: see :func:`pairs_needed`.
    """

    name = "power"
    title = "Power: how many pairs tell two arms apart"
    explanation = (
        "First table: the share of comparisons of two arms that tell them apart, as on the leaderboard (paired sign "
        "flips, Holm, 5 %), in subsamples of the pairs without replacement; in brackets the middle 95 % of them. "
        "With few pairs no p-value stays below 5 % after Holm's correction over many arms. Second table: the number "
        "of pairs at which a single paired t-test, without that correction, detects a true difference with power .8. "
        "For it the paired differences of two real interventions are centred, shifted by the difference and drawn "
        "with replacement. Only pairs that both interventions bring to the LPIPS count."
    )
    figure_file = "power.png"

    told_apart: pd.DataFrame = field(metadata={CSV: "told-apart"})
    curves: pd.DataFrame = field(metadata={CSV: "power"})
    needed: pd.DataFrame = field(metadata={CSV: "pairs-needed"})

    @classmethod
    def measure(cls, subject: Subject) -> Self:
        """Subsample the pairs, and simulate differences of two interventions."""
        ranking = {score: subject.values[score] for score in RANKING if score in subject.values}
        curves = power_curves(ranking, subject.table.interventions)
        return cls(told_apart(ranking, SIZES), curves, pairs_needed(curves))

    def tables(self) -> list[TextTable]:
        """Shares told apart by number of pairs, and the pairs needed for an effect."""
        apart = [
            [r["score"], str(r["pairs"]), interval(r["share"], r["low"], r["high"], 2), str(r["arms"])]
            for r in rows_of(self.told_apart)
        ]
        needed = [
            [
                r["score"],
                f"{r['effect']:g}",
                *(count_of(r[name]) for name in ("least", "median", "most")),
                str(r["comparisons"]),
            ]
            for r in rows_of(self.needed)
        ]
        return [
            TextTable("Told apart", ["score", "pairs", "share told apart", "arms"], apart),
            TextTable("Pairs needed", ["score", "difference", "fewest", "median", "most", "comparisons"], needed),
        ]

    def figure(self) -> Figure:
        """Left: share of two arms told apart. Right: power for a difference that a benchmark should see."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        for score, part in self.told_apart.groupby("score", sort=False):
            tone = TONES[str(score)]
            left.plot(part["pairs"], part["share"], marker="o", markersize=3.5, color=tone, label=score)
            left.fill_between(part["pairs"], part["low"], part["high"], color=tone, alpha=0.13, linewidth=0)
        bands = "bands: 95 % of subsamples"
        left.set(xlabel="pairs", ylabel="share of comparisons told apart", ylim=(0, 1), title=bands)
        self._draw_curves(right)
        for axes in (left, right):
            if axes.lines:
                axes.legend()
        return figure

    def _draw_curves(self, axes: Axes) -> None:
        for (name, effect), part in self.curves.groupby(["score", "effect"], sort=False):
            tone = TONES[str(name)]
            by_size = part.groupby("pairs")["power"]
            axes.plot(by_size.median(), marker="o", markersize=3.5, color=tone, label=f"{name}, {effect:g}")
            axes.fill_between(by_size.min().index, by_size.min(), by_size.max(), color=tone, alpha=0.13, linewidth=0)
        axes.axhline(TARGET_POWER, color="#404040", linewidth=0.8, linestyle="--")
        axes.set_xscale("log")
        axes.set_xticks(SIZES[::3], [str(size) for size in SIZES[::3]])
        axes.minorticks_off()
        axes.set(xlabel="pairs", ylabel="power", ylim=(0, 1.02), title="bands: over all comparisons")

    def verdict(self, ranking: str) -> list[str]:
        """The number of pairs needed for a difference, and the share told apart with all pairs."""
        sentences = []
        for row in rows_of(self.needed[self.needed["score"] == ranking]):
            fewest, median, most = (count_of(row[name]) for name in ("least", "median", "most"))
            sentences.append(
                f"A single test detects a difference of {row['effect']:g} between two interventions with power .8 "
                f"from {median} pairs on (the median over all comparisons; range {fewest} to {most}), counting pairs "
                "that both bring to the LPIPS."
            )
        curve = self.told_apart[self.told_apart["score"] == ranking]
        if len(curve):
            last = curve.iloc[-1]
            half = curve[curve["share"] >= 0.5]["pairs"]
            from_ = f"; half of them from {half.iloc[0]} pairs on" if len(half) else ""
            share = f"{last['share']:.0%} of the comparisons of two arms tell them apart"
            sentences.append(f"With all {last['pairs']} pairs, {share}{from_}.")
        return sentences


def count_of(pairs: float) -> str:
    """A number of pairs as text, such as "10 or fewer" at the smallest size."""
    if not np.isfinite(pairs):
        return f"more than {SIZES[-1]}"
    return f"{SIZES[0]} or fewer" if pairs <= SIZES[0] else f"{np.ceil(pairs):.0f}"


def told_apart(values: Mapping[str, pd.DataFrame], sizes: Sequence[int], seed: int = 0) -> pd.DataFrame:
    """The share of comparisons of two arms that tell them apart, by number of pairs.

    Each size has :data:`DRAWS` subsamples of the pairs, drawn without replacement; the size of all pairs has one. In
    each subsample every two arms that have a value on half of all pairs are tested as in the report (paired sign flips,
    Holm over all of them, 5 %). ``share`` is the mean over subsamples, ``low`` and ``high`` enclose the middle 95 % of
    them. Large subsamples overlap, so this range shrinks to nothing at all pairs.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for score, whole in values.items():
        frame = whole[compared(whole)]
        for size in sorted({min(size, len(frame)) for size in sizes}):
            count = 1 if size == len(frame) else DRAWS
            drawn = [frame.iloc[rng.choice(len(frame), size, replace=False)] for _ in range(count)]
            flips = FLIPS if count > 1 else ALL_FLIPS
            shares = [compare_arms(part, flips, seed)["told_apart"].mean() for part in drawn]
            low, high = np.quantile(shares, [0.025, 0.975])
            rows.append((score, size, float(np.mean(shares)), low, high, frame.shape[1]))
    return pd.DataFrame(rows, columns=["score", "pairs", "share", "low", "high", "arms"])


def power_curves(values: Mapping[str, pd.DataFrame], arms: Sequence[str], seed: int = 0) -> pd.DataFrame:
    """The power of a test of two arms for a true difference of :data:`EFFECTS`, by simulation.

    The paired differences of two real arms are centred and shifted by the effect, which keeps their spread and shape;
    ``pairs`` of them are drawn with replacement, :data:`SIMULATIONS` times. Power is the share of draws in which the
    p-value of a two-sided paired t-test (Student 1908; close to the sign-flip test for these sizes) is below 5 %. It
    holds for a single comparison; Holm's correction over many comparisons takes more pairs.

    Returns:
        Columns score, effect, a, b, pairs, power; no row for two arms that differ on no pair.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for score, effect in EFFECTS.items():
        frame = values.get(score, pd.DataFrame())
        known = [arm for arm in compared(frame) if arm in arms]
        for a, b in combinations(known, 2):
            difference = (frame[a] - frame[b]).dropna().to_numpy()
            if len(difference) < 2 or difference.std() == 0:
                continue
            shifted = difference - difference.mean() + effect
            rows += [(score, effect, a, b, size, _power(shifted, size, rng)) for size in SIZES]
    return pd.DataFrame(rows, columns=["score", "effect", "a", "b", "pairs", "power"])


def _power(shifted: NDArray[np.float64], size: int, rng: np.random.Generator) -> float:
    drawn = shifted[rng.integers(len(shifted), size=(SIMULATIONS, size))]
    error = drawn.std(1, ddof=1) / np.sqrt(size)
    seen = np.abs(drawn.mean(1)) > stats.t.ppf(1 - LEVEL / 2, size - 1) * error
    return float((seen & (error > ROUNDING)).mean())  # a draw of equal values has no test


def pairs_needed(curves: pd.DataFrame) -> pd.DataFrame:
    """The number of pairs at which the power of two arms reaches .8: smallest, median and largest over all comparisons.

    It is interpolated between two sizes in the logarithm of the number of pairs; infinite if the largest size does not
    reach that power.

    Args:
        curves: as of :func:`power_curves`.

    Returns:
        A row for each score; columns score, effect, least, median, most, comparisons.
    """
    if curves.empty:
        return pd.DataFrame(columns=["score", "effect", "least", "median", "most", "comparisons"])
    needed = curves.groupby(["score", "effect", "a", "b"], sort=False)[["pairs", "power"]].apply(_reaches)
    by_score = needed.groupby(["score", "effect"], sort=False)
    return by_score.agg(least="min", median="median", most="max", comparisons="size").reset_index()


def _reaches(curve: pd.DataFrame) -> float:
    enough = np.flatnonzero(curve["power"] >= TARGET_POWER)
    if not len(enough):
        return np.inf
    last = max(1, int(enough[0]))
    power, size = curve["power"].to_numpy()[last - 1 : last + 1], np.log(curve["pairs"].to_numpy()[last - 1 : last + 1])
    return float(np.exp(np.interp(TARGET_POWER, power, size)))
