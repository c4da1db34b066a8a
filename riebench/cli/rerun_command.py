"""``riebench rerun``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from riebench.cli.messages import is_quiet
from riebench.cli.run_command import sum_up
from riebench.cli.shared_options import with_run_options
from riebench.engine.run_options import RunOptions


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

    code, options = 0, replace(options, out=out or folder, quiet=is_quiet())
    for request, pairs in requests:
        session = carry_out(request, pairs, options)
        code = max(code, sum_up(session))
        if session.signal is not None:
            break
    return code
