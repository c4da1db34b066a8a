"""From records to tables, curves, figures, pages and contact sheets. Needs no torch."""

from riebench.report.curves import draw_curves
from riebench.report.sheet import contact_sheets
from riebench.report.table import print_table, summarize, to_markdown

__all__ = ["contact_sheets", "draw_curves", "print_table", "summarize", "to_markdown"]
