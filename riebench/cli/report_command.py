"""``riebench table``, ``riebench report``, ``riebench compare`` and ``riebench results check``."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from riebench.cli.messages import App, is_quiet
from riebench.util.errors import UserError

if TYPE_CHECKING:
    from riebench.report.written import Written
    from riebench.util.progress import Advance


def table_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished run.")],
    strength: Annotated[float | None, typer.Option(help="Only rows of this strength.")] = None,
    overall: Annotated[bool, typer.Option("--overall", help="Only rows over all categories.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As a Markdown table.")] = False,
) -> None:
    """Print the table of a finished run again.

    Example: riebench table runs/demo --overall --strength 1 --markdown
    """
    from riebench.records.folder import records_file

    records_file(folder)  # a folder without any is refused before pandas is imported
    from riebench.report.summary import curves_in, wide_console
    from riebench.report.tables import settings_table
    from riebench.report.texttable import markdown_table, print_sections

    groups = curves_in(folder)
    known = sorted({s for curves in groups for arm in curves.arms for s in arm.strengths})
    if strength is not None and strength not in known:
        raise UserError(f"no row has the strength {strength:g}; there are {', '.join(f'{s:g}' for s in known)}")
    tables = [settings_table(curves, strength, overall) for curves in groups]
    for table in tables:
        if markdown:
            print(markdown_table(table), end="")
        elif table.rows:
            print_sections(table, wide_console())


results_app = App(help="Look at contributed results.", no_args_is_help=True)
Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs.")]


def _budgets(text: str | None) -> tuple[float, ...]:
    try:
        budgets = () if text is None else tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        budgets = (0.0,)
    if not all(0 < budget < math.inf for budget in budgets):
        raise UserError(f"--budget is {text!r}; expected LPIPS above 0, as 0.1,0.2")
    return budgets


def report_command(
    runs: Runs,
    out: Annotated[Path, typer.Option(help="Folder for tables, figures and the page; not a run's.")],
    budget: Annotated[
        str | None,
        typer.Option(
            help="LPIPS at which methods are compared. Default: those of --at-lpips; without a search those of "
            "0.1,0.2,0.3,0.4 that half of the pairs reach, or four below."
        ),
    ] = None,
    rank_at: Annotated[
        float | None,
        typer.Option(help="Budget to rank at. Default: the middle one, or where most is gained if little is there."),
    ] = None,
    rank_by: Annotated[
        str, typer.Option(help="What ranks: gain (as published), margin, or edit_success on mini.")
    ] = "gain",
    resamples: Annotated[int, typer.Option(min=100, help="Bootstrap resamples.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resamples.")] = 0,
    figures: Annotated[bool, typer.Option("--figures/--no-figures", help="Draw figures.")] = True,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Make the HTML page.")] = True,
) -> None:
    """Make leaderboard, curves, figures and an HTML page from runs.

    Example: riebench report runs/demo --out report
    """
    from riebench.report.analysis import Options
    from riebench.report.style import FIGURE_NAMES
    from riebench.report.written import PAGE, write_report
    from riebench.util.progress import progress_bar

    options = Options(_budgets(budget), rank_at, resamples, seed, rank_by)
    with ExitStack() as bars:
        advances: list[Advance] = []

        def tables_done(written: Written) -> None:
            _show_boards(written)  # the numbers come first, then a progress bar for figures and page
            steps = (len(FIGURE_NAMES) * figures + page) * len(written.groups)
            if steps:
                advances.append(bars.enter_context(progress_bar("figures and page", steps, quiet=is_quiet())))

        def step(what: str) -> None:
            advances[0]()

        written = write_report(runs, out, options, figures, page, tables_done, step)
    for note in written.late:
        print(f"note: {note}")
    for _, folder in written.groups:
        if figures:
            print(f"figures   {folder / 'figures'}")
        if page:
            print(f"page      {folder / PAGE}")


def _show_boards(written: Written) -> None:
    """Print the leaderboards and the paths of their tables."""
    from riebench.report.summary import wide_console
    from riebench.report.tables import print_leaderboard

    console = wide_console()
    if written.why:
        console.print(f"{len(written.groups)} tables, as these records are never mixed:", markup=False)
        for reason in written.why:
            console.print(f"  {reason}", markup=False, highlight=False)
    for analysis, folder in written.groups:
        print_leaderboard(analysis, console)
        print(f"tables    {folder / 'leaderboard.md'} (also .csv, .tex, .html)", flush=True)


def compare_command(
    a: Annotated[Path, typer.Argument(metavar="A", help="Folder of a run.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Folder of the run to compare it with.")],
    out: Annotated[Path | None, typer.Option(help="Folder for tables and a sheet of pictures.")] = None,
    metric: Annotated[str, typer.Option(help="Metric that pairs are sorted by.")] = "clip_text_edit",
    top: Annotated[int, typer.Option(min=1, help="Pairs with the largest change that are shown.")] = 10,
) -> None:
    """Compare two runs: differences by category over the records that both scored, and the pairs that changed most.

    Example: riebench compare runs/before runs/after --out compared
    """
    from riebench.report.compare import compare, print_comparison, write_comparison
    from riebench.report.summary import wide_console
    from riebench.report.written import check_place

    comparison = compare(a, b, metric, top)
    if out is not None:
        check_place(out, (a, b))
    print_comparison(comparison, wide_console())
    if out is not None:
        for path in write_comparison(comparison, out):
            print(f"written   {path}")


@results_app.command("check")
def results_check(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders with run.json and records.")],
) -> int:
    """Validate contributed results: schema, fingerprints, completeness; and recompute a sample of their numbers.

    Metrics are recomputed from kept pictures where the scorers are at hand; on mini, some records are made again.

    Example: riebench results check results/mini
    """
    from riebench.engine.recheck import recheck
    from riebench.report.contributed import check_folder

    failed = False
    for folder in folders:
        checked = check_folder(folder)
        print(f"{folder}: {checked.summary}")
        recomputed = recheck(folder)
        for line in recomputed.lines:
            print(f"  {line}")
        for problem in [*checked.problems, *recomputed.problems]:
            print(f"  problem: {problem}")
        failed = failed or bool(checked.problems or recomputed.problems)
    return 1 if failed else 0
