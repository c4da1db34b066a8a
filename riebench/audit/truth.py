"""Agreement with the truth: does what scores high also do what was asked, and no more?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from riebench.audit.evidence import DONE, RANKING, Array, Subject, Table, budgets_of, compared
from riebench.audit.part import AROUND, CSV, ROW, TONES, WIDTH, LeftOut, Part, rows_of
from riebench.metrics import METRICS
from riebench.report.arms import TRUTH
from riebench.report.texttable import TextTable, interval, number
from riebench.stats.correlation import DRAWS, correlations, spearman
from riebench.stats.resample import quantiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SETTINGS, METHODS, INTERVENTIONS, WITHIN = "settings", "methods", "interventions", "pairs"
LOWER_IS_BETTER = (
    "clip_text_original",
    "clip_text_edit_outside",
    "lpips_base",
    "lpips_base_inside",
    "lpips_base_outside",
    "lpips_source",
    "mse_outside",
    "lpips_squeeze_outside",
    "structure_distance",
)
"""Metrics whose sign is turned, so that a positive correlation is agreement."""
COLUMNS = ["level", "budget", "metric", "correlation", "low", "high", "points", "pairs"]
"""``points``: settings or methods that are ranked; of the level ``pairs``, settings whose correlations are averaged."""
ROUNDING = 1e-9
PANELS = {SETTINGS: "over settings", METHODS: "over methods", WITHIN: "over pairs of a setting"}
STRONG, SOME, WIDE = 0.8, 0.5, 1.0
"""Rank correlations from which on agreement is strong and moderate; the width from which on an interval is too wide."""


@dataclass(frozen=True)
class Agreement(Part):
    """See the module.

    Attributes:
        agreement: see :func:`agreement_with_truth`.
        by_protocol: see :func:`changed_agreement`; None without runs by another protocol.
        budget: LPIPS at which arms are compared.
    """

    name = "truth"
    title = "Agreement with the truth"
    explanation = (
        "Spearman's rank correlation with edit_success x kept; the sign is turned where lower is better, so "
        "that agreement is positive. Over settings, methods and interventions (methods without controls): of "
        "means over the pairs that all of them have; over pairs: within a setting, averaged over settings. In "
        "brackets 95 % bootstrap intervals over pairs. edit_success is a part of the truth. Over settings, "
        "whatever grows with strength agrees to some degree, as LPIPS shows. Other protocols are compared "
        "on the settings and pairs of both, the interval is that of the difference."
    )
    rules = (
        f"Agreement is strong from a rank correlation of {STRONG} on, moderate from {SOME} on, contrary from -{SOME} "
        "down, else weak; correlations are rounded to two digits first. Where agreement is contrary, a score misleads; "
        f"where it is weak, it cannot tell. With an interval wider than {WIDE:g} it is uncertain.",
    )
    figure_file = "agreement.png"

    agreement: pd.DataFrame = field(metadata={CSV: "truth"})
    by_protocol: pd.DataFrame | None = field(metadata={CSV: "truth-by-protocol"})
    budget: float

    @classmethod
    def measure(cls, subject: Subject) -> Self:
        """Correlate every metric with the truth, at every budget that strengths were searched for."""
        table = subject.table
        if DONE not in table.arms[0].values:
            raise LeftOut("the truth of these pictures is not known; it is on mini")
        searched = any(arm.records["at_lpips"].notna().any() for arm in table.arms)
        budgets = budgets_of(subject.evidence.audited, subject.budget) if searched else []
        agreement = agreement_with_truth(table, {budget: table.at(budget) for budget in budgets})
        changes = [changed_agreement(*tables) for tables in subject.protocols]
        return cls(agreement, pd.concat(changes, ignore_index=True) if changes else None, subject.budget)

    def _at_budget(self) -> pd.DataFrame:
        """The rows without a budget, or of that at which arms are compared."""
        budgets = self.agreement["budget"]
        return self.agreement[budgets.isna() | (budgets == self.budget)]

    def tables(self) -> list[TextTable]:
        """Every metric, a column for each level and budget; each other protocol."""
        head, rows = ["metric"], {metric: [str(metric)] for metric in dict.fromkeys(self.agreement["metric"])}
        for (level, _), part in self.agreement.groupby(["level", "budget"], sort=False, dropna=False):
            budget = part["budget"].iloc[0]
            head.append(f"over {level}" + ("" if np.isnan(budget) else f" at {budget:g}"))
            for row in rows_of(part):
                rows[row["metric"]].append(interval(row["correlation"], row["low"], row["high"], 2))
        each = [TextTable("Rank correlation with the truth", head, list(rows.values()))]
        if self.by_protocol is None:
            return each
        protocols = [
            [r["protocol"], r["score"], number(r["without"]), number(r["with"]),
             interval(r["difference"], r["low"], r["high"]), str(r["settings"]), str(r["pairs"])]
            for r in rows_of(self.by_protocol)
        ]  # fmt: skip
        head = ["protocol", "ranking", "without", "with", "difference", "settings", "pairs"]
        return [*each, TextTable("Rank correlation over settings with other protocols", head, protocols, left=2)]

    def figure(self) -> Figure:
        """Rank correlation with the truth, a panel for each level; metrics from top to bottom."""
        from matplotlib.figure import Figure

        rows = self._at_budget()
        metrics = list(dict.fromkeys(rows["metric"]))
        tones = [TONES.get(metric, "#8A8A8A") for metric in metrics]
        figure = Figure(figsize=(WIDTH, AROUND + ROW * len(metrics)), layout="constrained")
        panels = figure.subplots(1, len(PANELS), sharey=True)
        for axes, (level, title) in zip(panels, PANELS.items(), strict=True):
            _draw_bars(axes, rows[rows["level"] == level].set_index("metric").reindex(metrics), tones)
            axes.set(xlim=(-1.05, 1.05), title=title + (f" at LPIPS {self.budget:g}" if level == METHODS else ""))
        panels[0].set_yticks(range(len(metrics)), metrics)
        panels[0].set_ylim(len(metrics) - 0.4, -0.6)
        figure.supxlabel(
            "Spearman's rank correlation with edit_success x kept, sign turned where lower is better; lines: 95 %",
            fontsize=8,
        )
        return figure

    def verdict(self, ranking: str) -> list[str]:
        """How strong its agreement is on each level."""
        known = self.agreement[self.agreement["metric"] == ranking].dropna(subset=["correlation"])
        at_budget = self._at_budget()
        sentences = []
        for level, what in ((SETTINGS, "settings"), (METHODS, "methods"), (INTERVENTIONS, "interventions alone")):
            rows = known[known["level"] == level]
            if rows.empty:
                continue
            here = rows[rows.index.isin(at_budget.index)]
            each = ", ".join(
                f"{row.correlation:.2f}{_ends(row)}{_budget(row)} ({row.points} on {row.pairs} pairs)"
                for row in rows.itertuples()
            )
            wide = (here["high"] - here["low"]).max() > WIDE  # not where every resample ranks alike
            strength = "undefined" if here.empty else "uncertain" if wide else word(float(here["correlation"].iloc[0]))
            sentences.append(f"Its agreement with the truth over {what} is {strength}: rank correlation {each}.")
        return sentences

    def metric_verdicts(self) -> pd.DataFrame:
        """A row for each metric and ranking: its correlation with the truth on three levels, and what follows."""
        levels = [SETTINGS, METHODS, WITHIN]
        rows = []
        for metric, part in self._at_budget().groupby("metric", sort=False):
            by_level = part.set_index("level")["correlation"]
            values = [float(by_level.get(level, np.nan)) for level in levels]
            rows.append((metric, *values, _metric_verdict(*values)))
        return pd.DataFrame(rows, columns=["metric", *levels, "verdict"])

    def verdict_table(self) -> TextTable | None:
        """What each metric and ranking can tell; None without metrics."""
        rows = [
            [r["metric"], *(number(r[level], 2) for level in (SETTINGS, METHODS, WITHIN)), r["verdict"]]
            for r in rows_of(self.metric_verdicts())
        ]
        head = ["metric", "over settings", f"over methods at LPIPS {self.budget:g}", "over pairs", "verdict"]
        return TextTable("Verdict for each metric", head, rows) if rows else None

    def points(self) -> list[str]:
        """Which metric and budget agrees best with the truth, and which protocols change it; ``edit_success``, a part
        of the truth, does not compete."""
        rivals = self.agreement[(self.agreement["metric"] != "edit_success") & self.agreement["correlation"].notna()]
        sentences = []
        for level, what in ((SETTINGS, "settings"), (METHODS, "methods"), (WITHIN, "pairs")):
            part = rivals[rivals["level"] == level]
            if part.empty:
                continue
            row: Any = part.iloc[int(part["correlation"].argmax())]
            best = f"{row['metric']}{_budget(row)}"
            sentences.append(f"Over {what}, {best} agrees best: {row['correlation']:.2f}{_ends(row)}.")
        rankings = rivals[(rivals["level"] == METHODS) & rivals["metric"].isin(RANKING)]
        mean = rankings.groupby("budget")["correlation"].mean()
        if len(mean):
            best = f"LPIPS {mean.idxmax():g} agrees best (mean over rankings {mean.max():.2f})"
            sentences.append(f"Of the budgets, {best}.")
        return sentences + self._protocol_points()

    def _protocol_points(self) -> list[str]:
        if self.by_protocol is None:
            return []
        changed = self.by_protocol[(self.by_protocol["low"] > 0) | (self.by_protocol["high"] < 0)]
        each = ", ".join(
            f"{row.score} by {row.protocol} {row.difference:+.3f} [{row.low:.3f}, {row.high:.3f}]"
            for row in changed.itertuples()
        )
        if not each:
            return ["No other protocol changes the agreement over settings by more than noise."]
        return [f"Other protocols that change the agreement over settings by more than noise: {each}."]


def word(correlation: float) -> str:
    """A rank correlation in a word."""
    rounded = round(correlation, 2)
    if np.isnan(correlation):
        return "undefined"
    if rounded <= -SOME:
        return "contrary"
    return "strong" if rounded >= STRONG else "moderate" if rounded >= SOME else "weak"


def _metric_verdict(settings: float, methods: float, pairs: float) -> str:
    """What a metric can tell, from its correlations."""
    levels = {"settings": settings, "methods at one LPIPS": methods, "single pairs": pairs}
    words = {what: word(value) for what, value in levels.items()}

    def named(*strengths: str, text: str) -> list[str]:
        several = len(strengths) > 1
        which = [f"{what} ({words[what]})" if several else what for what in words if words[what] in strengths]
        return [f"{text} {', '.join(which)}"] if which else []

    tells = named("strong", "moderate", text="tells")
    misleads, cannot = named("contrary", text="misleads on"), named("weak", text="cannot tell")
    return "; ".join([*tells, *misleads, *cannot, *named("undefined", text="undefined on")])


def _budget(row: Any) -> str:
    return "" if pd.isna(row.budget) else f" at LPIPS {row.budget:g}"


def _ends(row: Any) -> str:
    return "" if pd.isna(row.low) else f" [{row.low:.2f}, {row.high:.2f}]"


def _draw_bars(axes: Axes, part: pd.DataFrame, tones: list[str]) -> None:
    """The correlations with their intervals, from top to bottom."""
    middle = part["correlation"].to_numpy(float)
    low, high = (part[end].fillna(part["correlation"]).to_numpy(float) for end in ("low", "high"))
    places = range(len(part))
    axes.barh(places, middle, height=0.72, color=tones)
    axes.hlines(places, low, high, color="#202020", linewidth=0.8)
    axes.axvline(0, color="#404040", linewidth=0.6)
    axes.grid(axis="y", visible=False)


def agreement_with_truth(table: Table, readings: Mapping[float, Mapping[str, pd.DataFrame]]) -> pd.DataFrame:
    """Spearman's rank correlation of every metric and ranking score with ``edit_success`` x ``kept``; the sign of
    :data:`LOWER_IS_BETTER` is turned.

    - ``settings``: of means over the pairs that every setting scored; settings with the same numbers count once.
    - ``methods``: of the arms' means at a budget, over the pairs on which every arm has it, of the arms that have it on
      half of the pairs. Few methods make a rough correlation. ``interventions``: the same without controls.
    - ``pairs``: over the pairs of one setting, averaged over the settings in which both vary: does the score tell pairs
      on which an edit worked from those on which it did not?

    Intervals resample pairs: those of means are of :func:`riebench.stats.correlation.spearman`; percentile bootstrap of
    the average for the level ``pairs``, where ranks are those of the whole sample. ``edit_success`` is a part of
    the truth and agrees for that reason.

    Args:
        table: the arms.
        readings: budget to metric to values, pairs x arms.
    """
    weights = table.boot.weights[:, :DRAWS].T
    truth = table.by_setting(DONE).to_numpy()
    rows: list[Row] = []
    for metric in audited_metrics(table):
        sign = -1 if metric in LOWER_IS_BETTER else 1
        values_of = sign * table.by_setting(metric).to_numpy()
        rows.append((SETTINGS, np.nan, metric, *_of_means(values_of, truth, weights)))
        for budget, values in readings.items():
            arms = compared(values[DONE])
            for level, names in ((METHODS, arms), (INTERVENTIONS, [arm for arm in arms if arm in table.interventions])):
                both = (sign * values[metric][names].to_numpy(), values[DONE][names].to_numpy())
                rows.append((level, budget, metric, *_of_means(*both, weights)))
        rows.append((WITHIN, np.nan, metric, *within_settings(values_of, truth, weights), len(truth)))
    return pd.DataFrame(rows, columns=COLUMNS)


def audited_metrics(table: Table) -> list[str]:
    """Rankings and metrics of edited pictures; neither the truth nor what a record says of its base picture."""
    known = [m for m in table.arms[0].values if m in METRICS and m not in TRUTH]
    return [*(score for score in RANKING if score in table.arms[0].values), *known]


Row = tuple[str, float, str, float, float, float, int, int]


def _of_means(values: Array, truth: Array, weights: NDArray[np.float32]) -> tuple[float, float, float, int, int]:
    """Correlation of the means of columns ``[pairs, columns]`` with its interval, and how many columns and pairs it is
    of: the pairs that have both numbers in every column that any pair has."""
    defined = ~np.isnan(values) & ~np.isnan(truth)
    columns = defined.any(0)
    common = defined[:, columns].all(1)
    both = np.concatenate([values[common][:, columns], truth[common][:, columns]])
    distinct = np.sort(np.unique(both, axis=1, return_index=True)[1])
    first, second = (one[common][:, columns][:, distinct] for one in (values, truth))
    return (*spearman(first, second, weights[:, common]), len(distinct), int(common.sum()))


def changed_agreement(mended: Table, faulty: Table, protocol: str) -> pd.DataFrame:
    """What a protocol does to the agreement of each ranking with the truth, over the settings and pairs of both.

    Returns:
        For each ranking the correlation ``without`` and ``with`` the other protocol, and their ``difference`` with its
        percentile interval over the same resamples of the pairs.
    """
    rows = []
    ids = [pair for pair in mended.pairs.ids if pair in set(faulty.pairs.ids)]
    truths = [table.by_setting(DONE).loc[ids] for table in (mended, faulty)]
    weights = mended.boot.weights[[mended.pairs.ids.index(pair) for pair in ids], :DRAWS].T
    for score in (score for score in RANKING if score in mended.scores and score in faulty.scores):
        both = [table.by_setting(score).loc[ids] for table in (mended, faulty)]
        names = [name for name in both[0] if name in both[1]]
        stacked = np.stack([frame[names].to_numpy() for frame in (*both, *truths)])
        scored = ~np.isnan(stacked).all((0, 1))
        common = ~np.isnan(stacked[:, :, scored]).any((0, 2))
        first, second, *truth = stacked[:, common][:, :, scored]
        whole = np.ones((1, int(common.sum())), np.float32)
        drawn = [
            correlations(a, b, np.vstack([whole, weights[:, common]]))
            for a, b in zip((first, second), truth, strict=True)
        ]
        low, high = (float(end[0]) for end in quantiles((drawn[1] - drawn[0])[None, 1:]))
        found = (float(drawn[0][0]), float(drawn[1][0]))
        rows.append((protocol, score, *found, found[1] - found[0], low, high, first.shape[1], len(first)))
    columns = ["protocol", "score", "without", "with", "difference", "low", "high", "settings", "pairs"]
    return pd.DataFrame(rows, columns=columns)


def within_settings(values: Array, truth: Array, weights: NDArray[np.float32]) -> tuple[float, float, float, int]:
    """The average over settings of the rank correlation over pairs, with its interval, and the number of settings.

    Args:
        values: ``[pairs, settings]``.
        truth: likewise.
        weights: of the pairs in each resample, ``[resamples, pairs]``.
    """
    each = []
    for metric, true in zip(values.T, truth.T, strict=True):
        both = ~np.isnan(metric) & ~np.isnan(true)
        x, y = (rankdata(column[both]) for column in (metric, true))
        if len(x) > 2 and np.ptp(x) > 0 and np.ptp(y) > 0:
            mine = weights[:, both].astype(float)
            each.append(_weighted(x, y, np.vstack([np.ones(len(x)), mine])))
    if not each:
        return np.nan, np.nan, np.nan, 0
    average = pd.DataFrame(each).mean().to_numpy(float)  # of those that a resample defines
    low, high = quantiles(average[None, 1:])
    return float(average[0]), float(low[0]), float(high[0]), len(each)


def _weighted(x: Array, y: Array, weights: Array) -> Array:
    """Pearson's correlation of two columns for each row of weights; NaN where one does not vary."""
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample may have none of these pairs
        share = weights / weights.sum(1, keepdims=True)
        dx, dy = x - (share @ x)[:, None], y - (share @ y)[:, None]
        covariance, x2, y2 = ((share * product).sum(1) for product in (dx * dy, dx**2, dy**2))
        found: Array = np.where((x2 > ROUNDING) & (y2 > ROUNDING), covariance / np.sqrt(x2 * y2), np.nan)
    return found
