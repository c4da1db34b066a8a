"""From records to tables, curves, figures, pages and contact sheets. Needs no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from riebench.report.curves import draw_curves as draw_curves
    from riebench.report.sheet import contact_sheets as contact_sheets
    from riebench.report.table import print_table as print_table
    from riebench.report.table import summarize as summarize
    from riebench.report.table import to_markdown as to_markdown

_WHERE = {
    "contact_sheets": "sheet",
    "draw_curves": "curves",
    "print_table": "table",
    "summarize": "table",
    "to_markdown": "table",
}
__all__ = ["contact_sheets", "draw_curves", "print_table", "summarize", "to_markdown"]


def __getattr__(name: str) -> Any:
    # Imported when asked for, so that tables do without matplotlib.
    if name in _WHERE:
        return getattr(import_module(f"riebench.report.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'riebench.report' has no attribute {name!r}")
