"""``riebench table``, and what ``riebench run`` shows at its end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from riebench.util.errors import UserError

if TYPE_CHECKING:
    from riebench.report.curves import Curves


def table_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished run.")],
    strength: Annotated[float | None, typer.Option(help="Rows of this strength alone.")] = None,
    overall: Annotated[bool, typer.Option("--overall", help="Rows over all categories alone.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As a Markdown table.")] = False,
) -> None:
    """Print the table of a finished run again.

    Example: riebench table runs/demo --overall --strength 1 --markdown
    """
    from riebench.report.tables import print_settings, settings_table
    from riebench.report.texttable import markdown_table

    found = _curves(folder)
    known = sorted({s for curves in found for arm in curves.arms for s in arm.strengths})
    if strength is not None and strength not in known:
        raise UserError(f"no row has the strength {strength:g}; there are {', '.join(f'{s:g}' for s in known)}")
    tables = [settings_table(curves, strength, overall, short=not markdown) for curves in found]
    if not any(table.rows for table in tables):
        raise UserError("there is one category only, so no row over all of them; leave out --overall")
    for table in tables:
        if markdown:
            print(markdown_table(table), end="")
        elif table.rows:
            print_settings(table, wide_console())


def _curves(folder: Path) -> list[Curves]:
    """The curves of each group of records in a run; nearly always one."""
    from riebench.report.curves import curves_of
    from riebench.report.groups import read_groups

    groups, _ = read_groups([folder])
    return [curves_of(group) for group in groups]


def wide_console() -> Console:
    """A console for tables: as wide as the terminal, or as wide as needed if the output is not a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def show(folder: Path, console: Console) -> None:
    """Print the table of a run and write its table, curve and contact sheets.

    Records of several models, protocols or scorers have a table each; curve and sheets are of the largest group.

    Args:
        folder: a run folder with at least one record.
        console: for the table.

    Raises:
        UserError: if the records cannot be read.
    """
    from riebench.report.tables import print_settings, settings_table
    from riebench.report.texttable import markdown_table

    found = _curves(folder)
    for curves in found:
        if len(found) > 1:
            console.print(curves.group.headline, markup=False)
        print_settings(settings_table(curves, short=True), console)
        for reason, number in curves.group.frame["reason"].value_counts().items():
            console.print(f"failed {number} times: {reason}", markup=False)
    text = "\n".join(markdown_table(settings_table(curves)) for curves in found)
    (folder / "table.md").write_text(text, encoding="utf-8")
    print(f"records   {folder / 'records.jsonl'}\ntable     {folder / 'table.md'}")
    _draw(found[0], folder)


def _draw(curves: Curves, folder: Path) -> None:
    from riebench.report.curve_figures import draw_run_curve
    from riebench.report.sheet import contact_sheets

    drawn = draw_run_curve(curves, folder)
    if drawn:
        print("curve    ", *drawn)
    sheets = contact_sheets(curves, folder)
    if sheets:
        print(f"pictures  {sheets[0].parent} ({len(sheets)} sheets)")
