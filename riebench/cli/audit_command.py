"""``riebench audit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from riebench.cli.messages import is_quiet


def audit_command(
    out: Annotated[Path, typer.Option(help="Folder for text, page, tables, figures, and its own runs.")],
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN...",
            help="Folders of finished runs: the first is audited, others are the same pairs with other seeds or by "
            "another protocol. Without any, the audit makes its own on mini.",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Pairs of each category at most, of its own runs.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="How many of its own runs have other seeds; 2 unless given.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that its own runs take, by Ray if more than one; 1 unless given."),
    ] = None,
    budget: Annotated[float, typer.Option(help="LPIPS at which arms are compared.")] = 0.05,
) -> int:
    """Audit the benchmark: what can its scores tell, from how many pairs on, and where do they mislead?

    The same command with the same --out makes only the records that are missing there.

    Example: riebench audit --limit 2 --out runs/audit
    """
    from riebench.audit.auditing import audit

    done = audit(
        runs or (),
        out=out,
        limit=limit,
        seeds=seeds,
        workers=workers,
        budget=budget,
        quiet=is_quiet(),
    )
    if done.signal is not None:
        return 128 + done.signal
    assert done.findings is not None
    for ranking, sentences in done.findings.verdicts().items():
        print(f"\nranking by {ranking}")
        for sentence in sentences:
            print(f"  {sentence}")
    print()
    for part, reason in done.findings.left_out.items():
        print(f"left out: {part}: {reason}")
    failed = f"; {done.failed} records failed" if done.failed else ""
    print(f"{out}: audit.md, index.html, CSV files, figures{failed}")
    return 1 if done.failed else 0
