"""``riebench ablate`` and ``riebench audit``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from riebench.cli.messages import is_quiet
from riebench.cli.sae_collect_command import Column, Count
from riebench.cli.shared_options import Batch, Model, with_settings


@with_settings
def ablate_command(
    out: Annotated[Path, typer.Option(help="Folder for records, tables, figures and the contact sheet.")],
    blocks: Annotated[
        str,
        typer.Option(
            help="What is zeroed in turn: 'all' blocks of the model, its 'default' ones (those of 'riebench run "
            "--block all'), or names with commas between; mid.0+up.0.0 is both at once."
        ),
    ] = "all",
    together: Annotated[
        str, typer.Option(help="Blocks of which every two are zeroed at once, too: all, default, or names.")
    ] = "",
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="N|FILE",
            help="How many of the model's own prompts (20 as published unless given), or a text file (one a line), "
            ".csv or .parquet.",
        ),
    ] = None,
    count: Count = None,
    column: Column = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps. Default: the model's own.")] = None,
    model: Model = "mini",
    *,
    settings: Mapping[str, Any],
    keep_images: Annotated[int, typer.Option(min=0, help="Prompts whose pictures are kept and on the sheet.")] = 4,
    batch: Batch = 8,
    workers: Annotated[int, typer.Option(min=1, help="Processes that generate, by Ray if more than one.")] = 1,
) -> int:
    """Zero the update of each block in turn: how far do pictures change, and (on mini) which attributes?

    The same command with the same --out makes only the prompts that are missing there.

    Example: riebench ablate --blocks all --together default --prompts 40 --out runs/ablation
    """
    from riebench.ablation.ablating import ablate

    ablated = ablate(
        model,
        blocks,
        together=together,
        prompts=prompts,
        count=count,
        column=column,
        steps=steps,
        out=out,
        batch=batch,
        keep_images=keep_images,
        workers=workers,
        quiet=is_quiet(),
        settings=settings,
    )
    if ablated.signal is not None:
        return 128 + ablated.signal
    assert ablated.table is not None
    from riebench.ablation.ablation_report import effects_table
    from riebench.report.summary import wide_console
    from riebench.report.texttable import print_table

    print_table(effects_table(ablated.table, ablated.ablation.prompts), wide_console())
    names = ", ".join(sorted(path.name for path in out.iterdir() if path.suffix in (".md", ".csv", ".png")))
    failed = sum(zeroing.status == "failed" for zeroing in ablated.zeroings)
    print(f"{out}: {names}{f'; {failed} of {len(ablated.zeroings)} pictures failed' if failed else ''}")
    return 1 if failed else 0


def audit_command(
    out: Annotated[Path, typer.Option(help="Folder for text, page, tables, figures, and its own runs.")],
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN...",
            help="Folders of finished runs: the first is audited, with others of its protocol and seeds; further ones "
            "are the same pairs with other seeds or by another protocol. Without any, the audit makes its own on mini.",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Pairs of each category at most, of its own runs.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="How many of its own runs have other seeds. Default: 2.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that its own runs take, by Ray if more than one. Default: 1."),
    ] = None,
    budget: Annotated[float, typer.Option(help="LPIPS at which methods are compared.")] = 0.05,
) -> int:
    """Audit the benchmark: which differences its scores detect, from how many pairs on, and where they mislead.

    The same command with the same --out makes only the records that are missing there.

    Example: riebench audit --limit 2 --out runs/audit
    """
    from riebench.audit.auditing import audit

    audited = audit(
        runs or (),
        out=out,
        limit=limit,
        seeds=seeds,
        workers=workers,
        budget=budget,
        quiet=is_quiet(),
    )
    if audited.signal is not None:
        return 128 + audited.signal
    assert audited.findings is not None
    for ranking, sentences in audited.findings.verdicts().items():
        print(f"\nranking by {ranking}")
        for sentence in sentences:
            print(f"  {sentence}")
    print()
    for part, reason in audited.findings.left_out.items():
        print(f"left out: {part}: {reason}")
    failed = f"; {audited.failed} records failed" if audited.failed else ""
    print(f"{out}: audit.md, index.html, CSV files, figures{failed}")
    return 1 if audited.failed else 0
