"""``riebench blocks``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from riebench.cli.shared_options import Model, Weights
from riebench.util.errors import UserError


def blocks_command(
    model: Model = "mini",
    weights: Weights = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", envvar="RIEBENCH_BLOCKS_SET", help="Setting of an instrument, see 'riebench settings'."),
    ] = None,
) -> None:
    """List a model's blocks: path, channels, grid, neurons, and whether there is an SAE.

    Example: riebench blocks --model mini
    """
    from riebench.catalog import entry_named
    from riebench.spec.settings import parse_settings
    from riebench.weights import locate

    entry, settings = entry_named(model), parse_settings(setting or [], weights=weights)
    if not entry.embedded:
        locate(model, settings, optional=("sae",))
    from riebench.engine import load_instruments
    from riebench.lens import FOUR

    instruments = load_instruments(entry, 1, settings)
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
