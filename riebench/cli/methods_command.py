"""``riebench methods`` and ``riebench new-method``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from riebench.report.summary import wide_console

if TYPE_CHECKING:
    from riebench.methods.registry import MethodEntry


def methods_command(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One method, also as my_file.py:Class.")] = None,
) -> None:
    """List methods, broken plug-ins with their error; with a NAME, its options: type, default, meaning.

    Examples: riebench methods; riebench methods sae
    """
    from rich.table import Table
    from rich.text import Text

    from riebench.methods.registry import catalogue, find

    if name is not None:
        entry = find(name)
        entry.check_plan()
        _show(entry)
        return
    from riebench.methods.options import options_of

    table = Table("method", "options", "what it does", "from")
    for known in catalogue():
        options = "\n".join(f"{o.name}={o.default}" for o in options_of(known.entry.cls)) if known.entry else ""
        summary = _summary(known.entry) if known.entry else f"BROKEN: {known.error}"
        table.add_row(*map(Text, (known.name, options, summary, known.origin)))
    wide_console().print(table)


def _summary(entry: MethodEntry) -> str:
    return (entry.cls.__doc__ or "").strip().partition("\n")[0]


def _show(entry: MethodEntry) -> None:
    """Print one method: what it does, what it needs, and its options."""
    from inspect import cleandoc

    from rich.table import Table
    from rich.text import Text

    from riebench.methods.options import options_of

    needs = [what for what, needed in (("SAEs", entry.needs_sae), ("neurons", entry.needs_neurons)) if needed]
    print(f"{entry.name} ({entry.place})\n\n{cleandoc(entry.cls.__doc__ or '')}\n")
    if needs:
        print(f"Needs {' and '.join(needs)} of the blocks.\n")
    options = options_of(entry.cls)
    if not options:
        print("It has no options.")
        return
    table = Table("option", "type", "default", "meaning")
    for option in options:
        table.add_row(*map(Text, (option.name, option.type, option.default or "required", option.doc)))
    wide_console().print(table)
    with_k = "; k as --k, which takes several" if any(option.name == "k" for option in options) else ""
    print(f"Give each as --option name=value{with_k}.")


def new_method_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Lower-case words with dashes between.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write. Default: riebench-NAME.")] = None,
) -> None:
    """Write a package of its own for a method: pyproject.toml with the entry point, the method, a test, a README.

    Example: riebench new-method mean-shift
    """
    from riebench.methods.scaffold import write_method

    written = write_method(name, out)
    print(*written, sep="\n")
    print(f"Now: pip install -e {written[0].parent} && riebench run --method {name} --block down.2.1 --limit 1")
