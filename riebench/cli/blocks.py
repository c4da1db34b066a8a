"""``riebench blocks``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table


def blocks_command(model: Annotated[str, typer.Option(help="Model.")] = "mini") -> None:
    """List a model's blocks: path, channels, grid, neurons, and whether there is an SAE.

    Example: riebench blocks --model mini
    """
    from riebench.engine import load_instruments
    from riebench.errors import UserError
    from riebench.lens import FOUR
    from riebench.models import entry_named

    instruments = load_instruments(entry_named(model), 1)
    table = Table("block", "module", "channels", "grid", "layers x neurons", "SAE features (k)")
    for block in instruments.denoiser.lens.blocks.values():
        height, width = instruments.denoiser.grid(block.name)
        try:
            sae = instruments.sae(block.name)
            features = f"{sae.n_features} ({sae.k})"
        except UserError:
            features = "–"
        name = f"{block.name} *" if block.name in FOUR else block.name
        neurons = f"{block.layers} x {block.neurons}"
        table.add_row(name, f"unet.{block.path}", str(block.channels), f"{height} x {width}", neurons, features)
    Console().print(table)
    print("* the four blocks of RIEBench: --block all")
