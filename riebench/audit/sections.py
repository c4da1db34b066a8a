"""The sections of an audit: what each part is, its tables, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from riebench.audit.explained import SAYS, TITLES
from riebench.audit.findings import FAULTS, GAMING, NOISE, POWER, SAME_MASK, TRUTH, Findings
from riebench.audit.truth import METHODS, SETTINGS, WITHIN
from riebench.audit.verdicts import RULES, best_agreement, count_of, metric_verdicts, ranking_verdicts
from riebench.report.texttable import TextTable, interval, number


@dataclass(frozen=True)
class Section:
    """A section of the text and of the page.

    Attributes:
        title: its heading.
        paragraphs: text above the tables.
        tables: of the section.
        points: what follows, a point each.
        figure: file name of its figure; empty without one.
        caption: of the figure.
    """

    title: str
    paragraphs: list[str] = field(default_factory=list)
    tables: list[TextTable] = field(default_factory=list)
    points: list[str] = field(default_factory=list)
    figure: str = ""
    caption: str = ""


def sections(found: Findings, figures: dict[str, str]) -> list[Section]:
    """A section for each part, and the verdicts. ``figures``: part to file name."""
    tables = {NOISE: _noise, POWER: _power, TRUTH: _truth, GAMING: _gaming, SAME_MASK: _same_mask, FAULTS: _faults}
    made = []
    for part, title in TITLES.items():
        if part in found.left_out:
            made.append(Section(title, [f"Left out: {found.left_out[part]}."]))
            continue
        points = best_agreement(found) if part == TRUTH else []
        figure = figures.get(part, "")
        made.append(Section(title, [SAYS[part]], tables[part](found), points, figure, title))
    return [*_verdicts(found), *made]


def _verdicts(found: Findings) -> list[Section]:
    rankings = [Section(f"Verdict: ranking by {name}", points=said) for name, said in ranking_verdicts(found).items()]
    rules = Section("Verdicts", ["The verdicts follow from the numbers below by these rules."], points=list(RULES))
    metrics = metric_verdicts(found)
    if metrics.empty:
        return [rules, *rankings]
    levels = [SETTINGS, METHODS, WITHIN]
    rows = [[str(r["metric"]), *(number(r[level], 2) for level in levels), r["verdict"]] for r in _rows(metrics)]
    head = ["metric", "over settings", f"over methods at LPIPS {found.budget:g}", "over pairs", "verdict"]
    return [
        rules,
        *rankings,
        Section("Verdict: each metric", tables=[TextTable("Verdict for each metric", head, rows)]),
    ]


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _cells(row: dict[str, Any], columns: Sequence[str], digits: int = 3) -> list[str]:
    return [number(row[column], digits) for column in columns]


def _noise(found: Findings) -> list[TextTable]:
    columns = ["sd_seeds", "standard_error", "ratio"]
    each = [[r["score"], r["arm"], *_cells(r, ["mean", *columns])] for r in _rows(found.frames["noise"])]
    pooled = [[r["score"], str(r["arms"]), *_cells(r, columns)] for r in _rows(found.frames["noise-pooled"])]
    shares = ["turned", "told_apart", "told_apart_turned"]
    turned = [[r["score"], *_cells(r, shares)] for r in _rows(found.frames["order-turns-by-score"])]
    spread = ["SD between seeds", "standard error", "ratio"]
    heads = ["turned round", "told apart in one run", "turned round, of those"]
    return [
        TextTable("Pooled over arms", ["score", "arms", *spread], pooled),
        TextTable("Orders of two arms, as shares of all", ["score", *heads], turned),
        TextTable("Each arm", ["score", "arm", "mean", *spread], each, left=2),
    ]


def _power(found: Findings) -> list[TextTable]:
    apart = [
        [r["score"], str(r["pairs"]), interval(r["share"], r["low"], r["high"], 2), str(r["arms"])]
        for r in _rows(found.frames["told-apart"])
    ]
    needed = [
        [
            r["score"],
            f"{r['effect']:g}",
            *(count_of(r[name]) for name in ("least", "median", "most")),
            str(r["comparisons"]),
        ]
        for r in _rows(found.frames["pairs-needed"])
    ]
    return [
        TextTable("Told apart", ["score", "pairs", "share told apart", "arms"], apart),
        TextTable("Pairs needed", ["score", "difference", "fewest", "median", "most", "comparisons"], needed),
    ]


def _truth(found: Findings) -> list[TextTable]:
    return [_metrics_by_level(found), *_rankings_by_protocol(found)]


def _metrics_by_level(found: Findings) -> TextTable:
    """Every metric: a column for each level and budget."""
    truth = found.frames["truth"]
    columns = truth[["level", "budget"]].drop_duplicates()
    head, cells = ["metric"], {metric: [str(metric)] for metric in dict.fromkeys(truth["metric"])}
    for level, budget in columns.itertuples(index=False):
        part = truth[
            (truth["level"] == level) & (truth["budget"].isna() if pd.isna(budget) else truth["budget"] == budget)
        ]
        head.append(f"over {level}" + ("" if pd.isna(budget) else f" at {budget:g}"))
        for row in _rows(part):
            cells[row["metric"]].append(interval(row["correlation"], row["low"], row["high"], 2))
    return TextTable("Rank correlation with the truth", head, list(cells.values()))


def _rankings_by_protocol(found: Findings) -> list[TextTable]:
    if "truth-by-protocol" not in found.frames:
        return []
    rows = [
        [r["protocol"], r["score"], number(r["without"]), number(r["with"]),
         interval(r["difference"], r["low"], r["high"]), str(r["settings"]), str(r["pairs"])]
        for r in _rows(found.frames["truth-by-protocol"])
    ]  # fmt: skip
    head = ["protocol", "ranking", "without", "with", "difference", "settings", "pairs"]
    return [TextTable("Rank correlation over settings with other protocols", head, rows, left=2)]


def _gaming(found: Findings) -> list[TextTable]:
    names = [str(name) for name in found.frames["scores"] if name != "arm"]
    scores = [[r["arm"], *_cells(r, names)] for r in _rows(found.frames["scores"])]
    games = [
        [r["score"], r["game"], number(r["mean"]), f"{r['best']} {number(r['best_mean'])}",
         interval(r["difference"], r["low"], r["high"]), str(r["pairs"]), number(r["wins"], 2), r["stands"]]
        for r in _rows(found.frames["gaming"])
    ]  # fmt: skip
    head = ["score", "picture", "mean", "best intervention", "difference", "pairs", "wins", "stands"]
    return [
        TextTable(f"Scores at LPIPS {found.budget:g}; of none and prompt, their one picture", ["arm", *names], scores),
        TextTable("Beside the best intervention", head, games, left=2),
    ]


def _same_mask(found: Findings) -> list[TextTable]:
    arms = [
        [r["score"], r["arm"], str(r["pairs"]), *_cells(r, ["before", "after"]),
         interval(r["change"], r["change_low"], r["change_high"])]
        for r in _rows(found.frames["same-mask-arms"])
    ]  # fmt: skip
    two = [
        [r["score"], r["a"], r["b"], str(r["pairs"]),
         *(interval(r[name], r[f"{name}_low"], r[f"{name}_high"]) for name in ("before", "after", "gone")),
         " / ".join("yes" if r[name] else "no" for name in ("apart_before", "apart_after"))]
        for r in _rows(found.frames["same-mask"])
    ]  # fmt: skip
    return [
        TextTable(
            "Differences of two interventions",
            ["score", "a", "b", "pairs", "before", "left", "gone", "told apart before / after"],
            two,
            left=3,
        ),
        TextTable("Each arm", ["score", "arm", "pairs", "before", "after", "change"], arms, left=2),
    ]


def _faults(found: Findings) -> list[TextTable]:
    summary = [
        [r["protocol"], r["score"], str(r["settings"]), number(r["rank_correlation"]), str(r["changed"]),
         number(r["largest_change"]), r["in_setting"]]
        for r in _rows(found.frames["faults-summary"])
    ]  # fmt: skip
    head = ["protocol", "score", "settings", "rank correlation", "settings changed", "largest change", "in"]
    lost = found.frames["lost-pairs"]
    names = [str(name) for name in lost]
    return [
        TextTable("Ranking with a fault and without", head, summary, left=2),
        TextTable("Pairs that vanish", [n.replace("_", " ") for n in names], lost.astype(str).to_numpy().tolist()),
    ]
