"""Same mask: the differences between methods that remain if all may change pixels only inside the pair's masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd

from riebench.audit.evidence import RANKING, SCORES, Subject, Table, compared
from riebench.audit.part import AROUND, CSV, ROW, WIDTH, LeftOut, Part, cells, compare_arms, rows_of
from riebench.report.arms import BASE
from riebench.report.scores import matched
from riebench.report.style import colour
from riebench.report.texttable import TextTable, interval
from riebench.settings.lpips_search import LPIPS, WITHIN
from riebench.stats.resample import Bootstrap
from riebench.util.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEFT_COLUMNS = ["score", "a", "b", "pairs", "before", "before_low", "before_high", "after", "after_low", "after_high"]
Values = Mapping[str, pd.DataFrame]
"""Score to its values, a frame of pairs x arms."""


@dataclass(frozen=True)
class SameMask(Part):
    """See the module.

    Attributes:
        differences: see :func:`differences_left`.
        arms: see :func:`arms_before_and_after`.
        families: name of each audited arm to its method, which determines its colour.
        budget: LPIPS of the pictures.
    """

    name = "same mask"
    title = "The same mask for all"
    explanation = (
        "The pictures at the LPIPS budget get the base picture's pixels outside the pair's masks and are scored "
        "again. What is left of a difference between two methods comes from inside the masks; what is gone came from "
        "outside. Intervals: bootstrap over pairs, with the same resamples before and after. The composites have a "
        "lower LPIPS."
    )
    rules = (
        "Differences under the same mask: of the differences that the sign-flip test tells apart before (Holm over "
        "all comparisons), the number that it tells apart after, in the same direction.",
    )
    figure_file = "same-mask.png"

    differences: pd.DataFrame = field(metadata={CSV: "same-mask"})
    arms: pd.DataFrame = field(metadata={CSV: "same-mask-arms"})
    families: Mapping[str, str]
    budget: float
    notes: Sequence[str] = ()

    @classmethod
    def measure(cls, subject: Subject) -> Self:
        """Score the composites of the pictures that the runs keep."""
        table = subject.table
        composites, notes = _composites(subject)
        before, after = before_and_after(table, composites)
        categories = dict(zip(table.pairs.ids, table.pairs.categories.tolist(), strict=True))
        arms = [arm for arm in table.interventions if arm in compared(subject.values[table.scores[0]])]
        return cls(
            differences_left(before, after, arms, categories),
            arms_before_and_after(before, after, categories),
            dict(zip(table.names, (arm.family for arm in table.arms), strict=True)),
            subject.budget,
            notes,
        )

    def tables(self) -> list[TextTable]:
        """Each two interventions, and each arm."""
        arms = [
            [r["score"], r["arm"], str(r["pairs"]), *cells(r, ["before", "after"]),
             interval(r["change"], r["change_low"], r["change_high"])]
            for r in rows_of(self.arms)
        ]  # fmt: skip
        two = [
            [r["score"], r["a"], r["b"], str(r["pairs"]),
             *(interval(r[name], r[f"{name}_low"], r[f"{name}_high"]) for name in ("before", "after", "gone")),
             " / ".join("yes" if r[name] else "no" for name in ("apart_before", "apart_after"))]
            for r in rows_of(self.differences)
        ]  # fmt: skip
        head = ["score", "a", "b", "pairs", "before", "left", "gone", "told apart before / after"]
        return [
            TextTable("Differences of two interventions", head, two, left=3),
            TextTable("Each arm", ["score", "arm", "pairs", "before", "after", "change"], arms, left=2),
        ]

    def figure(self) -> Figure:
        """The mean of each arm with the original pictures and with their composites."""
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        table = self.arms
        scores = [score for score in RANKING if score in set(table["score"])]
        arms = [name for name in self.families if name in set(table["arm"])]
        figure = Figure(figsize=(WIDTH, AROUND + ROW * len(arms)), layout="constrained")
        panels = figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]
        for axes, score in zip(panels, scores, strict=True):
            part = table[table["score"] == score].set_index("arm").reindex(arms)
            for place, (arm, row) in enumerate(part.iterrows()):
                tone = colour(self.families[str(arm)])
                axes.plot([row["before"], row["after"]], [place, place], color=tone, linewidth=1.2)
                axes.plot(row["before"], place, "o", color="white", markeredgecolor=tone, markersize=5)
                axes.plot(row["after"], place, "o", color=tone, markersize=4)
            axes.set_xlabel(score)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.axvline(0, color="#404040", linewidth=0.6)
        panels[0].set_yticks(range(len(arms)), arms)
        panels[0].set_ylim(len(arms) - 0.5, -0.5)
        legend = f"open: as made, at LPIPS {self.budget:g}; filled: the base picture outside the masks"
        figure.supxlabel(legend, fontsize=8)
        return figure

    def verdict(self, ranking: str) -> list[str]:
        """The number of differences between interventions that remain."""
        rows = self.differences
        rows = rows[(rows["score"] == ranking) & rows["apart_before"]]
        if rows.empty:
            return ["No two interventions are told apart on the kept pictures, even without the same mask."]
        left = int((rows["apart_after"] & (rows["after"] > 0)).sum())
        share = (rows["after"] / rows["before"]).median()
        return [
            f"Under the same mask, {left} of {len(rows)} differences between interventions that were told apart still "
            f"are; the median one keeps {share:.0%} of its size."
        ]


def _composites(subject: Subject) -> tuple[pd.DataFrame, list[str]]:
    """The scored composites of all audited runs that keep pictures, and notes on missing files.

    Raises:
        LeftOut: if no run keeps a picture at the budget, or the pictures cannot be scored.
    """
    from riebench.audit.composites import score_composites

    sources = subject.evidence.audited.sources.values()
    folders = [source.path for source in sources if (source.path / "images").is_dir()]
    if not folders:
        raise LeftOut("no run folder keeps pictures; make one with 'riebench run --keep-images N'")
    at = f"at LPIPS {subject.budget:g}"
    chosen = pictures_at(subject.table, subject.budget)
    try:
        scored, missing = zip(*(score_composites(folder, chosen) for folder in folders), strict=True)
    except UserError as error:
        raise LeftOut(str(error)) from None
    composites = pd.concat(scored, ignore_index=True)
    if composites.empty:
        raise LeftOut(f"no picture {at} is kept; 'riebench run --at-lpips' makes them")
    if not sum(missing):
        return composites, []
    of = f"{len(composites)} of {len(chosen)} pictures {at} are compared"
    return composites, [f"{SameMask.name}: {sum(missing)} picture files are missing; {of}"]


def pictures_at(table: Table, budget: float) -> pd.DataFrame:
    """The picture of each arm and pair at an LPIPS budget: the one of least strength within 5 % of the budget, with the
    k of the report's score.

    Pairs without such a picture are left out, and so are arms with a single picture (``prompt``, ``none``).

    Returns:
        A row for each picture; columns key (of its record), pair_id, arm.
    """
    parts = []
    for name, arm in zip(table.names, table.arms, strict=True):
        k_of_half = np.array([np.nan if k[0] is None else k[0] for k in matched(arm, table.pairs, [budget]).k])
        k_of_pair = dict(zip(table.pairs.ids, k_of_half[table.pairs.half].tolist(), strict=True))
        rows = arm.records
        rows = rows[rows["k"].fillna(-1) == rows["pair_id"].map(k_of_pair).fillna(-1)]
        near = rows[arm.curved & ((rows[LPIPS] - budget).abs() <= WITHIN * budget) & (rows["strength"] > 0)]
        first = near.sort_values("strength").drop_duplicates("pair_id")
        parts.append(first.assign(arm=name)[["key", "pair_id", "arm"]])
    return pd.concat(parts, ignore_index=True)


def before_and_after(table: Table, composites: pd.DataFrame) -> tuple[Values, Values]:
    """The scores of the original pictures, and those of their composites.

    Args:
        table: the audited arms.
        composites: the scored composites: columns key, pair_id, arm, and the metrics.
    """
    records = pd.concat([arm.records for arm in table.arms]).drop_duplicates("key").set_index("key")
    taken = composites[["key", "pair_id", "arm"]]
    before = taken.join(records.drop(columns=["pair_id"]), on="key")
    after = composites.assign(
        margin=composites["clip_text_edit"] - composites["clip_text_original"],
        gain=composites["clip_text_edit"] - before[BASE],
    )
    names = [name for name in (*SCORES, LPIPS) if name in before and name in after]
    return _pivoted(before, names), _pivoted(after, names)


def _pivoted(frame: pd.DataFrame, names: Sequence[str]) -> Values:
    return {name: frame.pivot(index="pair_id", columns="arm", values=name) for name in names}


def arms_before_and_after(before: Values, after: Values, categories: Mapping[str, int]) -> pd.DataFrame:
    """The mean of each arm and score before and after, and the change with its bootstrap interval over pairs.

    Args:
        before: scores of the original pictures.
        after: scores of their composites.
        categories: pair id to category.
    """
    rows = []
    for score, frame in before.items():
        change = after[score] - frame
        means = Bootstrap([categories[pair] for pair in frame.index]).means(change.to_numpy(float))
        for i, arm in enumerate(frame):
            ends = (means.mean[i], means.low[i], means.high[i])
            rows.append((score, arm, int(means.count[i]), frame[arm].mean(), after[score][arm].mean(), *ends))
    columns = ["score", "arm", "pairs", "before", "after", "change", "change_low", "change_high"]
    return pd.DataFrame(rows, columns=columns)


def differences_left(before: Values, after: Values, arms: Sequence[str], categories: Mapping[str, int]) -> pd.DataFrame:
    """The mean paired difference of each two arms before and after, with bootstrap intervals over the same resamples.

    ``a`` is the arm that is better before. ``apart_before`` and ``apart_after`` say whether the paired sign-flip test
    tells the two apart (Holm over all two arms of a score, 5 %). ``after`` comes from pixels inside the masks; ``gone``
    is ``before - after``, which came from pixels outside. Composites have a lower LPIPS than the original pictures, the
    more so the more an arm changed outside the masks.
    """
    rows = []
    for score in (score for score in SCORES if score in before):
        frame = before[score]
        boot = Bootstrap([categories[pair] for pair in frame.index])
        known = [arm for arm in arms if arm in frame]
        apart = [compare_arms(values[score][known])["told_apart"] for values in (before, after)]
        for number, (a, b) in enumerate(combinations(known, 2)):
            if (frame[a] - frame[b]).mean() < 0:
                a, b = b, a  # noqa: PLW2901
            first, second = (values[score][a] - values[score][b] for values in (before, after))
            means = boot.means(np.stack([first, second, first - second], 1).astype(float))
            if means.count[0]:
                ends = [end for i in range(3) for end in (means.mean[i], means.low[i], means.high[i])]
                told = (bool(scored[number]) for scored in apart)
                rows.append((score, a, b, int(means.count[0]), *ends, *told))
    columns = [*LEFT_COLUMNS, "gone", "gone_low", "gone_high", "apart_before", "apart_after"]
    return pd.DataFrame(rows, columns=columns)
