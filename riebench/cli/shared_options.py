"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Option(help="mini, sdxl-turbo or sdxl-base.")]
Weights = Annotated[Path | None, typer.Option(help="Folder with the parts of a real model.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; the best there is unless given.")]
Batch = Annotated[int, typer.Option(min=1, help="Rows in one forward pass at most.")]
NoReplay = Annotated[bool, typer.Option("--no-replay", help="Compute again what the base run has computed already.")]
