"""``riebench settings``."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table


def settings_command() -> None:
    """List the settings of the instruments, with their defaults: riebench run --set NAME=VALUE.

    Example: riebench settings
    """
    from riebench.settings.settings import choices, described

    table = Table("setting", "values", "default", "what it is")
    for name, field in described():
        if not isinstance(field.default, (int, float, str, bool, type(None))):
            continue
        default = "" if field.default is None else str(field.default)
        table.add_row(name, choices(field), default, field.description)
    Console().print(table, markup=False)
