"""Tables of text, and how they are written in the terminal, Markdown, LaTeX and CSV."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

DASH = "–"
NARROW, NARROWER = 165, 125  # columns of a terminal that leaves out some of a table's columns, and more of them
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
    "≈": r"$\approx$",
    "†": r"\dag{}",
}


@dataclass(frozen=True)
class TextTable:
    """A table of text.

    Attributes:
        title: what it shows.
        head: a heading for each column.
        rows: cells.
        left: number of columns that are words; they come first.
        optional: headings of columns that a terminal leaves out, with the width below which it does.
        short: shorter words for cells in the terminal.
    """

    title: str
    head: list[str]
    rows: list[list[str]]
    left: int = 1
    optional: Mapping[str, int] = field(default_factory=dict)
    short: Mapping[str, str] = field(default_factory=dict)

    def only(self, columns: Sequence[int]) -> TextTable:
        """The table with some of its columns alone."""
        rows = [[row[i] for i in columns] for row in self.rows]
        return TextTable(self.title, [self.head[i] for i in columns], rows, sum(i < self.left for i in columns))


def number(value: Any, digits: int = 3) -> str:
    """A number as text, a dash if it is undefined."""
    if value is None or pd.isna(value):
        return DASH
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def interval(mean: Any, low: Any, high: Any, digits: int = 3) -> str:
    """A mean with its interval, or alone if it has none."""
    text = number(mean, digits)
    return text if pd.isna(low) else f"{text} [{number(low, digits)}, {number(high, digits)}]"


def digits_of(values: pd.Series) -> int:
    """The decimals that numbers need: three, or more where three would show each of them as zero."""
    largest = values.abs().max()
    return 2 - math.floor(math.log10(largest)) if 0 < largest < 0.0005 else 3


def p_value(p: float) -> str:
    """A p-value as text; one below 5 % reads as below."""
    if pd.isna(p):
        return DASH
    if p < 0.001:
        return "< 0.001"
    return "< 0.050" if 0.0495 <= p < 0.05 else f"{p:.3f}"


def print_sections(table: TextTable, console: Console) -> None:
    """Show a table in the terminal, as a block for each first cell; words that all rows share are in its title."""
    rows = [[table.short.get(cell, cell) for cell in row] for row in table.rows]
    same = [i for i in range(1, table.left) if len({row[i] for row in rows}) == 1]
    shown = [i for i, name in enumerate(table.head) if i not in same and console.width >= table.optional.get(name, 0)]
    title = ", ".join([*(rows[0][i] for i in same), table.title])
    print_table(TextTable(title, table.head, rows, table.left).only(shown), console, sections=True)


def print_table(table: TextTable, console: Console, sections: bool = False) -> None:
    """Show a table in the terminal; with ``sections`` rows with the same first cell are a block that has it once."""
    if not table.rows:
        return console.print(f"{_plain(table.title)}\n")
    shown = Table(title=_plain(table.title) or None, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i, name in enumerate(table.head):
        shown.add_column(_plain(name), justify="left" if i < table.left else "right", no_wrap=i < table.left)
    last = None
    for row in table.rows:
        repeated = sections and row[0] == last
        if sections and last is not None and not repeated:
            shown.add_section()
        shown.add_row("" if repeated else _plain(row[0]), *[_plain(_compact(cell)) for cell in row[1:]])
        last = row[0]
    console.print(shown)


def _compact(text: str) -> str:
    """A cell without the zeros before the points of its interval."""
    return re.sub(r"\[[-0-9., ]*\]", lambda match: re.sub(r"(?<![0-9])0\.", ".", match[0]), text)


def _plain(text: str) -> str:
    """Text that rich prints unchanged, with control characters replaced by question marks."""
    return escape("".join(c if c.isprintable() or c == "\n" else "?" for c in text))


def markdown_table(table: TextTable) -> str:
    """A table in Markdown."""
    marks = ["---" if i < table.left else "---:" for i in range(len(table.head))]
    lines = [table.head, marks, *table.rows]
    return "\n".join("| " + " | ".join(map(markdown_text, line)) + " |" for line in lines) + "\n"


def markdown_text(text: str) -> str:
    """Text with Markdown's special characters escaped."""
    flat = " ".join(text.split())
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", flat) if re.search(r"[\\`*|<>]", flat) else flat


def latex_table(table: TextTable, comment: str) -> str:
    """A table as a ``tabular`` of booktabs, to be input where ``\\usepackage{booktabs}`` is."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join(cells) + r" \\"

    columns = "".join("l" if i < table.left else "r" for i in range(len(table.head)))
    lines = [
        f"% riebench: {' '.join(comment.split())}",
        "% Needs \\usepackage{booktabs}. In square brackets 95 % intervals over pairs, in round ones numbers of pairs.",
        r"{\footnotesize\setlength{\tabcolsep}{4pt}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        line([_tex_text(h) for h in table.head]),
        r"\midrule",
        *(line([_small(_tex_text(_compact(cell))) for cell in row]) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}}",
    ]
    return "\n".join(lines) + "\n"


def _tex_text(text: str) -> str:
    """Text as LaTeX prints it; characters outside ASCII become question marks."""
    return "".join(TEX.get(c, c if c.isascii() and c.isprintable() else "?") for c in text)


def _small(text: str) -> str:
    """A cell with its interval in smaller type; braces keep a bracket from being an argument of the line before."""
    return re.sub(r" (\[[-0-9., ]*\])", r" {\\scriptsize \1}", text)


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """A frame as CSV, undefined values empty, numbers to nine digits."""
    frame.to_csv(path, index=False, float_format="%.9g")
