"""``riebench methods``, ``riebench blocks`` and ``riebench pairs``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

PairFile = Annotated[Path | None, typer.Option("--pairs", help="Pair file (JSON); mini's own unless given.")]
pairs_app = typer.Typer(help="Look at pairs.", no_args_is_help=True)


def methods_command() -> None:
    """List methods with their options and defaults.

    Example: riebench methods
    """
    from riebench.methods.registry import find, names, option_fields

    table = Table("method", "options", "what it does")
    for name in names():
        cls = find(name)
        said = "\n".join(f"{f.name}={f.default}" for f in option_fields(cls).values())
        table.add_row(name, said, (cls.__doc__ or "").splitlines()[0])
    Console().print(table, markup=False)


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


@pairs_app.command("list")
def pairs_list(pairs: PairFile = None) -> None:
    """Count the pairs of a file by category.

    Example: riebench pairs list --pairs mine.json
    """
    from collections import Counter

    from riebench.pairs import CATEGORIES, load_pairs

    counts = Counter(p.editing_type_id for p in load_pairs(_path(pairs)))
    table = Table("category", "name", "pairs")
    for number, name in CATEGORIES.items():
        table.add_row(str(number), name, str(counts[number]))
    Console().print(table)


@pairs_app.command("show")
def pairs_show(pair_id: Annotated[str, typer.Argument(metavar="ID")], pairs: PairFile = None) -> None:
    """Print one pair.

    Example: riebench pairs show mini-6-00
    """
    from riebench.pairs import load_pairs, select

    print(select(load_pairs(_path(pairs)), ids=[pair_id])[0].model_dump_json(indent=2))


@pairs_app.command("check")
def pairs_check(pairs: Annotated[Path, typer.Argument(metavar="FILE")]) -> None:
    """Validate a pair file.

    Example: riebench pairs check mine.json
    """
    from riebench.pairs import load_pairs

    print(f"{pairs}: {len(load_pairs(pairs))} pairs, all well-formed")


def _path(pairs: Path | None) -> Path:
    from riebench.models import entry_named

    return pairs or entry_named("mini").pairs
