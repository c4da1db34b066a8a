"""``riebench run``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from riebench.cli.messages import is_quiet
from riebench.cli.shared_options import Batch, Device, Metrics, Model, NameValue, Weights, name_and_value
from riebench.pairs.pair import MAX_SEED
from riebench.records import ALL_STEPS, interval_name
from riebench.report.summary import summarize, wide_console

if TYPE_CHECKING:
    from riebench.engine.request import Request
    from riebench.engine.session import Session

HELP = """Run a benchmark: methods, blocks and strengths over pairs.

Examples:

  riebench run --method sae --block down.2.1

  riebench run --method steering --block all --strength 0.25,0.5,1,2 --category colour

  riebench run --model sdxl-turbo --preset paper --pairs riebench.json --dry-run

The same command with the same --out does only what is missing there.

Every option is also an environment variable, as RIEBENCH_RUN_METHOD.
"""


def run_command(
    method: Annotated[
        list[str] | None, typer.Option(help="Method; may be given again; 'all' for all that are installed.")
    ] = None,
    block: Annotated[
        list[str] | None,
        typer.Option(help="Block; given again, all are edited together; 'all' for the model's default ones."),
    ] = None,
    alone: Annotated[bool, typer.Option("--alone", help="Run each of the blocks alone, too.")] = False,
    k: Annotated[str | None, typer.Option(help="Features (or neurons) moved in each direction, as 20,40.")] = None,
    strength: Annotated[
        str | None, typer.Option(help="Factors on the whole intervention; 0.25,0.5,1,1.5,2 unless given.")
    ] = None,
    at_lpips: Annotated[
        str | None,
        typer.Option(help="LPIPS to search the strength for, pair by pair and besides --strength, as 0.05,0.1,0.2."),
    ] = None,
    at_lpips_within: Annotated[
        float | None,
        typer.Option(help="Share of it by which a picture's may differ; 0.05, as reports count, unless given."),
    ] = None,
    at_lpips_most: Annotated[
        float | None, typer.Option(help="Largest strength that the search tries; 32 unless given.")
    ] = None,
    option: Annotated[
        list[NameValue] | None,
        typer.Option(parser=name_and_value, help="Option of a method, name=value; may be given again."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Published sweep instead of methods and strengths: paper, paper-small.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="riebench, or paper (the published behaviour, its faults included).")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; the model's own unless given.")] = None,
    on_steps: Annotated[
        str | None,
        typer.Option(help="Steps, from 0, in which it is on, as 0,1-3,all; each interval is run. All unless given."),
    ] = None,
    model: Model = "mini",
    weights: Weights = None,
    device: Device = None,
    dtype: Annotated[str | None, typer.Option(help="float32 (as published), bfloat16 or float16.")] = None,
    setting: Annotated[
        list[NameValue] | None,
        typer.Option(
            "--set",
            envvar="RIEBENCH_RUN_SET",
            parser=name_and_value,
            help="Setting of an instrument, see 'riebench settings'.",
        ),
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
    metrics: Metrics = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Make failed records again; otherwise only those missing in --out.")
    ] = False,
    max_failures: Annotated[
        int | None, typer.Option(min=1, help="End after so many pairs with a failure in this session.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that work pairs off, by Ray if more than one.")] = 1,
    ray_address: Annotated[
        str | None, typer.Option(help="Ray cluster to use; auto for the one that this machine is in.")
    ] = None,
    gpus_per_worker: Annotated[
        float | None, typer.Option(min=0, help="GPUs are split evenly between workers unless given.")
    ] = None,
    cpus_per_worker: Annotated[
        float | None, typer.Option(min=0.1, help="Cores are split evenly between workers unless given.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Discard the records in the folder and start over.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    trace: Annotated[bool, typer.Option("--trace", help="Print at the end where time and memory went.")] = False,
) -> int:
    from riebench.engine.request import resolve

    request, chosen = resolve(
        method,
        block,
        model=model,
        pairs=pairs,
        strength=None if strength is None else strength.split(","),
        k=None if k is None else k.split(","),
        options={name.replace("-", "_"): value for name, value in option or ()},
        preset=preset,
        protocol=protocol,
        alone=alone,
        steps=steps,
        on_steps=on_steps,
        seed=seed,
        category=category or (),
        ids=pair_id or (),
        limit=limit,
        settings={"weights": weights, "device": device, "dtype": dtype, **dict(setting or ())},
        keep_images=keep_images,
        batch=batch,
        metrics=metrics,
        at_lpips=None if at_lpips is None else at_lpips.split(","),
        at_lpips_within=at_lpips_within,
        at_lpips_most=at_lpips_most,
    )
    if dry_run:
        _print_plan(request)
        return 0
    from riebench.engine.run import carry_out
    from riebench.util.workers import Workers

    with _tracing() if trace else nullcontext():
        done = carry_out(
            request,
            chosen,
            out,
            force=force,
            quiet=is_quiet(),
            retry_failed=retry_failed,
            max_failures=max_failures,
            workers=Workers(workers, ray_address, gpus_per_worker, cpus_per_worker),
        )
    return sum_up(done)


@contextmanager
def _tracing() -> Iterator[None]:
    from riebench.util.trace import tracing

    with tracing() as seen:
        yield
    logging.getLogger(__name__).info("time and memory by stage\n%s", "\n".join(seen.lines()))


def sum_up(done: Session) -> int:
    """Show the table of a run and how it went.

    Returns:
        The exit code: 0, 1 if there are failures, or 128 and the number of the signal that ended it (Ctrl-C: 130).
    """
    failures = list(done.statuses.values()).count("failed")  # of earlier sessions too
    if done.statuses:
        summarize(done.folder, wide_console())
    failed = f"; {failures} records failed (--retry-failed repeats them)" if failures else ""
    print(f"{done.pairs} pairs in {done.seconds:.0f} s{failed}")
    if done.signal is not None:
        return 128 + done.signal
    return 1 if failures else 0


def _print_plan(request: Request) -> None:
    from rich.table import Table

    from riebench.engine.forecast import forecast

    plan = forecast(request)
    table = Table("method", "options", "blocks", "strengths", "on steps", title="settings", title_justify="left")
    for c in request.conditions:
        given = " ".join(f"{option}={value}" for option, value in c.options.items() if value is not None)
        intervals = ", ".join(interval_name(steps) if steps else ALL_STEPS for steps in c.on_steps)
        table.add_row(c.method, given, "+".join(c.sites), ", ".join(f"{s:g}" for s in c.strengths), intervals)
    wide_console().print(table, markup=False)
    memory = "small" if plan.memory is None else f"about {plan.memory / 1e9:.0f} GB"
    times = [f"about {_duration(s)} on {device}" for device, s in plan.seconds.items()]
    unknown_time = "known once a first pair has been measured: run with --limit 1 --category 1"
    print(
        f"model     {request.model}, protocol {request.protocol}, {request.steps} steps\n"
        f"pairs     {plan.pairs}\n"
        f"settings  {plan.settings}; {plan.pairs * plan.settings} records"
        f"{f', and about {plan.pairs * plan.searched} more in search of an LPIPS' if plan.searched else ''}\n"
        f"forwards  {plan.forwards:,} of the denoiser (a plain loop would need {plan.plain:,})\n"
        f"memory    {memory}\n"
        f"time      {', '.join(times) or unknown_time}"
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


run_command.__doc__ = HELP
