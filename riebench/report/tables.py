"""The tables of a run and of a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from riebench.pairs.pair import CATEGORIES
from riebench.records.schema import ALL_STEPS
from riebench.report.analysis import Analysis
from riebench.report.arms import ALL, ANY, GAIN, TRUTH, searched_for
from riebench.report.board import board_columns
from riebench.report.curves import SHOWN, Curves
from riebench.report.ranking import MARGIN, RANKINGS
from riebench.report.reached import OUTCOMES
from riebench.report.texttable import (
    DASH,
    NARROW,
    NARROWER,
    TextTable,
    interval,
    latex_table,
    markdown_table,
    markdown_text,
    number,
    p_value,
    print_table,
)
from riebench.stats.resample import too_narrow

MOST_ROWS = 40  # of comparisons in Markdown; all are in the CSV
OUTSIDE_MARK = "†"
READ, MOSTLY = "≈", 0.9
"""The mark of a score read between strengths, and the share of measured pairs below which a score has it."""


def settings_table(curves: Curves, strength: float | None = None, overall: bool = False) -> TextTable:
    """A row for each category (all of them together last) and setting: pairs attempted and scored, means of metrics.

    The rows of a method end with those at an LPIPS that was searched for, where each pair has a strength of its own.

    Args:
        curves: of a group of records.
        strength: only rows of this strength.
        overall: only rows over all categories.
    """
    rows = pd.concat([curves.curves, curves.at_lpips.assign(strength=np.nan)], ignore_index=True)
    rows = rows[rows["attempted"] > 0]
    if strength is not None:
        rows = rows[rows["strength"] == strength]
    names = [*CATEGORIES.values(), ALL]
    if len(curves.pairs.scopes) == 1:
        rows = rows.assign(category=CATEGORIES[int(curves.pairs.categories[0])])
    elif overall:
        rows = rows[rows["category"] == ALL]
    rows = rows.assign(method=[curves.arms[i].label for i in rows["arm"]])
    rows = rows.assign(blocks=[curves.arms[i].blocks for i in rows["arm"]])
    rows = rows.sort_values(["strength", "at_lpips"], kind="stable").sort_values(
        ["category", "method", "blocks", "k"],
        key=lambda c: c.map(names.index) if c.name == "category" else c,
        kind="stable",
        na_position="first",
    )
    metrics = [m for m in SHOWN if m in curves.metrics and (m != GAIN or curves.pairs.known)]
    body = []
    for row in rows.to_dict("records"):
        label = curves.arms[row["arm"]].labels[None if pd.isna(row["k"]) else row["k"]]
        counts = [str(row["attempted"]), str(row["pairs"])]
        cells = [row["category"], label, row["blocks"], _strength_cell(row), *counts]
        body.append([*cells, *(_of_setting(row, metric) for metric in metrics)])
    # With the LPIPS's own name, so that another is not mistaken for the published.
    named = [m.replace("lpips", curves.group.lpips, 1) for m in metrics]
    head = ["category", "method", "blocks", "strength", "attempted", "scored", *named]
    short = curves.block_sets if len(curves.block_sets) > 1 else {}
    title = "means over pairs [95 % bootstrap intervals]"
    if rows["at_lpips"].notna().any():
        title += "; at LPIPS: each pair at the strength that was searched for this LPIPS to the base image"
    title += too_narrow(rows["pairs"])
    optional = dict.fromkeys(TRUTH, NARROW) | {GAIN: NARROWER}
    return TextTable(title, head, body, left=3, optional=optional, short=short)


def _strength_cell(row: Mapping[Any, Any]) -> str:
    if pd.isna(row["at_lpips"]):
        return f"{row['strength']:g}"
    read = f"{READ} " if row["measured"] < MOSTLY * row["pairs"] else ""
    return f"{read}at LPIPS {row['at_lpips']:g}"


def _of_setting(row: Mapping[Any, Any], metric: str) -> str:
    """A setting's mean of a metric with its interval, and the number of its pairs where it has fewer than the row."""
    fewer = f" ({row[f'{metric}_pairs']})" if row[f"{metric}_pairs"] < row["pairs"] else ""
    return interval(*(row[f"{metric}_{end}"] for end in ("mean", "low", "high"))) + fewer


def with_interval(row: Mapping[Any, Any], name: str, pairs: bool = False) -> str:
    """A mean with its interval, and the number of its pairs on request."""
    if pd.isna(row.get(name, np.nan)):
        return f"{DASH} (0)" if pairs else DASH
    text = interval(row[name], row[f"{name}_low"], row[f"{name}_high"])
    measured = row.get(name.replace("score@", "measured@")) if name.startswith("score@") else None
    if measured is not None and measured < MOSTLY * row[f"{name}_pairs"]:
        text = f"{READ} {text}"
    return f"{text} ({row[f'{name}_pairs']})" if pairs else text


def leaderboard(analysis: Analysis) -> TextTable:
    """The board over all categories, with the score at the ranking budget."""
    at = analysis.rank_at
    titles = {}
    if at is not None:
        titles = {f"score@{at:g}": f"CLIP at {analysis.group.lpips} {at:g}"}
        titles |= {"gain": f"gain at {at:g}"} if analysis.pairs.known else {}
        titles |= {f"{analysis.value}@{at:g}": f"{analysis.value} at {at:g}"} if analysis.rank_by == MARGIN else {}
        titles |= {m: f"{m} at {at:g}" for m in TRUTH if m in analysis.board}
        held = {"gain": "held_out_gain", "score": "held_out_clip_text_edit"}
        name = held.get(analysis.value, f"held_out_{analysis.value}")
        titles[name] = f"held-out {'CLIP' if analysis.value == 'score' else analysis.value}"
    both = "rank_by_gain" in analysis.board
    head = ["rank", *(["by gain"] if both else []), "group", "method", "blocks", "scored/attempted", *titles.values()]
    rows = []
    for arm, row in zip(analysis.arms, analysis.overall.to_dict("records"), strict=True):
        cells = [
            *(DASH if pd.isna(row[name]) else str(row[name]) for name in ("rank", *(["rank_by_gain"] if both else []))),
            row["group"] if isinstance(row["group"], str) else "",
        ]
        name = f"{row['method']} {OUTSIDE_MARK}" if arm.outside else row["method"]
        cells += [name, arm.where, f"{row['scored']}/{row['attempted']}"]
        # In round brackets how many pairs, unless they are those of the score at the same budget.
        cells += [with_interval(row, name, pairs=_own_pairs(row, name, f"score@{at:g}")) for name in titles]
        rows.append([*cells, row["held_out_setting"]] if at is not None else cells)
    return TextTable("Leaderboard", [*head, "at strength"] if at is not None else head, rows, left=4 + both)


def _own_pairs(row: Mapping[Any, Any], name: str, score: str) -> bool:
    return name.startswith(("score", "held")) or row[f"{name}_pairs"] != row[f"{score}_pairs"]


def at_every_budget(analysis: Analysis) -> TextTable | None:
    """The scores at all budgets of the arms that reach one; None unless there are two budgets or more."""
    if len(analysis.budgets) < 2:
        return None
    names = [f"score@{b:g}" for b in analysis.budgets]
    rows = []
    for arm, row in zip(analysis.arms, analysis.overall.to_dict("records"), strict=True):
        if any(row[f"{name}_pairs"] for name in names):
            rows.append([row["method"], arm.where, *(with_interval(row, name, pairs=True) for name in names)])
    title = f"CLIP at every {analysis.group.lpips} budget"
    return (
        TextTable(title, ["method", "blocks", *(f"at {b:g}" for b in analysis.budgets)], rows, left=2) if rows else None
    )


def legend(analysis: Analysis) -> list[str]:
    """The meaning of the leaderboard's columns."""
    lpips, clip = analysis.group.lpips, analysis.group.clip
    lines = []
    ranked_by, gain = ("gain", "Gain is CLIP over that of the base image. ") if analysis.pairs.known else ("CLIP", "")
    if analysis.rank_by != GAIN:
        ranked_by, gain = analysis.rank_by, f"{gain}{analysis.rank_by.capitalize()}: {RANKINGS[analysis.rank_by]}. "
    if analysis.rank_at is not None:
        lines = [
            f"CLIP is clip_text_edit ({clip}; higher is better) where a pair's curve over strength first reaches that "
            f"{lpips} to the base image; nothing is extrapolated. In square brackets the 95 % bootstrap interval over "
            "pairs, in round ones the number of pairs that have the value.",
            f"{READ}: for more than {1 - MOSTLY:.0%} of its pairs the value is read between two strengths, and is not "
            f"that of a picture with this {lpips}; --at-lpips makes such pictures.",
            f"{gain}Ranked by {ranked_by} at {lpips} {analysis.rank_at:g}. Group: methods that share a letter are not "
            "told apart (paired sign-flip tests, Holm, 5 %). No rank where less than half of the pairs reach it. "
            "Scored/attempted: pairs with a score, and with a record.",
            f"Held-out: one strength (and k) for all pairs, chosen on one half of them by mean {ranked_by} within that "
            "LPIPS, reported on the other half, both ways; at strength: the two choices.",
        ]
    if any(arm.outside for arm in analysis.arms):
        lines.append(
            f"{OUTSIDE_MARK}: changes nothing inside the denoiser. Scores of pictures cannot tell it from an "
            "intervention, so its rank says nothing about representations."
        )
    if searched_for(analysis.group.frame):
        outcomes = "; ".join(f"{name}: {text.replace(';', ',')}" for name, text in OUTCOMES.items())
        lines.append(f"Pairs that were searched: {outcomes}.")
    if analysis.intervals not in ([], [ALL_STEPS]):
        lines.append("Steps: those of the denoising steps, counted from 0, in which the intervention is on.")
    together = next((arm for arm in analysis.arms if arm.where.startswith("all ")), None)
    if together:
        lines.append(f"{together.where}: {together.blocks.replace('+', ', ')} together.")
    return lines


def reached_table(analysis: Analysis) -> TextTable | None:
    """The number of pairs of each arm by outcome at each budget; None if nothing was searched."""
    reached = analysis.reached
    if reached.empty or analysis.group.frame["at_lpips"].isna().all():
        return None
    rows = []
    keys = zip(*(reached[name] for name in ("method", "blocks", "on_steps")), reached["k"].fillna(-1), strict=True)
    counts = Counter(zip(keys, reached["budget"], reached["outcome"], strict=True))
    for arm in analysis.arms:
        searched = searched_for(arm.records)
        for k in arm.ks if searched and arm.curved else ():
            key = (arm.label, arm.blocks, arm.on_steps, -1 if k is None else k)
            cells = [
                " / ".join(str(counts[key, budget, name]) for name in OUTCOMES) if budget in searched else DASH
                for budget in analysis.budgets
            ]
            where = arm.where if len(analysis.intervals) < 2 else f"{arm.where}, steps {arm.on_steps}"
            rows.append([arm.labels[k], where, *cells])
    title = f"Pairs that were searched: {' / '.join(OUTCOMES)} (each pair is in reached.csv)"
    return TextTable(title, ["method", "blocks", *(f"at {b:g}" for b in analysis.budgets)], rows, left=2)


def by_category(analysis: Analysis) -> TextTable | None:
    """Gain (or CLIP) at the ranking budget for each category; None for a single category or without budgets."""
    board = analysis.board
    scopes = [s for s in board["category"].unique() if s != ALL]
    if analysis.rank_at is None or not scopes:
        return None
    name = f"{analysis.value}@{analysis.rank_at:g}"
    means, counts = (board.pivot(index="arm", columns="category", values=v) for v in (name, f"{name}_pairs"))
    by_arm = zip(analysis.arms, means[scopes].to_numpy(), counts[scopes].to_numpy(), counts[ALL], strict=True)
    rows = []
    for arm, gains, pairs, of_all in by_arm:
        if of_all:
            cells = [f"{number(gain)} ({count})" for gain, count in zip(gains, pairs, strict=True)]
            rows.append([arm.label, arm.where, *cells])
    title = f"{analysis.value_title} at LPIPS {analysis.rank_at:g} by category (pairs that have it)"
    return TextTable(title, ["method", "blocks", *scopes], rows, left=2) if rows else None


def gain_by_steps(analysis: Analysis) -> TextTable | None:
    """Gain (or CLIP) at the ranking budget for each interval of the steps; None for a single one."""
    return _by_steps(analysis, f"{analysis.value}@{analysis.rank_at or 0:g}", analysis.value_title)


def success_by_steps(analysis: Analysis) -> TextTable | None:
    """``edit_success`` at the ranking budget for each interval of the steps; None where the truth is unknown."""
    return _by_steps(analysis, TRUTH[0], TRUTH[0])


def _by_steps(analysis: Analysis, name: str, what: str) -> TextTable | None:
    if analysis.rank_at is None or len(analysis.intervals) < 2 or name not in analysis.board:
        return None
    by_arm: dict[tuple[str, str], dict[str, str]] = {}
    for arm, row in zip(analysis.arms, analysis.overall.to_dict("records"), strict=True):
        if arm.on_steps != ANY and arm.curved:
            cells = by_arm.setdefault((arm.variant, arm.where), {})
            cells[arm.on_steps] = f"{number(row[name])} ({row[f'{name}_pairs']})"
    rows = [[*arm, *(cells.get(steps, DASH) for steps in analysis.intervals)] for arm, cells in sorted(by_arm.items())]
    title = f"{what} at LPIPS {analysis.rank_at:g} by the steps in which the intervention is on (pairs that have it)"
    return TextTable(title, ["method", "blocks", *analysis.intervals], rows, left=2) if rows else None


def against_best(analysis: Analysis) -> TextTable | None:
    """Every ranked arm against the first, over the pairs that both have."""
    comparisons = analysis.comparisons
    if comparisons.empty:
        return None
    with_first = comparisons[(comparisons["arm_a"] == 0) | (comparisons["arm_b"] == 0)].to_dict("records")[:MOST_ROWS]
    head = ["better", "than", "pairs of both", "difference", "p (Holm)", "told apart", "mean gap over the common range"]
    rows = [
        [
            row["a"],
            row["b"],
            str(row["pairs"]),
            interval(row["difference"], row["low"], row["high"]),
            p_value(row["p_holm"]),
            "yes" if row["told_apart"] else "no",
            f"{number(row['mean_gap'])} ({row['area_pairs']})",
        ]
        for row in with_first
    ]
    more = f"; all {len(comparisons)} comparisons are in comparisons.csv" if len(comparisons) > len(rows) else ""
    return TextTable(f"Against the first at LPIPS {analysis.rank_at:g}{more}", head, rows, left=2)


def agreement_table(analysis: Analysis) -> TextTable | None:
    """The rank correlations with the truth."""
    if analysis.truth.empty:
        return None
    rows = [
        [
            f"{row['metric']} and {row['truth']}",
            interval(row["correlation"], row["low"], row["high"], 2),
            str(row["settings"]),
            str(row["pairs"]),
        ]
        for row in analysis.truth.to_dict("records")
    ]
    return TextTable(
        "Do the scores agree with the truth? Spearman's rank correlation over settings",
        ["mean over pairs of", "correlation", "settings", "pairs"],
        rows,
    )


def failures_table(analysis: Analysis) -> TextTable | None:
    """The reasons of failed records."""
    failures = analysis.failures
    if failures.empty:
        return None
    groups = failures.groupby(["reason", "where"], sort=False)
    grouped = groups.agg(records=("records", "sum"), methods=("method", "nunique")).reset_index()
    rows = [[str(row[c]) for c in ("reason", "where", "records", "methods")] for row in grouped.to_dict("records")]
    return TextTable("Failures", ["reason", "stage", "records", "methods"], rows[:MOST_ROWS], left=2)


def tables_of(analysis: Analysis) -> list[TextTable]:
    """All tables of a report, the leaderboard first."""
    makers = (
        at_every_budget,
        reached_table,
        by_category,
        gain_by_steps,
        success_by_steps,
        against_best,
        agreement_table,
        failures_table,
    )
    tables = [make(analysis) for make in makers]
    return [leaderboard(analysis), *(table for table in tables if table is not None)]


def print_leaderboard(analysis: Analysis, console: Console) -> None:
    """Show the board in the terminal, without the columns that do not fit."""
    table = leaderboard(analysis)
    left_out = ["at strength"]
    left_out += [*TRUTH] if console.width < 140 else []
    left_out += ["held-out", "scored/"] if console.width < 100 else []
    shown = [i for i, name in enumerate(table.head) if i > 1 and not name.startswith(tuple(left_out))]
    head = ["", *(table.head[i].replace(" at ", "\nat ").replace("/", "/\n") for i in shown)]
    rows = [[f"{row[0]} {row[1]}", *(row[i] for i in shown)] for row in table.rows]
    print_table(TextTable("", head, rows, left=1 + sum(i < table.left for i in shown)), console)
    for note in analysis.notes:
        console.print(f"note: {note}", markup=False, highlight=False)


def markdown(analysis: Analysis) -> str:
    """The whole report in Markdown."""
    same = analysis.group.headline
    parts = [f"# Leaderboard\n\n{len(analysis.pairs.ids)} pairs; {same}.\n"]
    for table in tables_of(analysis):
        if table.title != "Leaderboard":
            parts.append(f"## {table.title}\n")
        parts.append(markdown_table(table))
        if table.title == "Leaderboard":
            parts += [text + "\n" for text in legend(analysis)]
            if analysis.notes:
                parts.append("Notes:\n\n" + "\n".join(f"- {markdown_text(note)}" for note in analysis.notes) + "\n")
    parts.append("## Runs\n\n" + "\n".join(f"- {markdown_text(line)}" for line in provenance(analysis)) + "\n")
    return "\n".join(parts)


def provenance(analysis: Analysis) -> list[str]:
    """The origin of the records, a line for each run."""
    lines = []
    for name, source in analysis.group.sources.items():
        info = source.info
        if not info:
            lines.append(f"{name}: run.json is missing or damaged")
            continue
        code = info.get("code") or {}
        command = info.get("command") or []
        words = " ".join([Path(str(command[0])).name, *map(str, command[1:])]) if command else "unknown command"
        parts = [f"{name}: {words}", f"riebench {code.get('riebench')}", f"commit {code.get('commit')}"]
        if code.get("dirty"):
            parts.append("with changes")
        parts += [f"torch {code.get('torch')}"]
        parts += [f"{info['seconds']} s" if "seconds" in info else "not finished"]
        lines.append(", ".join(parts))
    return lines


def latex(analysis: Analysis) -> str:
    """The leaderboard in LaTeX."""
    table = leaderboard(analysis)
    shown = [i for i, name in enumerate(table.head) if name != "at strength"]
    return latex_table(table.only(shown), analysis.group.headline)


def board_csv(analysis: Analysis) -> pd.DataFrame:
    """The leaderboard with the columns of :func:`~riebench.report.board.board_columns`."""
    columns = board_columns(analysis.budgets, analysis.metrics, analysis.rank_by)
    return analysis.board[[c for c in columns if c in analysis.board]]
