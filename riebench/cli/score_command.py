"""``riebench score`` and ``riebench metrics``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from riebench.cli.messages import is_quiet
from riebench.cli.run_command import sum_up
from riebench.cli.shared_options import Batch, Device, Metrics, Model, NameValue, Weights, name_and_value
from riebench.pairs.pair import MAX_SEED
from riebench.util.errors import UserError

HELP = """Score pictures that are there: those of a finished run by further metrics, or those of any editor.

Examples:

  riebench score runs/mine --metrics psnr_outside,ssim_outside

  riebench score runs/mine --metric-command 'python my_scorer.py {folder}'

  riebench score --images my_pictures --name my-editor --model sdxl-turbo --pairs pairs.json --out runs/mine

A run's own pictures (--keep-images) are scored without generating anything. The pictures of --images are named by the
ids of their pairs; base and source images are generated, and the same masks, tables and pages apply as to a method. A
metric command is given a folder with pictures and pictures.csv (file, pair_id, prompt, original_prompt, and the files
of base, source and masks) and leaves scores.csv in it: file, and a column for each metric.
"""


def score_command(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="Folder of a run, without --images.")] = None,
    metrics: Metrics = None,
    metric_command: Annotated[
        str | None, typer.Option(help="Program that measures, with {folder} for the folder of pictures.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of pictures named by the ids of their pairs.")] = None,
    name: Annotated[str | None, typer.Option(help="What made them, as tables call it.")] = None,
    strength: Annotated[float, typer.Option(help="Strength that their records have.")] = 1.0,
    model: Model = "mini",
    pairs: Annotated[Path | None, typer.Option(help="Pair file (JSON); the model's own unless given.")] = None,
    category: Annotated[list[str] | None, typer.Option(help="Category by number or name; may be given again.")] = None,
    pair_id: Annotated[
        list[str] | None, typer.Option("--id", envvar="RIEBENCH_SCORE_ID", help="Pair by id; may be given again.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Pairs of each category at most.")] = None,
    protocol: Annotated[str | None, typer.Option(help="riebench, or paper.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps of base and source run.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=MAX_SEED, help="Seed of base and source run.")] = None,
    weights: Weights = None,
    device: Device = None,
    setting: Annotated[
        list[NameValue] | None,
        typer.Option(
            "--set",
            envvar="RIEBENCH_SCORE_SET",
            parser=name_and_value,
            help="Setting of an instrument, see 'riebench settings'.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for their records; may be that of a run.")] = None,
    keep_images: Annotated[int, typer.Option(min=0, help="Pairs of each category whose pictures are kept.")] = 3,
    batch: Batch = 8,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Make failed records again.")] = False,
) -> int:
    settings = {"weights": weights, "device": device, **dict(setting or ())}
    if (run is None) == (images is None):
        raise UserError("give the folder of a run, or --images with --name")
    if run is not None:
        if metrics is None and metric_command is None:
            raise UserError("nothing to add; give --metrics, as --metrics psnr_outside, or --metric-command")
        return _add(run, metrics, metric_command, settings)
    if name is None or images is None:
        raise UserError("the pictures need a name for tables; give --name, as --name my-editor")
    from riebench.engine.request import resolve_pictures

    request, chosen = resolve_pictures(
        name,
        images,
        strength,
        model=model,
        pairs=pairs,
        category=category or (),
        ids=pair_id or (),
        limit=limit,
        protocol=protocol,
        steps=steps,
        seed=seed,
        settings=settings,
        keep_images=keep_images,
        batch=batch,
        metrics=metrics,
    )
    from riebench.engine.run import carry_out

    done = carry_out(request, chosen, out, quiet=is_quiet(), retry_failed=retry_failed)
    code = sum_up(done)
    return max(code, _add(done.folder, None, metric_command, settings)) if metric_command and not done.signal else code


def _add(run: Path, metrics: str | None, command: str | None, settings: Mapping[str, object]) -> int:
    """Add metrics to a run; gives the exit code."""
    missing: dict[Path, None] = {}
    if metrics is not None:
        from riebench.engine.add_metrics import add_metrics

        added = add_metrics(run, [metrics], settings)
        print(f"{added.records} records have {', '.join(added.names)}")
        missing |= dict.fromkeys(added.missing)
    if command is not None:
        from riebench.engine.add_metrics import add_by_command

        added = add_by_command(run, command)
        print(f"{added.records} records have got {', '.join(added.names)}")
        missing |= dict.fromkeys(added.missing)
    _say_missing(list(missing))
    return 1 if missing else 0


def _say_missing(missing: Sequence[Path]) -> None:
    if missing:
        paths = "".join(f"\n  {path}" for path in missing)
        message = "%d pictures are missing or damaged; their records lack the metrics:%s"
        logging.getLogger(__name__).warning(message, len(missing), paths)


def metrics_command(
    name: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Metrics, also as my_file.py:function.")
    ] = None,
) -> None:
    """List metrics: what each measures, its sets, and what it needs; broken plug-ins with their error.

    Examples: riebench metrics; riebench metrics my_file.py:sharpness
    """
    from rich.table import Table
    from rich.text import Text

    from riebench.metrics.catalogue import listed_metrics
    from riebench.report.summary import wide_console

    table = Table("metric", "sets", "needs", "what it measures", "from")
    for listed in listed_metrics(name):
        metric = listed.entry
        if metric is None:
            table.add_row(*map(Text, (listed.name, "", "", f"BROKEN: {listed.error}", listed.origin)))
            continue
        sets = [name for name, has in (("default", not metric.optional), ("published", metric.published)) if has]
        needs = metric.scorer or ("the drawn world" if metric.drawn_world else "")
        origin = "riebench" if metric.from_riebench else listed.origin
        table.add_row(*map(Text, (metric.name, ", ".join(sets), needs, metric.says, origin)))
    wide_console().print(table)


score_command.__doc__ = HELP
