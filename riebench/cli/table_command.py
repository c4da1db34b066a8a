"""``riebench table``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from riebench.util.errors import UserError


def table_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished run.")],
    strength: Annotated[float | None, typer.Option(help="Rows of this strength alone.")] = None,
    overall: Annotated[bool, typer.Option("--overall", help="Rows over all categories alone.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As a Markdown table.")] = False,
) -> None:
    """Print the table of a finished run again.

    Example: riebench table runs/demo --overall --strength 1 --markdown
    """
    from riebench.report.summary import curves_in, wide_console
    from riebench.report.tables import settings_table
    from riebench.report.texttable import markdown_table, print_sections

    found = curves_in(folder)
    known = sorted({s for curves in found for arm in curves.arms for s in arm.strengths})
    if strength is not None and strength not in known:
        raise UserError(f"no row has the strength {strength:g}; there are {', '.join(f'{s:g}' for s in known)}")
    tables = [settings_table(curves, strength, overall) for curves in found]
    if not any(table.rows for table in tables):
        raise UserError("there is one category only, so no row over all of them; leave out --overall")
    for table in tables:
        if markdown:
            print(markdown_table(table), end="")
        elif table.rows:
            print_sections(table, wide_console())
