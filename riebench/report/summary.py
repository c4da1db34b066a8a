"""What a run shows at its end: its table, curve and contact sheets. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from riebench.report.curves import Curves


def curves_in(folder: Path) -> list[Curves]:
    """The curves of each group of records in a run; nearly always one."""
    from riebench.report.curves import curves_of
    from riebench.report.groups import read_groups

    groups, _ = read_groups([folder])
    return [curves_of(group) for group in groups]


def wide_console() -> Console:
    """A console for tables: as wide as the terminal, or as wide as needed if the output is not a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def summarize(folder: Path, console: Console) -> None:
    """Print the table of a run and write its table, curve and contact sheets.

    Records of several models, protocols or scorers have a table each; curve and sheets are of the largest group.

    Args:
        folder: a run folder with at least one record.
        console: for the table.

    Raises:
        UserError: if the records cannot be read.
    """
    from riebench.report.tables import settings_table
    from riebench.report.texttable import markdown_table, print_sections

    found = curves_in(folder)
    tables = [settings_table(curves) for curves in found]
    for curves, table in zip(found, tables, strict=True):
        if len(found) > 1:
            console.print(curves.group.headline, markup=False)
        print_sections(table, console)
        for reason, number in curves.group.frame["reason"].value_counts().items():
            console.print(f"failed {number} times: {reason}", markup=False)
    (folder / "table.md").write_text("\n".join(map(markdown_table, tables)), encoding="utf-8")
    print(f"records   {folder / 'records.jsonl'}\ntable     {folder / 'table.md'}")
    from riebench.report.curve_figures import draw_run_curve  # after the table, as matplotlib is slow to import
    from riebench.report.sheet import contact_sheets

    if drawn := draw_run_curve(found[0], folder):
        print("curve    ", *drawn)
    if sheets := contact_sheets(found[0], folder):
        print(f"pictures  {sheets[0].parent} ({len(sheets)} sheets)")
