"""``riebench standin``."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Annotated

import typer

from riebench.util.errors import UserError


def standin_command(
    model: Annotated[str, typer.Argument(help="sdxl-turbo, sdxl-base or flux-schnell.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the weights; name it with --weights.")],
    size: Annotated[
        str, typer.Option(help="tiny, or true (sdxl: 17 GB on disk; flux: true widths, few layers, 8 GB).")
    ] = "tiny",
    seed: Annotated[int, typer.Option(min=0, help="Of the random weights.")] = 0,
) -> None:
    """Write random weights of a real model in the layouts that its loaders read, to try the whole path.

    Example: riebench standin sdxl-turbo /tmp/tiny && riebench run --model sdxl-turbo --weights /tmp/tiny ...
    """
    if size not in {"tiny", "true"}:
        raise UserError(f"--size is {size!r}; expected tiny or true")
    from riebench.standin.write import write_standin

    started = time.perf_counter()
    for part in write_standin(folder, model, "tiny" if size == "tiny" else "true", seed):
        logging.getLogger(__name__).info("writing %s", part)
    print(f"{folder}: random weights of {model}, {size}, written in {time.perf_counter() - started:.0f} s")
