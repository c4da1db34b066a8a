"""``riebench bench``."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from riebench.cli.messages import is_quiet
from riebench.cli.shared_options import with_run_options
from riebench.engine.run_options import RunOptions
from riebench.pairs.pair_files import write_json
from riebench.report.summary import wide_console
from riebench.util.errors import UserError

if TYPE_CHECKING:
    from riebench.engine.bench import Bench


@with_run_options("steps", "model", "settings", "block", "batch")
def bench_command(
    options: RunOptions,
    pairs: Annotated[int, typer.Option(min=1, help="How many pairs, taken in turn from all categories.")] = 20,
    pair_file: Annotated[Path | None, typer.Option(help="Pair file (JSON). Default: the model's own.")] = None,
    memory: Annotated[
        bool, typer.Option("--memory", help="Measure peak memory with 10 and 1,000 pairs, too (takes long).")
    ] = False,
    out: Annotated[Path | None, typer.Option("--json", help="JSON file to write.")] = None,
) -> int:
    """Measure the engine against the least work, and against a plain loop that does everything for every setting.

    Twelve settings of the published sweep. Exit code 1 if a bar is missed.

    Example: riebench bench --pairs 20 --json bench.json
    """
    from riebench.engine.request import resolve
    from riebench.util.progress import progress_bar

    if out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise UserError(f"{out} cannot be written: --json expected a file in a folder that exists")
    request, everything = resolve(replace(options, preset="bench", pairs=pair_file, keep_images=0))
    chosen = spread_over_categories(everything, pairs)
    from riebench.engine.bench import bench, memory_bar

    with progress_bar("pairs", len(chosen), quiet=is_quiet()) as advance:
        result = bench(request, chosen, advance)
    if memory:
        logging.getLogger(__name__).info("measuring the peak memory with 10 and with 1,000 pairs")
        result.bars.append(memory_bar(request, everything))
    _show(result)
    if out is not None:
        write_json(out, as_json(result))
    return 0 if all(bar.met for bar in result.bars) else 1


def spread_over_categories(pairs: list[Any], count: int) -> list[Any]:
    """The first pair of each category, then the second of each, up to the limit."""
    met: dict[int, int] = {}
    turns = []
    for pair in pairs:
        turn = met.get(pair.editing_type_id, 0)
        met[pair.editing_type_id] = turn + 1
        turns.append(turn)
    order = sorted(range(len(pairs)), key=lambda i: turns[i])
    return [pairs[i] for i in order[:count]]


def as_json(result: Bench) -> dict[str, Any]:
    """The measurements as a JSON object."""
    sides = {"engine": result.engine, "plain": result.plain}
    return {
        "pairs": result.pairs,
        "settings": result.settings,
        **{
            name: {
                "seconds": side.seconds,
                "outside": side.outside,
                "denoiser_flops_of_first_pair": side.flops,
                "networks": {n: {"passes": c.passes, "seconds": c.seconds} for n, c in side.counts.by_name.items()},
            }
            for name, side in sides.items()
        },
        "denoiser_flops_of_first_pair_without_replay": result.flops_without_replay,
        "floor": result.floor,
        "largest_difference": result.difference,
        "peak_memory": result.peak,
        "bars": [{"name": b.name, "value": b.value, "bar": b.bar, "met": b.met} for b in result.bars],
    }


def _show(result: Bench) -> None:
    from rich.table import Table

    console = wide_console()
    engine, plain = result.engine, result.plain
    title = f"{result.pairs} pairs x {result.settings} settings"
    table = Table("network", "floor", "engine", "plain loop", "engine, s", "plain, s", title=title)
    for name, ours in engine.counts.by_name.items():
        theirs = plain.counts[name]
        floor = f"{result.floor[name]:,}" if name in result.floor else ""
        counts = (f"{ours.passes:,}", f"{theirs.passes:,}", f"{ours.seconds:.1f}", f"{theirs.seconds:.1f}")
        table.add_row(name, floor, *counts)
    outside = (f"{side.seconds - side.counts.inside:.1f}" for side in (engine, plain))
    table.add_row("outside networks", "", f"{engine.outside:.1%}", f"{plain.outside:.1%}", *outside)
    table.add_row("all", "", "", "", f"{engine.seconds:.1f}", f"{plain.seconds:.1f}")
    console.print(table, markup=False)
    bars = Table("measure", "value", "bar", "")
    for bar in result.bars:
        bars.add_row(bar.name, f"{bar.value:.4g}", bar.bar, "met" if bar.met else "MISSED")
    console.print(bars, markup=False)
    flops = [result.plain.flops, result.flops_without_replay, result.engine.flops]
    print(
        "floor: pairs x (2 + settings) runs, each with its steps in the denoiser and one picture decoded; each\n"
        "prompt, each (picture, phrase) and each picture, whole and by region, once\n"
        f"denoiser, first pair: {flops[0] / 1e9:.1f} GFLOP in the plain loop, {flops[1] / 1e9:.1f} without replay, "
        f"{flops[2] / 1e9:.1f} in the engine\n"
        f"peak memory {result.peak / 1e6:.0f} MB"
    )
    missed = sum(not bar.met for bar in result.bars)
    print(f"{missed} bars missed" if missed else "all bars met")
