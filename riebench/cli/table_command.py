"""``riebench table``, and what ``riebench run`` shows at its end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from riebench.util.errors import UserError
from riebench.records import Record, read_records


def table_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished run.")],
    strength: Annotated[float | None, typer.Option(help="Rows of this strength alone.")] = None,
    overall: Annotated[bool, typer.Option("--overall", help="Rows over all categories alone.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As a Markdown table.")] = False,
) -> None:
    """Print the table of a finished run again.

    Example: riebench table runs/demo --overall --strength 1 --markdown
    """
    from riebench.report import print_table, summarize, to_markdown
    from riebench.report.table import ALL, metric_titles

    summary = summarize(read_records(folder))
    if overall:
        summary = summary[summary["category"] == ALL]
    if strength is not None:
        known = sorted(summary["strength"].unique())
        if strength not in known:
            raise UserError(f"no row has the strength {strength:g}; there are {', '.join(f'{s:g}' for s in known)}")
        summary = summary[summary["strength"] == strength]
    if summary.empty:
        raise UserError("there is one category only, so no row over all of them; leave out --overall")
    titles = metric_titles(_names(folder)["lpips"])
    if markdown:
        print(to_markdown(summary, titles), end="")
    else:
        print_table(summary, titles, wide_console())


def _names(folder: Path) -> dict[str, str]:
    try:
        names: dict[str, str] = json.loads((folder / "run.json").read_text())["metric_names"]
    except (OSError, json.JSONDecodeError, KeyError):
        raise UserError(f"{folder / 'run.json'} is missing or damaged; give the folder of a finished run") from None
    return names


def wide_console() -> Console:
    """A console for tables: as wide as the terminal, or as wide as needed where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def show(folder: Path, console: Console) -> None:
    """Print the table of a run and write its table, curve and contact sheets."""
    from riebench.report import contact_sheets, draw_curves, print_table, summarize, to_markdown
    from riebench.report.table import metric_titles

    records = read_records(folder)
    names = _names(folder)
    summary = summarize(records)
    titles = metric_titles(names["lpips"])
    print_table(summary, titles, console)
    (folder / "table.md").write_text(to_markdown(summary, titles))
    for reason, number in _reasons(records).items():
        console.print(f"failed {number} times: {reason}", markup=False)
    print(f"records   {folder / 'records.jsonl'}\ntable     {folder / 'table.md'}")
    if {"lpips_base", "clip_text_edit"} <= set(summary.columns):
        print("curve    ", *draw_curves(summary, folder, names["clip"], names["lpips"]))
    sheets = contact_sheets(records, folder)
    if sheets:
        print(f"pictures  {sheets[0].parent} ({len(sheets)} sheets)")


def _reasons(records: Sequence[Record]) -> dict[str, int]:
    found: dict[str, int] = {}
    for record in records:
        reason = record.reason
        if reason:
            found[reason] = found.get(reason, 0) + 1
    return found
