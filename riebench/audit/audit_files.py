"""Write an audit: text, page, tables, figures. Needs no torch."""

from __future__ import annotations

from pathlib import Path

from riebench.audit.audit_drawings import DRAWS, draw_all
from riebench.audit.findings import FRAMES, Findings
from riebench.audit.sections import Section, sections
from riebench.report.page.build import HERE as TABLES
from riebench.report.texttable import markdown_table, markdown_text, write_csv
from riebench.util.errors import UserError
from riebench.util.html import BASE_CSS, data_uri, templates

TEXT, PAGE = "audit.md", "index.html"
TITLE = "Audit of the benchmark"


def write_audit(found: Findings, folder: Path) -> None:
    """Write ``audit.md``, ``index.html``, a CSV of every table, and the figures.

    Raises:
        UserError: if the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in FRAMES:  # those of an earlier audit would stand beside this one's text
            (folder / f"{name}.csv").unlink(missing_ok=True)
        for name, _ in DRAWS.values():
            (folder / f"{name}.png").unlink(missing_ok=True)
        for name, frame in found.frames.items():
            write_csv(frame, folder / f"{name}.csv")
        made = sections(found, draw_all(found, folder))
        (folder / TEXT).write_text(_markdown(found, made), encoding="utf-8")
        (folder / PAGE).write_text(_page(found, made, folder), encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"the folder {folder} cannot be written ({error.strerror or error}); give another --out"
        ) from None


def summary_of(found: Findings) -> str:
    """What the audit is of, in a line."""
    pairs, arms = len(found.table.pairs.ids), len(found.table.arms)
    return f"{arms} arms on {pairs} pairs, compared at LPIPS {found.budget:g}"


def _markdown(found: Findings, made: list[Section]) -> str:
    lines = [f"# {TITLE}", "", f"{summary_of(found)}; {found.evidence.audited.headline}.", ""]
    lines += [f"- {markdown_text(note)}" for note in found.notes] + [""] * bool(found.notes)
    for section in made:
        lines += [f"## {section.title}", ""]
        for paragraph in section.paragraphs:
            lines += [paragraph, ""]
        if section.figure:
            lines += [f"![{section.caption}]({section.figure})", ""]
        if section.points:
            lines += [*(f"- {markdown_text(point)}" for point in section.points), ""]
        for table in section.tables:
            lines += [f"### {table.title}", "", markdown_table(table)]
    return "\n".join(lines)


def _page(found: Findings, made: list[Section], folder: Path) -> str:
    pictures = {
        section.figure: data_uri((folder / section.figure).read_bytes(), "image/png")
        for section in made
        if section.figure
    }
    return (
        templates(Path(__file__).parent / "page")
        .get_template("audit.html")
        .render(
            title=TITLE,
            css=BASE_CSS.read_text(encoding="utf-8"),
            same=found.evidence.audited.same,
            summary=f"{summary_of(found)}.",
            notes=found.notes,
            sections=made,
            pictures=pictures,
            html_table=templates(TABLES).get_template("tables.html").module.html_table,  # type: ignore[attr-defined]
        )
    )
