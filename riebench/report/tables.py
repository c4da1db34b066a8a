"""An analysis as text: leaderboards for the terminal, Markdown, CSV, LaTeX and HTML."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from riebench.report.analysis import Analysis
from riebench.report.board import ALL, board_columns

DASH = "–"
MOST_ROWS = 40  # of comparisons in Markdown; all are in the CSV


@dataclass(frozen=True)
class Sheet:
    """A table of text: its title, headings and rows; ``left`` is the number of columns that are words."""

    title: str
    head: list[str]
    rows: list[list[str]]
    left: int = 1


def number(value: Any, digits: int = 3) -> str:
    """A number as text, a dash where it is undefined."""
    if value is None or pd.isna(value):
        return DASH
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def interval(mean: Any, low: Any, high: Any, digits: int = 3) -> str:
    """A mean with its interval, or alone where it has none."""
    text = number(mean, digits)
    return text if pd.isna(low) else f"{text} [{number(low, digits)}, {number(high, digits)}]"


def with_interval(row: Mapping[Any, Any], name: str, pairs: bool = False) -> str:
    """A mean with its interval, and the number of its pairs where that is asked for."""
    if pd.isna(row.get(name, np.nan)):
        return f"{DASH} (0)" if pairs else DASH
    text = interval(row[name], row[f"{name}_low"], row[f"{name}_high"])
    return f"{text} ({row[f'{name}_pairs']})" if pairs else text


def p_value(p: float) -> str:
    """A p-value as text."""
    if pd.isna(p):
        return DASH
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def leaderboard(analysis: Analysis) -> Sheet:
    """The board over all categories, with the score at the ranking budget."""
    at = analysis.rank_at
    titles = {}
    if at is not None:
        titles = {f"score@{at:g}": f"CLIP at {analysis.group.metric_name('lpips')} {at:g}"}
        titles |= {"gain": f"gain at {at:g}"} if analysis.pairs.known else {}
        titles |= {m: f"{m} at {at:g}" for m in ("edit_success", "kept") if m in analysis.board}
        titles |= (
            {"held_out_gain": "held-out gain"} if analysis.pairs.known else {"held_out_clip_text_edit": "held-out CLIP"}
        )
    head = ["rank", "group", "method", "blocks", "scored/attempted", *titles.values()]
    rows = []
    for arm, row in zip(analysis.arms, analysis.overall.to_dict("records"), strict=True):
        cells = [
            DASH if pd.isna(row["rank"]) else str(row["rank"]),
            row["group"] if isinstance(row["group"], str) else "",
        ]
        cells += [row["method"], arm.where, f"{row['scored']}/{row['attempted']}"]
        # In round brackets how many pairs, unless they are those of the score at the same budget.
        cells += [with_interval(row, name, pairs=_own_pairs(row, name, f"score@{at:g}")) for name in titles]
        rows.append([*cells, row["held_out_setting"]] if at is not None else cells)
    return Sheet("Leaderboard", [*head, "at strength"] if at is not None else head, rows, left=4)


def _own_pairs(row: Mapping[Any, Any], name: str, score: str) -> bool:
    return name.startswith(("score", "held")) or row[f"{name}_pairs"] != row[f"{score}_pairs"]


def at_every_budget(analysis: Analysis) -> Sheet | None:
    """The scores at all budgets of the arms that reach one; None where there is one budget or none."""
    if len(analysis.budgets) < 2:
        return None
    names = [f"score@{b:g}" for b in analysis.budgets]
    rows = []
    for arm, row in zip(analysis.arms, analysis.overall.to_dict("records"), strict=True):
        if any(row[f"{name}_pairs"] for name in names):
            rows.append([row["method"], arm.where, *(with_interval(row, name, pairs=True) for name in names)])
    title = f"CLIP at every {analysis.group.metric_name('lpips')} budget"
    return Sheet(title, ["method", "blocks", *(f"at {b:g}" for b in analysis.budgets)], rows, left=2) if rows else None


def legend(analysis: Analysis) -> list[str]:
    """What the columns of the leaderboard mean."""
    lpips, clip = analysis.group.metric_name("lpips"), analysis.group.metric_name("clip")
    said = []
    ranked_by, gain = ("gain", "Gain is CLIP over that of the base image. ") if analysis.pairs.known else ("CLIP", "")
    if analysis.rank_at is not None:
        said = [
            f"CLIP is clip_text_edit ({clip}; higher is better) where a pair's curve over strength first reaches that "
            f"{lpips} to the base image; nothing is extrapolated. In square brackets the 95 % bootstrap interval over "
            "pairs, in round ones the number of pairs that have the value.",
            f"{gain}Ranked by {ranked_by} at {lpips} {analysis.rank_at:g}; methods "
            "that share a letter are not told apart (paired sign-flip tests, Holm, 5 %). No rank where less than half "
            "of the pairs reach it.",
            f"Held-out: strength (and k) chosen on one half of the pairs by mean {ranked_by} within that LPIPS, "
            "reported on the other half, both ways; at strength: the two choices.",
        ]
    together = next((arm for arm in analysis.arms if arm.where.startswith("all ")), None)
    if together:
        said.append(f"{together.where}: {together.blocks.replace('+', ', ')} together.")
    return said


def by_category(analysis: Analysis) -> Sheet | None:
    """Gain (or CLIP) at the ranking budget for each category; None where there is one category, or no budget."""
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
    what = "Gain" if analysis.pairs.known else "CLIP"
    title = f"{what} at LPIPS {analysis.rank_at:g} by category (pairs that have it)"
    return Sheet(title, ["method", "blocks", *scopes], rows, left=2) if rows else None


def against_best(analysis: Analysis) -> Sheet | None:
    """Every ranked arm against the first, over the pairs that both have."""
    found = analysis.comparisons
    if found.empty:
        return None
    mine = found[(found["arm_a"] == 0) | (found["arm_b"] == 0)].to_dict("records")[:MOST_ROWS]
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
        for row in mine
    ]
    more = f"; all {len(found)} comparisons are in comparisons.csv" if len(found) > len(rows) else ""
    return Sheet(f"Against the first at LPIPS {analysis.rank_at:g}{more}", head, rows, left=2)


def agreement_sheet(analysis: Analysis) -> Sheet | None:
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
    return Sheet(
        "Do the scores agree with the truth? Spearman's rank correlation over settings",
        ["mean over pairs of", "correlation", "settings", "pairs"],
        rows,
    )


def failures_sheet(analysis: Analysis) -> Sheet | None:
    """Why records failed."""
    found = analysis.failures
    if found.empty:
        return None
    groups = found.groupby(["reason", "where"], sort=False)
    grouped = groups.agg(records=("records", "sum"), methods=("method", "nunique")).reset_index()
    rows = [[str(row[c]) for c in ("reason", "where", "records", "methods")] for row in grouped.to_dict("records")]
    return Sheet("Failures", ["reason", "stage", "records", "methods"], rows[:MOST_ROWS], left=2)


def sheets(analysis: Analysis) -> list[Sheet]:
    """All tables of a report, the leaderboard first."""
    makers = (at_every_budget, by_category, against_best, agreement_sheet, failures_sheet)
    found = [make(analysis) for make in makers]
    return [leaderboard(analysis), *(sheet for sheet in found if sheet is not None)]


def print_leaderboard(analysis: Analysis, console: Console) -> None:
    """Show the board in the terminal, without the columns that it is too narrow for."""
    sheet = leaderboard(analysis)
    left_out = ["at strength"]
    left_out += ["edit_success", "kept"] if console.width < 140 else []
    left_out += ["held-out", "scored/"] if console.width < 100 else []
    shown = [i for i, name in enumerate(sheet.head) if i > 1 and not name.startswith(tuple(left_out))]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for i in shown:
        head = sheet.head[i].replace(" at ", "\nat ").replace("/", "/\n")
        table.add_column(head, justify="left" if i < sheet.left else "right", no_wrap=True)
    for row in sheet.rows:
        table.add_row(f"{row[0]} {row[1]}", *[_plain(_compact(row[i])) for i in shown])
    console.print(table)
    for note in analysis.notes:
        console.print(f"note: {note}", markup=False, highlight=False)


def print_sheet(sheet: Sheet, console: Console) -> None:
    """Show any table in the terminal."""
    title = _plain(sheet.title)
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i, name in enumerate(sheet.head):
        table.add_column(_plain(name), justify="left" if i < sheet.left else "right")
    for row in sheet.rows:
        table.add_row(*[_plain(_compact(cell)) for cell in row])
    console.print(table)


def _compact(text: str) -> str:
    """A cell without the zeros before the points of its interval."""
    return re.sub(r"\[[-0-9., ]*\]", lambda found: found[0].replace("0.", "."), text)


def _plain(text: str) -> str:
    """Text that rich prints as it is, without control characters of a stranger's name."""
    from rich.markup import escape

    return escape("".join(c if c.isprintable() else "?" for c in text))


def markdown_table(sheet: Sheet) -> str:
    """A table in Markdown."""
    marks = ["---" if i < sheet.left else "---:" for i in range(len(sheet.head))]
    lines = [sheet.head, marks, *sheet.rows]
    return "\n".join("| " + " | ".join(map(_markdown, line)) + " |" for line in lines) + "\n"


def _markdown(text: str) -> str:
    """Text that is text in Markdown, too."""
    flat = " ".join(text.split())
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", flat) if re.search(r"[\\`*|<>]", flat) else flat


def markdown(analysis: Analysis) -> str:
    """The whole report in Markdown."""
    same = analysis.group.headline
    parts = [f"# Leaderboard\n\n{len(analysis.pairs.ids)} pairs; {same}.\n"]
    for sheet in sheets(analysis):
        if sheet.title != "Leaderboard":
            parts.append(f"## {sheet.title}\n")
        parts.append(markdown_table(sheet))
        if sheet.title == "Leaderboard":
            parts += [text + "\n" for text in legend(analysis)]
            if analysis.notes:
                parts.append("Notes:\n\n" + "\n".join(f"- {_markdown(note)}" for note in analysis.notes) + "\n")
    parts.append("## Runs\n\n" + "\n".join(f"- {_markdown(line)}" for line in provenance(analysis)) + "\n")
    return "\n".join(parts)


def provenance(analysis: Analysis) -> list[str]:
    """Where the records come from, a line for each run."""
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


TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
}


def tex_text(text: str) -> str:
    """Text as LaTeX prints it; what plain LaTeX has no letter for becomes a question mark."""
    return "".join(TEX.get(c, c if c.isascii() and c.isprintable() else "?") for c in text)


def latex(analysis: Analysis) -> str:
    """The leaderboard as a ``tabular`` of booktabs, to be input where ``\\usepackage{booktabs}`` is."""
    sheet = leaderboard(analysis)
    shown = [i for i, name in enumerate(sheet.head) if name != "at strength"]
    columns = "".join("l" if i < sheet.left else "r" for i in shown)

    def line(cells: Sequence[str]) -> str:
        return " & ".join(cells[i] for i in shown) + r" \\"

    title = analysis.group.headline
    lines = [
        f"% riebench: {' '.join(title.split())}",
        "% Needs \\usepackage{booktabs}. In square brackets 95 % intervals over pairs, in round ones numbers of pairs.",
        r"{\footnotesize\setlength{\tabcolsep}{4pt}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        line([tex_text(h) for h in sheet.head]),
        r"\midrule",
        *(line([_small(tex_text(_compact(cell))) for cell in row]) for row in sheet.rows),
        r"\bottomrule",
        r"\end{tabular}}",
    ]
    return "\n".join(lines) + "\n"


def _small(text: str) -> str:
    """A cell with its interval in smaller type; braces keep a bracket from being an argument of the line before."""
    return re.sub(r" (\[[-0-9., ]*\])", r" {\\scriptsize \1}", text)


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """A frame as CSV, undefined values empty, numbers to nine digits."""
    frame.to_csv(path, index=False, float_format="%.9g")


def board_csv(analysis: Analysis) -> pd.DataFrame:
    """The leaderboard with the columns of :func:`~riebench.report.board.board_columns`."""
    return analysis.board[[c for c in board_columns(analysis.budgets) if c in analysis.board]]
