"""``riebench run``."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from riebench.cli.shared_options import Batch, Device, Model, NoReplay, Weights
from riebench.cli.table_command import show, wide_console
from riebench.util.errors import UserError
from riebench.pairs.pair import MAX_SEED, Pair

if TYPE_CHECKING:
    from riebench.engine.run import RunSpec
    from riebench.engine.session import Session
    from riebench.spec.presets import Preset
    from riebench.spec.settings import Settings
    from riebench.spec.sweeps import Sweep

HELP = """Run a benchmark: methods, blocks and strengths over pairs.

Examples:

  riebench run --method sae --block down.2.1

  riebench run --method steering --block all --strength 0.25,0.5,1,2 --category colour

  riebench run --model sdxl-turbo --preset paper --pairs riebench.json --dry-run

The same command with the same --out does only what is missing there.

Every option is also an environment variable, as RIEBENCH_RUN_METHOD.
"""
STRENGTHS = "0.25,0.5,1,1.5,2"


def numbers(text: str, option: str) -> list[float]:
    """Comma-separated numbers of an option."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{option} is {text!r}; expected numbers with commas between, as 0.5,1,2") from None
    if not all(map(math.isfinite, found)):
        raise UserError(f"{option} is {text!r}; expected finite numbers")
    return list(dict.fromkeys(found))


def counts(text: str, option: str) -> list[int]:
    """Comma-separated positive whole numbers of an option."""
    found = numbers(text, option)
    if any(x < 1 or x != int(x) for x in found):
        raise UserError(f"{option} is {text!r}; expected whole numbers above 0, as 20,40")
    return [int(x) for x in found]


def options(words: list[str]) -> dict[str, str]:
    """``name=value`` words as a mapping."""
    found = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name:
            raise UserError(f"--option is {word!r}; expected name=value, as only_add=true")
        found[name.replace("-", "_")] = value
    return found


def run_command(
    method: Annotated[
        list[str] | None, typer.Option(help="Method; may be given again; 'all' for all that are installed.")
    ] = None,
    block: Annotated[
        list[str] | None, typer.Option(help="Block; given again, all are edited together; 'all' for the four.")
    ] = None,
    alone: Annotated[bool, typer.Option("--alone", help="Run each of the blocks alone, too.")] = False,
    k: Annotated[str | None, typer.Option(help="Features (or neurons) moved in each direction, as 20,40.")] = None,
    strength: Annotated[
        str | None, typer.Option(help=f"Factors on the whole intervention; {STRENGTHS} unless given.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="Option of a method, name=value; may be given again.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Published sweep instead of methods and strengths: paper, paper-small.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="riebench, or paper (the published behaviour, its faults included).")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; the model's own unless given.")] = None,
    model: Model = "mini",
    weights: Weights = None,
    device: Device = None,
    dtype: Annotated[str | None, typer.Option(help="float32 (as published), bfloat16 or float16.")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", envvar="RIEBENCH_RUN_SET", help="Setting of an instrument, see 'riebench settings'."),
    ] = None,
    pairs: Annotated[Path | None, typer.Option(help="Pair file (JSON); the model's own unless given.")] = None,
    category: Annotated[list[str] | None, typer.Option(help="Category by number or name; may be given again.")] = None,
    pair_id: Annotated[
        list[str] | None, typer.Option("--id", envvar="RIEBENCH_RUN_ID", help="Pair by id; may be given again.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Pairs of each category at most.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=MAX_SEED, help="Seed of all runs; each pair's own (or 42) unless given.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for records, curve and pictures.")] = None,
    keep_images: Annotated[int, typer.Option(min=0, help="Pairs of each category whose pictures are kept.")] = 3,
    batch: Batch = 8,
    no_replay: NoReplay = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Do what failed again; otherwise only what is missing in --out.")
    ] = False,
    max_failures: Annotated[
        int | None, typer.Option(min=1, help="End after so many pairs with a failure, of those run now.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that work pairs off, by Ray if more than one.")] = 1,
    ray_address: Annotated[str | None, typer.Option(help="Ray cluster to use, or auto for the one around.")] = None,
    gpus_per_worker: Annotated[float | None, typer.Option(min=0, help="What there is is shared out.")] = None,
    cpus_per_worker: Annotated[float | None, typer.Option(min=0.1, help="What there is is shared out.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Discard what is in the folder and start over.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    trace: Annotated[bool, typer.Option("--trace", help="Say at the end where time and memory went.")] = False,
) -> int:
    from riebench.catalog import entry_named
    from riebench.pairs import category_named, load_pairs, select
    from riebench.spec.presets import preset_named
    from riebench.spec.settings import parse_settings
    from riebench.weights import locate

    entry = entry_named(model)
    chosen_preset = preset_named(preset) if preset else None
    settings = parse_settings(setting or [], weights=weights, model__device=device, model__dtype=dtype)
    if not entry.embedded and not dry_run:
        locate(model, settings, optional=("sae",))  # before anything heavy is imported
    file = pairs or entry.pairs
    if file is None:
        raise UserError(f"{model} has no pairs of its own; give a file with --pairs, see 'riebench pairs build --help'")
    most = limit if limit is not None else chosen_preset.limit if chosen_preset else None
    chosen = select(load_pairs(file), [category_named(c) for c in category or []], pair_id or [], most)
    sweeps = _sweeps(chosen_preset, method or [], k, strength, option or [])
    if not block and chosen_preset is None:
        raise UserError("no block was named; give --block, as --block down.2.1 or --block all")
    spec = _spec(
        sweeps,
        chosen_preset,
        settings,
        block=block,
        alone=alone,
        steps=steps,
        model=model,
        protocol=protocol,
        seed=seed,
        batch=batch,
        replay=not no_replay,
    )
    if dry_run:
        _print_plan(spec, chosen)
        return 0
    from riebench.engine import Workers, carry_out
    from riebench.util.trace import tracing

    with tracing() as seen:
        done = carry_out(
            spec,
            chosen,
            out,
            keep_images,
            force,
            file,
            retry_failed=retry_failed,
            max_failures=max_failures,
            workers=Workers(workers, ray_address, gpus_per_worker, cpus_per_worker),
        )
    if trace:
        print("\n".join(seen.lines()), file=sys.stderr)
    return sum_up(done)


def sum_up(done: Session) -> int:
    """Show the table of a run and say how it went.

    Returns:
        The exit code: 0, 1 if there are failures, or 128 and the number of the signal that ended it (Ctrl-C: 130).
    """
    if done.records:
        show(done.folder, wide_console())
    failed = f"; {done.failed} records failed (--retry-failed repeats them)" if done.failed else ""
    print(f"{done.pairs} pairs in {done.seconds:.0f} s{failed}")
    if done.signal is not None:
        return 128 + done.signal
    return 1 if done.failed else 0


def _sweeps(
    preset: Preset | None, methods: list[str], k: str | None, strength: str | None, words: list[str]
) -> list[Sweep]:
    """What is to be tried: a preset's sweeps, or one made of the options.

    Raises:
        UserError: if both are given, or neither.
    """
    from riebench.spec.sweeps import Sweep

    if preset is not None:
        given = [name for name, value in (("--method", methods), ("--k", k), ("--strength", strength)) if value]
        if given:
            raise UserError(f"a preset says its methods, k and strengths; leave out {given[0]} or --preset")
        return list(preset.sweeps)
    if not methods:
        raise UserError("no method was named; give --method, as --method sae, or --preset paper")
    from riebench.methods.registry import names

    every = list(dict.fromkeys(n for m in methods for n in (names() if m == "all" else [m])))
    return [
        Sweep(
            every,
            numbers(strength or STRENGTHS, "--strength"),
            counts(k, "--k") if k else (),
            options(words),
        )
    ]


def _spec(
    sweeps: list[Sweep],
    preset: Preset | None,
    settings: Settings,
    *,
    block: list[str] | None,
    alone: bool,
    steps: int | None,
    model: str,
    protocol: str | None,
    seed: int | None,
    batch: int,
    replay: bool,
) -> RunSpec:
    from riebench.engine.run import RunSpec
    from riebench.spec.protocols import protocol_named

    if preset is not None:
        steps = preset.steps if steps is None else steps
        protocol = protocol or preset.protocol
    return RunSpec(
        sweeps=sweeps,
        blocks=block or ["all"],
        alone=alone,
        steps=steps,
        model=model,
        protocol=protocol_named(protocol or "riebench").name,
        seed=seed,
        batch=batch,
        replay=replay,
        settings=settings,
    )


def _print_plan(spec: RunSpec, pairs: list[Pair]) -> None:
    from rich.table import Table

    from riebench.engine.forecast import forecast
    from riebench.methods.registry import find, option_fields

    plan = forecast(spec, pairs)
    table = Table("method", "k", "options", "strengths", title="settings", title_justify="left")
    for sweep in spec.sweeps:
        for name in sweep.methods:
            known = option_fields(find(name))
            said = " ".join(f"{o}={v}" for o, v in sweep.options.items() if o in known)
            ks = ", ".join(map(str, sweep.k)) if "k" in known else ""
            table.add_row(name, ks, said, ", ".join(f"{s:g}" for s in sweep.strengths))
    console = wide_console()
    console.print(table, markup=False)
    ways = f"{plan.settings} settings on {'+'.join(spec.blocks)}" + (" and each block alone" if spec.alone else "")
    memory = "small" if plan.memory is None else f"about {plan.memory / 1e9:.0f} GB"
    times = [f"about {_duration(s)} on {device}" for device, s in plan.seconds.items()]
    unknown_time = "known once a first pair has been measured: run with --limit 1 --category 1"
    print(
        f"model     {spec.model}, protocol {spec.protocol}\n"
        f"pairs     {plan.pairs}\n"
        f"settings  {ways}; {plan.pairs * plan.settings} records\n"
        f"forwards  {plan.forwards:,} of the U-Net (a plain loop would need {plan.plain:,})\n"
        f"memory    {memory}\n"
        f"time      {', '.join(times) or unknown_time}"
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


run_command.__doc__ = HELP
