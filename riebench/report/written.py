"""Write a report: tables, figures, records and page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from riebench.report.analysis import Analysis, Options, analyse_for_figures
from riebench.report.artists import Artists
from riebench.report.groups import read_groups
from riebench.report.style import FIGURE_NAMES, FORMATS
from riebench.report.tables import board_csv, latex, markdown
from riebench.report.texttable import write_csv
from riebench.util.errors import UserError

TABLES = (
    *("leaderboard.md", "leaderboard.csv", "leaderboard.tex", "leaderboard.html"),
    *("comparisons.csv", "curves.csv", "reached.csv"),
)
FIGURES, PAGE, FRAME = "figures", "index.html", "records.parquet"


@dataclass
class Written:
    """A report.

    Attributes:
        groups: the analyses and the folders they were written to.
        why: the reasons for more than one group.
        late: notes on missing pictures, added with the page.
    """

    groups: list[tuple[Analysis, Path]] = field(default_factory=list)
    why: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)


def write_report(
    runs: Sequence[Path],
    out: Path,
    options: Options | None = None,
    figures: bool = True,
    page: bool = True,
    tables_done: Callable[[Written], None] = lambda written: None,
    step: Callable[[str], None] = lambda what: None,
) -> Written:
    """Write tables, figures, records and page of runs; one folder for each group that may be compared.

    Args:
        runs: run folders.
        out: created if missing, never the folder of a run; an earlier report in it is replaced, other files stay.
        options: of the statistics.
        figures: whether figures are drawn.
        page: whether the HTML page is made.
        tables_done: called with all numbers once every table is on the disk, before the slower figures and page.
        step: called after each of :data:`~riebench.report.style.FIGURE_NAMES` and the page, by group.

    Raises:
        UserError: for runs that cannot be read or contradict each other, or a folder that cannot be written.
    """
    groups, why = read_groups(runs)
    check_place(out, runs)
    written = Written(why=why)
    with Artists(sum(len(group.frame) for group in groups) if figures else 0) as artists:
        analyses = [analyse_for_figures(group, options) for group in groups]
        for number, (analysis, _) in enumerate(analyses, 1):
            folder = out if len(analyses) == 1 else out / f"group-{number}"
            written.groups.append((analysis, folder))
        rest = [add_the_rest for _, add_the_rest in analyses]
        _write(written, rest, out, artists if figures else None, page, tables_done, step)
    return written


def _write(
    written: Written,
    rest: Sequence[Callable[[], None]],
    out: Path,
    artists: Artists | None,
    page: bool,
    tables_done: Callable[[Written], None],
    step: Callable[[str], None],
) -> None:
    """Write everything; see :func:`write_report`. Without artists no figures are drawn.

    ``rest`` adds the numbers that no figure needs: they are computed while further processes draw.
    """
    try:
        _remove_earlier(out)
        for analysis, folder in written.groups:
            folder.mkdir(parents=True, exist_ok=True)
            if artists:
                artists.draw(analysis, folder / FIGURES)
        for add_the_rest in rest:
            add_the_rest()
        for analysis, folder in written.groups:
            write_tables(analysis, folder)
        if len(written.groups) > 1:
            (out / "leaderboard.md").write_text(_index(written, out), encoding="utf-8")
        tables_done(written)
        if artists and not artists.beside:
            artists.finish(step)
        for analysis, folder in written.groups if page else ():
            written.late += _page(analysis, folder / PAGE)
            step(PAGE)
        if artists and artists.beside:
            artists.finish(step)
    except OSError as error:
        raise UserError(f"the folder {out} cannot be written ({error.strerror or error}); give another --out") from None


def check_place(out: Path, runs: Sequence[Path]) -> None:
    """See that a folder for what is written of runs is none of theirs.

    Raises:
        UserError: if it is, or is a file.
    """
    for run in runs:
        if out.resolve() == (run if run.is_dir() else run.parent).resolve():
            raise UserError(f"--out {out} is the run itself; give another folder")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; give a folder")


def _remove_earlier(out: Path) -> None:
    """Remove the files of an earlier report, so that none is taken for a part of the new one."""
    for folder in [out, *out.glob("group-*")]:
        if (folder / FRAME).is_file():  # a report, not a folder of somebody's own
            figures = [f"{FIGURES}/{name}.{kind}" for name in FIGURE_NAMES for kind in FORMATS]
            for name in (*TABLES, PAGE, FRAME, *figures):
                (folder / name).unlink(missing_ok=True)
            for empty in (folder / FIGURES, folder):
                with suppress(OSError):  # holds something else
                    empty.rmdir()


def write_tables(analysis: Analysis, folder: Path) -> None:
    """Write the leaderboard in its four formats, all comparisons, all curves and the records."""
    from riebench.report.page import write_leaderboard

    (folder / "leaderboard.md").write_text(markdown(analysis), encoding="utf-8")
    (folder / "leaderboard.tex").write_text(latex(analysis), encoding="utf-8")
    write_csv(board_csv(analysis), folder / "leaderboard.csv")
    write_csv(analysis.comparisons.drop(columns=["arm_a", "arm_b"], errors="ignore"), folder / "comparisons.csv")
    write_csv(analysis.curves.drop(columns="arm"), folder / "curves.csv")
    write_csv(analysis.reached, folder / "reached.csv")
    write_leaderboard(analysis, folder / "leaderboard.html")
    analysis.group.frame.to_parquet(folder / FRAME, index=False, compression="zstd")


def _page(analysis: Analysis, path: Path) -> list[str]:
    """Make the page; returns notes on missing pictures."""
    from riebench.report.page import write_page

    pictures = write_page(analysis, path)
    notes = [pictures.summary] if pictures.pairs and "missing" in pictures.summary else []
    analysis.notes += notes
    return notes


def _index(written: Written, out: Path) -> str:
    lines = ["# Leaderboards", "", f"{len(written.groups)} tables, as these records are never mixed:", ""]
    lines += [f"- {text}" for text in written.why] + [""]
    for analysis, folder in written.groups:
        name = folder.relative_to(out)
        runs = ", ".join(analysis.group.sources)
        lines.append(f"- [{name}]({name}/leaderboard.md): {len(analysis.group.frame)} records of {runs}")
    return "\n".join(lines) + "\n"
