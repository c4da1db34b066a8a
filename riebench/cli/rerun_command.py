"""``riebench rerun``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from riebench.cli.messages import is_quiet
from riebench.cli.run_command import sum_up


def rerun_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run.")],
    out: Annotated[Path | None, typer.Option(help="Folder to run in anew; without it, DIR gets what it lacks.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Make failed records again.")] = False,
    max_failures: Annotated[
        int | None, typer.Option(min=1, help="End after so many pairs with a failure in this session.")
    ] = None,
) -> int:
    """Repeat a run from its run.json: every command that wrote to the folder, in order.

    Example: riebench rerun runs/demo --out runs/again
    """
    from riebench.engine.request import requests_of

    asked = [(request, request.pairs()) for request in requests_of(folder)]
    from riebench.engine.run import carry_out

    code = 0
    for request, pairs in asked:
        done = carry_out(
            request, pairs, out or folder, quiet=is_quiet(), retry_failed=retry_failed, max_failures=max_failures
        )
        code = max(code, sum_up(done))
        if done.signal is not None:
            break
    return code
