"""``riebench blocks``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from riebench.cli.shared_options import Model, with_settings


@with_settings
def blocks_command(
    model: Model = "mini",
    *,
    settings: Mapping[str, Any],
) -> None:
    """List a model's blocks in the order in which they run: width, grid, neurons, and the SAE where there is one.

    Read from configurations alone; without weights, those of the published model.

    Example: riebench blocks --model sdxl-turbo
    """
    from riebench.models.entries import entry_named
    from riebench.models.sites import NEURONS, neuron_sites
    from riebench.sae.folders import feature_count, read_config
    from riebench.settings.settings import parse_settings

    entry, parsed = entry_named(model), parse_settings(settings)
    sites, saes = entry.sites(parsed), entry.saes(parsed)
    table = Table("block", "width", "grid", "layers x neurons", "SAE features (k)")
    for block in [site for site in sites if NEURONS not in site]:
        height, width = sites[block].grid
        layers = [sites[site].width for site in neuron_sites(sites, block)]
        neurons = f"{len(layers)} x {layers[0]}" if layers else "–"
        features = "–"
        if block in saes:
            features = f"{feature_count(saes[block])} ({(read_config(saes[block]) or {}).get('k', '?')})"
        name = f"{block} *" if block in entry.default_sites else block
        table.add_row(name, str(sites[block].width), f"{height} x {width}", neurons, features)
    Console().print(table)
    print("* --block all")
