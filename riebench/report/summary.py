"""The summary of a run: its table, curve and contact sheets. Needs no torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from riebench.util.work_folder import full_disk

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from riebench.report.curves import Curves


NAMES = re.compile(r"'[^']*'|[^\s/]+\.(?:png|jpe?g|webp)\b", re.IGNORECASE)
"""Names in the reason of a failure: quoted names, and file names of pictures."""


def curves_in(folder: Path) -> list[Curves]:
    """The curves of each group of records in a run; nearly always one."""
    from riebench.report.curves import curves_of
    from riebench.report.groups import read_groups

    groups, _ = read_groups([folder])
    return [curves_of(group) for group in groups]


def wide_console() -> Console:
    """A console for tables: as wide as the terminal, or as wide as needed if the output is not a terminal."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=180)


def failure_lines(reasons: pd.Series) -> list[str]:
    """A line for each kind of failure: its count, and its first reason.

    Reasons are of one kind if they differ only in a picture's file name or in a quoted name.

    Args:
        reasons: the reason of each record, null if it did not fail.
    """
    kinds: dict[str, list[tuple[str, int]]] = {}
    for reason, count in reasons.value_counts().items():
        kinds.setdefault(NAMES.sub("NAME", str(reason)), []).append((str(reason), count))
    lines = []
    for kind in kinds.values():
        total = sum(count for _, count in kind)
        more = f" (and {len(kind) - 1} more that differ only in names)" if len(kind) > 1 else ""
        lines.append(f"failed {total} {'time' if total == 1 else 'times'}: {kind[0][0]}{more}")
    return lines


def summarize(folder: Path, console: Console) -> None:
    """Print the table of a run and write its table, curve and contact sheets.

    Records of several models, protocols or scorers have a table each; curve and sheets are of the largest group.

    Args:
        folder: a run folder with at least one record.
        console: for the table.

    Raises:
        UserError: if the records cannot be read, or the folder cannot be written.
    """
    from riebench.report.tables import settings_table
    from riebench.report.texttable import markdown_table, print_sections

    groups = curves_in(folder)
    tables = [settings_table(curves) for curves in groups]
    for curves, table in zip(groups, tables, strict=True):
        if len(groups) > 1:
            console.print(curves.group.headline, markup=False)
        print_sections(table, console)
        for line in failure_lines(curves.group.frame["reason"]):
            console.print(line, markup=False)
    with full_disk(folder):
        (folder / "table.md").write_text("\n".join(map(markdown_table, tables)), encoding="utf-8")
        print(f"records   {folder / 'records.jsonl'}\ntable     {folder / 'table.md'}")
        from riebench.report.curve_figures import draw_run_curve  # after the table, as matplotlib is slow to import
        from riebench.report.sheet import contact_sheets

        if drawn := draw_run_curve(groups[0], folder):
            print("curve    ", *drawn)
        if sheets := contact_sheets(groups[0], folder):
            print(f"pictures  {sheets[0].parent} ({len(sheets)} sheets)")
