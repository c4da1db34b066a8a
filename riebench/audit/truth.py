"""Agreement: the rank correlation of each metric with the truth, ``edit_success`` x ``kept``."""

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
"""Metrics that are multiplied by -1 first, so that a positive correlation is agreement."""
COLUMNS = ["level", "budget", "metric", "correlation", "low", "high", "points", "pairs"]
"""``points``: number of ranked settings or methods; for the level ``pairs``, number of averaged settings."""
ROUNDING = 1e-9
PANELS = {SETTINGS: "over settings", METHODS: "over methods", WITHIN: "over pairs of a setting"}
STRONG, SOME, WIDE = 0.8, 0.5, 1.0
"""Smallest rank correlations of strong and of moderate agreement; largest width of an interval that says something."""


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
        "Spearman's rank correlation with edit_success x kept; metrics where lower is better are multiplied by -1, so"
        " that agreement is positive. Over settings, methods and interventions (methods without controls): "
        "correlation of means, over the pairs that all of them have. Over pairs: correlation within a setting, "
        "averaged over settings. In brackets 95 % bootstrap intervals over pairs. edit_success is a factor of the "
        "truth. Over settings, every score that grows with strength agrees to some degree, as LPIPS shows. Other "
        "protocols are compared on the settings and pairs of both; their interval is that of the difference."
    )
    rules = (
        f"Agreement is strong for rank correlations of {STRONG} or more, moderate for {SOME} or more, contrary for "
        f"-{SOME} or less, else weak; correlations are first rounded to two digits. A score misleads where agreement "
        f"is contrary, and cannot tell where it is weak. With an interval wider than {WIDE:g} it is uncertain.",
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
            raise LeftOut("the records have no edit_success and kept, which only mini has")
        searched = any(arm.records["at_lpips"].notna().any() for arm in table.arms)
        budgets = budgets_of(subject.evidence.audited, subject.budget) if searched else []
        agreement = agreement_with_truth(table, {budget: table.at(budget) for budget in budgets})
        changes = [changed_agreement(*tables) for tables in subject.protocols]
        return cls(agreement, pd.concat(changes, ignore_index=True) if changes else None, subject.budget)

    def _at_budget(self) -> pd.DataFrame:
        """The rows of the audit's budget, and those of levels without a budget."""
        budgets = self.agreement["budget"]
        return self.agreement[budgets.isna() | (budgets == self.budget)]

    def tables(self) -> list[TextTable]:
        """The correlations of each metric by level and budget, and those with other protocols."""
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
        return [*each, TextTable("Rank correlation over settings by protocol", head, protocols, left=2)]

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
        """The strength of the ranking's agreement on each level."""
        known = self.agreement[self.agreement["metric"] == ranking].dropna(subset=["correlation"])
        at_budget = self._at_budget()
        sentences = []
        for level, what in ((SETTINGS, "settings"), (METHODS, "methods"), (INTERVENTIONS, "interventions alone")):
            rows = known[known["level"] == level]
            if rows.empty:
                continue
            here = rows[rows.index.isin(at_budget.index)]
            each = ", ".join(
                f"{row.correlation:z.2f}{_ends(row)}{_budget(row)} ({row.points} on {row.pairs} pairs)"
                for row in rows.itertuples()
            )
            wide = (here["high"] - here["low"]).max() > WIDE  # not where every resample ranks alike
            strength = "undefined" if here.empty else "uncertain" if wide else word(float(here["correlation"].iloc[0]))
            sentences.append(f"Its agreement with the truth over {what} is {strength}: rank correlation {each}.")
        return sentences

    def metric_verdicts(self) -> pd.DataFrame:
        """The correlation of each metric and ranking with the truth on three levels, and its verdict in words."""
        levels = [SETTINGS, METHODS, WITHIN]
        rows = []
        for metric, part in self._at_budget().groupby("metric", sort=False):
            by_level = part.set_index("level")["correlation"]
            values = [float(by_level.get(level, np.nan)) for level in levels]
            rows.append((metric, *values, _metric_verdict(*values)))
        return pd.DataFrame(rows, columns=["metric", *levels, "verdict"])

    def verdict_table(self) -> TextTable | None:
        """The verdict for each metric and ranking; None without metrics."""
        rows = [
            [r["metric"], *(number(r[level], 2) for level in (SETTINGS, METHODS, WITHIN)), r["verdict"]]
            for r in rows_of(self.metric_verdicts())
        ]
        head = ["metric", "over settings", f"over methods at LPIPS {self.budget:g}", "over pairs", "verdict"]
        return TextTable("Verdict for each metric", head, rows) if rows else None

    def points(self) -> list[str]:
        """The metric and the budget of the best agreement, and the protocols that change it. ``edit_success``, a factor
        of the truth, is left out."""
        rivals = self.agreement[(self.agreement["metric"] != "edit_success") & self.agreement["correlation"].notna()]
        sentences = []
        for level, what in ((SETTINGS, "settings"), (METHODS, "methods"), (WITHIN, "pairs")):
            part = rivals[rivals["level"] == level]
            if part.empty:
                continue
            row: Any = part.iloc[int(part["correlation"].argmax())]
            best = f"{row['metric']}{_budget(row)}"
            sentences.append(f"Over {what}, {best} agrees best: {row['correlation']:z.2f}{_ends(row)}.")
        rankings = rivals[(rivals["level"] == METHODS) & rivals["metric"].isin(RANKING)]
        mean = rankings.groupby("budget")["correlation"].mean()
        if len(mean):
            best = f"LPIPS {mean.idxmax():g} agrees best (mean over rankings {mean.max():z.2f})"
            sentences.append(f"Of the budgets, {best}.")
        return sentences + self._protocol_points()

    def _protocol_points(self) -> list[str]:
        if self.by_protocol is None:
            return []
        changed = self.by_protocol[(self.by_protocol["low"] > 0) | (self.by_protocol["high"] < 0)]
        each = ", ".join(
            f"{row.score} by {row.protocol} {row.difference:+z.3f} [{row.low:z.3f}, {row.high:z.3f}]"
            for row in changed.itertuples()
        )
        if not each:
            return ["No other protocol changes the agreement over settings by more than noise."]
        return [f"Other protocols that change the agreement over settings by more than noise: {each}."]


def word(correlation: float) -> str:
    """The word for a rank correlation: strong, moderate, weak, contrary or undefined."""
    rounded = round(correlation, 2)
    if np.isnan(correlation):
        return "undefined"
    if rounded <= -SOME:
        return "contrary"
    return "strong" if rounded >= STRONG else "moderate" if rounded >= SOME else "weak"


def _metric_verdict(settings: float, methods: float, pairs: float) -> str:
    """What a metric can tell, from its rank correlations on three levels."""
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
    return "" if pd.isna(row.low) else f" [{row.low:z.2f}, {row.high:z.2f}]"


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
    """Spearman's rank correlation of every metric and ranking score with the truth, on four levels.

    The truth is ``edit_success`` x ``kept``. Metrics of :data:`LOWER_IS_BETTER` are multiplied by -1 first. Levels:

    - ``settings``: correlation of the means of all settings, over the pairs that every setting scored. Settings with
      equal numbers count once.
    - ``methods``: correlation of the means of all arms at a budget, over the pairs on which every arm reaches it. Arms
      that reach it on less than half of the pairs are left out. With few arms this correlation is rough.
    - ``interventions``: the same without controls.
    - ``pairs``: correlation over the pairs of one setting, averaged over the settings in which score and truth vary.
      It is high if the score tells pairs whose edit worked from pairs whose edit failed.

    Intervals resample pairs. Those of the first three levels are of :func:`riebench.stats.correlation.spearman`; that
    of ``pairs`` is a percentile bootstrap of the average, with the ranks of the whole sample. ``edit_success`` agrees
    because it is a factor of the truth.

    Args:
        table: the arms.
        readings: budget to metric to its values, a frame of pairs x arms.

    Returns:
        A row for each level, budget and metric; columns of :data:`COLUMNS`.
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
    """The ranking scores, and the metrics of edited pictures except the truth."""
    known = [m for m in table.arms[0].values if m in METRICS and m not in TRUTH]
    return [*(score for score in RANKING if score in table.arms[0].values), *known]


Row = tuple[str, float, str, float, float, float, int, int]


def _of_means(values: Array, truth: Array, weights: NDArray[np.float32]) -> tuple[float, float, float, int, int]:
    """The rank correlation of the column means of two arrays ``[pairs, columns]``, its interval, and the numbers of
    distinct columns and of pairs. Pairs without a number in some column are left out, empty columns too."""
    defined = ~np.isnan(values) & ~np.isnan(truth)
    columns = defined.any(0)
    common = defined[:, columns].all(1)
    both = np.concatenate([values[common][:, columns], truth[common][:, columns]])
    distinct = np.sort(np.unique(both, axis=1, return_index=True)[1])
    first, second = (array[common][:, columns][:, distinct] for array in (values, truth))
    return (*spearman(first, second, weights[:, common]), len(distinct), int(common.sum()))


def changed_agreement(mended: Table, faulty: Table, protocol: str) -> pd.DataFrame:
    """The change of each ranking's agreement with the truth by another protocol, over the settings and pairs of both.

    Returns:
        A row for each ranking: the rank correlation ``without`` and ``with`` the other protocol, and their
        ``difference`` with its percentile interval over the same resamples of the pairs.
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
        without, changed = float(drawn[0][0]), float(drawn[1][0])
        rows.append((protocol, score, without, changed, changed - without, low, high, first.shape[1], len(first)))
    columns = ["protocol", "score", "without", "with", "difference", "low", "high", "settings", "pairs"]
    return pd.DataFrame(rows, columns=columns)


def within_settings(values: Array, truth: Array, weights: NDArray[np.float32]) -> tuple[float, float, float, int]:
    """The rank correlation over pairs, averaged over settings, with its interval and the number of averaged settings.

    Args:
        values: a metric, ``[pairs, settings]``.
        truth: the truth, ``[pairs, settings]``.
        weights: how often each resample holds each pair, ``[resamples, pairs]``.
    """
    each = []
    for metric, true in zip(values.T, truth.T, strict=True):
        both = ~np.isnan(metric) & ~np.isnan(true)
        x, y = (rankdata(column[both]) for column in (metric, true))
        if len(x) > 2 and np.ptp(x) > 0 and np.ptp(y) > 0:
            drawn = weights[:, both].astype(float)
            each.append(_weighted(x, y, np.vstack([np.ones(len(x)), drawn])))
    if not each:
        return np.nan, np.nan, np.nan, 0
    average = pd.DataFrame(each).mean().to_numpy(float)  # over the settings that a resample defines
    low, high = quantiles(average[None, 1:])
    return float(average[0]), float(low[0]), float(high[0]), len(each)


def _weighted(x: Array, y: Array, weights: Array) -> Array:
    """Pearson's correlation of two columns for each row of weights; NaN where a column does not vary."""
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample may have none of these pairs
        share = weights / weights.sum(1, keepdims=True)
        dx, dy = x - (share @ x)[:, None], y - (share @ y)[:, None]
        covariance, x2, y2 = ((share * product).sum(1) for product in (dx * dy, dx**2, dy**2))
        correlation: Array = np.where((x2 > ROUNDING) & (y2 > ROUNDING), covariance / np.sqrt(x2 * y2), np.nan)
    return correlation
