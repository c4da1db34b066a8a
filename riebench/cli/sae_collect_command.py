"""``riebench sae collect``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from riebench.cli.shared_options import Batch, Model, with_settings
from riebench.util.errors import UserError

Prompts = Annotated[
    str | None,
    typer.Option(help="Text file (one prompt a line), .csv, .parquet, or 'grammar' for prompts of mini's drawn world."),
]
Count = Annotated[int | None, typer.Option(min=1, help="Prompts taken. Default: all of the file.")]
Column = Annotated[str | None, typer.Option(help="Column of a .csv or .parquet that holds the prompts.")]
Split = Annotated[str, typer.Option(help="train, or held-out: seeds (and grammar scenes) that no training uses.")]


@with_settings
def sae_collect_command(
    out: Annotated[Path, typer.Option(help="Folder for the shards and the manifest.")],
    prompts: Prompts = None,
    model: Model = "mini",
    site: Annotated[
        list[str] | None, typer.Option(help="Site, as 'riebench blocks' lists them; may be repeated; 'all'.")
    ] = None,
    count: Count = None,
    column: Column = None,
    split: Split = "train",
    steps: Annotated[int, typer.Option(help="Denoising steps of each run.")] = 1,
    positions: Annotated[
        int | None, typer.Option(help="Positions drawn at random from each step of each run. Default: all.")
    ] = None,
    store: Annotated[str, typer.Option(help="Type of the stored numbers: float16 or bfloat16.")] = "float16",
    shard_prompts: Annotated[
        int | None, typer.Option(min=1, help="Prompts of each shard; 100, or fewer where that is above 256 MiB.")
    ] = None,
    *,
    settings: Mapping[str, Any],
    batch: Batch = 8,
    workers: Annotated[int, typer.Option(min=1, help="Processes that generate, by Ray if more than one.")] = 1,
) -> int:
    """Collect the values at sites, one vector a position, into half-precision files to train SAEs on.

    The same command with the same --out makes only the shards that are missing there.

    Example: riebench sae collect --prompts grammar --count 4000 --out values
    """
    from riebench.training.collect_values import collect

    if prompts is None:
        raise UserError("no prompts were named; give a file with --prompts, or --prompts grammar --count 4000")
    collected = collect(
        model,
        site or "all",
        prompts=prompts,
        out=out,
        count=count,
        split=split,  # type: ignore[arg-type]
        column=column,
        steps=steps,
        positions=positions,
        batch=batch,
        store=store,  # type: ignore[arg-type]  # collect refuses what it does not know
        shard_prompts=shard_prompts,
        workers=workers,
        settings=dict(settings),
    )
    facts = collected.facts
    total = sum(facts.vectors(n)[s] for n in range(facts.shard_count) for s in facts.sites)
    shards = f"{collected.shards} of {facts.shard_count} shards in {collected.folder}"
    print(f"{shards}; {total:,} vectors when all are there")
    return 0 if collected.signal is None else 128 + collected.signal
