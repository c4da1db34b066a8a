"""``riebench sae index``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from riebench.cli.shared_options import Batch, with_settings

IndexedSae = Annotated[
    str, typer.Argument(metavar="SAE", help="Folder of an SAE, or a site of the model that has one, as mid.0.")
]
SiteName = Annotated[str | None, typer.Option(help="Site of the SAE. Default: as its folder says.")]
Prompts = Annotated[
    str | None, typer.Option(help="Text file (a prompt a line), CSV or Parquet file, or grammar (the default on mini).")
]
Count = Annotated[int | None, typer.Option(min=1, help="Prompts. Default: all of a file, 1000 from the grammar.")]
Column = Annotated[str | None, typer.Option(help="Column of a table that holds the prompts.")]


@with_settings
def sae_index_command(
    sae: IndexedSae,
    out: Annotated[Path, typer.Option(help="Folder of the index. 'sae show' finds SAE-index beside an SAE folder.")],
    model: Annotated[
        str | None, typer.Option(help="Model that makes the pictures. Default: as the SAE's folder says, else mini.")
    ] = None,
    site: SiteName = None,
    prompts: Prompts = None,
    count: Count = None,
    column: Column = None,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 1,
    *,
    settings: Mapping[str, Any],
    batch: Batch = 8,
) -> None:
    """Generate pictures and write down how often, where and in which of them each feature of an SAE is active.

    Example: riebench sae index mid.0 --model mini --out mid.0-index
    """
    from riebench.features.located_saes import IndexRequest, carry_out_index
    from riebench.settings.settings import parse_settings

    index = carry_out_index(
        IndexRequest(sae, model, parse_settings(settings), site, prompts, count, column, steps, batch), out
    )
    pictures = len(index.facts.prompted)
    print(f"{out}: {len(index)} features, {pictures} of {index.facts.pictures_made} pictures stored")
