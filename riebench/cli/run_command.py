"""``riebench run`` and ``riebench rerun``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from riebench.cli.shared_options import with_run_options
from riebench.engine.run_options import RunOptions
from riebench.report.summary import summarize, wide_console

if TYPE_CHECKING:
    from riebench.engine.request import Request
    from riebench.engine.session import Session
    from riebench.settings.lpips_search import SearchOptions


@with_run_options()
def run_command(
    options: RunOptions,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    trace: Annotated[bool, typer.Option("--trace", help="Print at the end where time and memory went.")] = False,
) -> int:
    """Run a benchmark: methods, blocks and strengths over pairs.

    Examples:

      riebench run --method sae --block down.2.1

      riebench run --method steering --block all --strength 0.25,0.5,1,2 --category colour

      riebench run --model sdxl-turbo --preset paper --pairs riebench.json --dry-run

    The same command with the same --out does only what is missing there.

    Every option is also an environment variable, as RIEBENCH_RUN_METHOD; several values have blanks between them.
    """
    from riebench.engine.request import resolve

    request, pairs = resolve(options)
    if dry_run:
        if request.settings.sae.folder is not None:
            from riebench.engine.sae_check import read_saes

            read_saes(request)
        _print_plan(request)
        return 0
    from riebench.engine.run import carry_out

    if request.at_lpips is not None:
        _announce(request.at_lpips)
    with _tracing() if trace else nullcontext():
        session = carry_out(request, pairs, options, beside=True)
    return sum_up(session)


def _announce(search: SearchOptions) -> None:
    """Say what is searched for."""
    budgets = " and ".join(f"{budget:g}" for budget in search.budgets)
    what = "searching, for each pair and method, a strength up to %g where LPIPS to the base is %s (within %.0f %%)"
    logging.getLogger(__name__).info(what, search.most, budgets, 100 * search.within)


@contextmanager
def _tracing() -> Iterator[None]:
    from riebench.util.trace import tracing

    with tracing() as seen:
        yield
    # A warning, as --quiet shows it: it was asked for.
    logging.getLogger(__name__).warning("time and memory by stage\n%s", "\n".join(seen.lines()))


def sum_up(done: Session) -> int:
    """Show the table of a run and how it went.

    Returns:
        The exit code: 0, 1 if there are failures, or 128 and the number of the signal that ended it (Ctrl-C: 130).
    """
    failures = list(done.statuses.values()).count("failed")  # of earlier sessions too
    if done.statuses:
        summarize(done.folder, wide_console())
    failed = f"; {failures} records failed (--retry-failed repeats them)" if failures else ""
    print(f"{done.pairs} {'pair' if done.pairs == 1 else 'pairs'} in {done.seconds:.0f} s{failed}")
    if done.signal is not None:
        return 128 + done.signal
    return 1 if failures else 0


def _print_plan(request: Request) -> None:
    from rich.table import Table

    from riebench.engine.forecast import forecast
    from riebench.records import ALL_STEPS, interval_name

    plan = forecast(request)
    table = Table("method", "options", "blocks", "strengths", "on steps", title="settings", title_justify="left")
    for c in request.conditions:
        options = " ".join(f"{option}={value}" for option, value in c.options.items() if value is not None)
        intervals = ", ".join(interval_name(steps) if steps else ALL_STEPS for steps in c.on_steps)
        table.add_row(c.method, options, "+".join(c.sites), ", ".join(f"{s:g}" for s in c.strengths), intervals)
    wide_console().print(table, markup=False)
    memory = "small" if plan.memory is None else f"about {plan.memory / 1e9:.0f} GB"
    times = [f"about {_duration(s)} on {device}" for device, s in plan.seconds.items()]
    unknown_time = "not known before these weights have run on this device: run with --limit 1 --category 1"
    print(
        f"model     {request.model}, protocol {request.protocol}, {request.steps} step{'s' * (request.steps > 1)}\n"
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


@with_run_options("retry_failed", "max_failures")
def rerun_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run.")],
    out: Annotated[Path | None, typer.Option(help="Folder to run in anew; without it, DIR gets what it lacks.")] = None,
    *,
    options: RunOptions,
) -> int:
    """Repeat a run from its run.json: every command that wrote to the folder, in order.

    Example: riebench rerun runs/demo --out runs/again
    """
    from riebench.engine.request import requests_of

    requests = [(request, request.pairs()) for request in requests_of(folder)]
    from riebench.engine.run import carry_out

    code, options = 0, replace(options, out=out or folder)
    for request, pairs in requests:
        session = carry_out(request, pairs, options, beside=True, repeated=folder)
        code = max(code, sum_up(session))
        if session.signal is not None:
            break
    return code
