"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from riebench.util.errors import UserError

Model = Annotated[str, typer.Option(help="Name of a model (mini, sdxl-turbo, sdxl-base, ...), or package.module:function.")]
Weights = Annotated[Path | None, typer.Option(help="Folder with the parts of a real model.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; the best one unless given.")]
Batch = Annotated[int, typer.Option(min=1, help="Rows in one forward pass at most.")]


def settings_of(words: Sequence[str] | None, **flags: Any) -> dict[str, Any]:
    """Settings by name, from ``name=value`` words and from options of their own."""
    found = {name: value for name, value in flags.items() if value is not None}
    for word in words or ():
        name, sign, value = word.partition("=")
        if not sign:
            raise UserError(f"--set is {word!r}; expected name=value, as masker.box_threshold=0.3")
        found[name] = value
    return found
