"""Write an audit: text, page, tables, figures. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib import rc_context

from riebench.audit.findings import PARTS, VERDICTS, Findings
from riebench.report.page.build import HERE as TABLES
from riebench.report.style import METADATA, PAPER
from riebench.report.texttable import TextTable, markdown_table, markdown_text, write_csv
from riebench.util.errors import UserError
from riebench.util.html import BASE_CSS, asset, data_uri, templates

TEXT, PAGE = "audit.md", "index.html"
TITLE = "Audit of the benchmark"


@dataclass(frozen=True)
class Section:
    """A section of the text and of the page.

    Attributes:
        title: its heading, and the caption of its figure.
        paragraphs: text above the tables.
        tables: its tables.
        points: sentences of a list.
        figure: file name of its figure; empty without one.
    """

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[TextTable] = ()
    points: Sequence[str] = ()
    figure: str = ""


def write_audit(findings: Findings, folder: Path) -> None:
    """Write ``audit.md``, ``index.html``, a CSV of every table, and the figures.

    Raises:
        UserError: if the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_earlier(folder)
        for name, frame in findings.frames.items():
            write_csv(frame, folder / f"{name}.csv")
        _draw(findings, folder)
        sections = sections_of(findings)
        (folder / TEXT).write_text(_markdown(findings, sections), encoding="utf-8")
        (folder / PAGE).write_text(_page(findings, sections, folder), encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"the folder {folder} cannot be written ({error.strerror or error}); give another --out"
        ) from None


def _remove_earlier(folder: Path) -> None:
    """Remove the tables and figures of an earlier audit, as this audit may leave their parts out."""
    for part in PARTS:
        for name in part.csv_names():
            (folder / f"{name}.csv").unlink(missing_ok=True)
        if part.figure_file:
            (folder / part.figure_file).unlink(missing_ok=True)


def _draw(findings: Findings, folder: Path) -> None:
    """Draw the figures as PNG."""
    with rc_context(PAPER):
        for part in findings.parts.values():
            if part.figure_file:
                part.figure().savefig(folder / part.figure_file, metadata=METADATA["png"])


def sections_of(findings: Findings) -> list[Section]:
    """The verdicts, then each part."""
    sections = _verdict_sections(findings)
    for kind in PARTS:
        if kind in findings.parts:
            part = findings.parts[kind]
            sections.append(Section(kind.title, [kind.explanation], part.tables(), part.points(), kind.figure_file))
        else:
            sections.append(Section(kind.title, [f"Left out: {findings.left_out[kind.name]}."]))
    return sections


def _verdict_sections(findings: Findings) -> list[Section]:
    rules = [rule for kind in VERDICTS for rule in kind.rules]
    sections = [Section("Verdicts", ["The verdicts follow from the numbers below by these rules:"], points=rules)]
    for ranking, sentences in findings.verdicts().items():
        sections.append(Section(f"Verdict: ranking by {ranking}", points=sentences))
    tables = [table for part in findings.parts.values() if (table := part.verdict_table())]
    return [*sections, *(Section("Verdict: each metric", tables=[table]) for table in tables)]


def summary_of(findings: Findings) -> str:
    """The size of the audit in a line, such as "11 arms on 90 pairs, compared at LPIPS 0.05"."""
    table = findings.subject.table
    return f"{len(table.arms)} arms on {len(table.pairs.ids)} pairs, compared at LPIPS {findings.subject.budget:g}"


def _markdown(findings: Findings, sections: Sequence[Section]) -> str:
    lines = [f"# {TITLE}", "", f"{summary_of(findings)}; {findings.subject.evidence.audited.headline}.", ""]
    lines += [f"- {markdown_text(note)}" for note in findings.notes] + [""] * bool(findings.notes)
    for section in sections:
        lines += [f"## {section.title}", ""]
        for paragraph in section.paragraphs:
            lines += [paragraph, ""]
        if section.figure:
            lines += [f"![{section.title}]({section.figure})", ""]
        if section.points:
            lines += [*(f"- {markdown_text(point)}" for point in section.points), ""]
        for table in section.tables:
            lines += [f"### {table.title}", "", markdown_table(table)]
    return "\n".join(lines)


def _page(findings: Findings, sections: Sequence[Section], folder: Path) -> str:
    figures = [section.figure for section in sections if section.figure]
    return (
        templates(Path(__file__).parent / "page")
        .get_template("audit.html")
        .render(
            title=TITLE,
            css=asset(None, BASE_CSS),
            same=findings.subject.evidence.audited.same,
            summary=f"{summary_of(findings)}.",
            notes=findings.notes,
            sections=sections,
            pictures={figure: data_uri((folder / figure).read_bytes(), "image/png") for figure in figures},
            html_table=templates(TABLES).get_template("tables.html").module.html_table,  # type: ignore[attr-defined]
        )
    )
