"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from riebench.util.errors import UserError

Model = Annotated[
    str, typer.Option(help="Name of a model (mini, sdxl-turbo, sdxl-base, ...), or package.module:function.")
]
Weights = Annotated[Path | None, typer.Option(help="Folder with the parts of a real model.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; the best one unless given.")]
Batch = Annotated[int, typer.Option(min=1, help="Rows in one forward pass at most.")]

Metrics = Annotated[
    str | None,
    typer.Option(
        help="Metrics by name, or sets of them (default, published), as default,psnr_outside; "
        "the protocol's unless given. See 'riebench metrics'."
    ),
]


class NameValue(NamedTuple):
    """The two sides of ``name=value``."""

    name: str
    value: str


def name_and_value(word: str) -> NameValue:
    """The two sides of ``name=value``."""
    name, sign, value = word.partition("=")
    if not sign or not name:
        raise UserError(f"{word!r} is no name=value; give both, as only_add=true or masker.box_threshold=0.3")
    return NameValue(name, value)
