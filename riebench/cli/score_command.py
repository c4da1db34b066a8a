"""``riebench score`` and ``riebench metrics``."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from riebench.cli.run_command import sum_up
from riebench.cli.shared_options import with_run_options
from riebench.engine.run_options import OPTIONS, RunOptions
from riebench.util.errors import UserError

if TYPE_CHECKING:
    from riebench.engine.add_metrics import AddedMetrics


OF_IMAGES = (
    *("model", "pairs", "category", "ids", "limit", "protocol", "steps", "seed"),
    *("out", "keep_images", "batch", "retry_failed"),
)
"""Options that only pictures of another editor have use for."""
STRENGTH = 1.0


@with_run_options(*OF_IMAGES, "settings", "metrics")
def score_command(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="Folder of a run, without --images.")] = None,
    metric_command: Annotated[
        str | None, typer.Option(help="Program that measures pictures; {folder} stands for their folder.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of pictures named by the ids of their pairs.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the editor that made the pictures, for tables.")] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Measure the metrics of all records of RUN anew, as when one was mended.")
    ] = False,
    strength: Annotated[float, typer.Option(help="Strength that the records of the pictures have.")] = STRENGTH,
    *,
    options: RunOptions,
) -> int:
    """Score existing pictures: those of a finished run by further metrics, or those of any editor.

    Examples:

      riebench score runs/mine --metrics psnr_outside,ssim_outside

      riebench score runs/mine --metric-command 'python my_scorer.py {folder}'

      riebench score --images my_pictures --name my-editor --model sdxl-turbo --pairs pairs.json --out runs/mine

    The pictures that a run has kept (--keep-images) are scored without generating anything. Those of --images are
    named by the ids of their pairs; base and source images are generated, and masks, tables and pages are those of a
    method. A metric command gets a folder with pictures and pictures.csv (file, pair_id, prompt, original_prompt, and
    the files of base, source and masks) and leaves scores.csv there: file, and a column for each metric.
    """
    if (run is None) == (images is None):
        raise UserError("give the folder of a run, or --images with --name")
    if run is not None:
        if options.metrics is None and metric_command is None:
            raise UserError("nothing to add; give --metrics, as --metrics psnr_outside, or --metric-command")
        _refuse_of_images(options, {"name": name, "strength": None if strength == STRENGTH else strength})
        return _add(run, options, metric_command, again)
    if again:
        raise UserError("--again measures the metrics of a run anew; give its folder instead of --images")
    if name is None or images is None:
        raise UserError("the pictures need a name for tables; give --name, as --name my-editor")
    from riebench.engine.request import resolve_pictures

    request, pairs = resolve_pictures(name, images, replace(options, strength=strength))
    from riebench.engine.run import carry_out

    session = carry_out(request, pairs, options)
    code = sum_up(session)
    if metric_command is None or session.signal is not None:
        return code
    return max(code, _add(session.folder, replace(options, metrics=None), metric_command))


def _refuse_of_images(options: RunOptions, others: Mapping[str, Any]) -> None:
    """Refuse options of pictures of another editor beside the folder of a run.

    Raises:
        UserError: if there is one.
    """
    usual = RunOptions()
    given = [OPTIONS[name].flag or name for name in OF_IMAGES if getattr(options, name) != getattr(usual, name)]
    given += [name for name, value in others.items() if value is not None]
    if given:
        raise UserError(f"--{given[0].replace('_', '-')} is for --images; leave it out: a run's folder says it itself")


def _add(run: Path, options: RunOptions, command: str | None, again: bool = False) -> int:
    """Add the metrics of the options and of a command to a run; returns the exit code."""
    missing: dict[Path, None] = {}
    unscored: Mapping[str, list[str]] = {}
    if options.metrics is not None:
        from riebench.engine.add_metrics import add_metrics

        added = add_metrics(run, options.listed["metrics"], options.settings or {}, again)
        print(f"{added.records} records have {', '.join(added.names)}")
        _say_undefined(added)
        missing |= dict.fromkeys(added.missing)
    if command is not None:
        from riebench.engine.add_metrics import add_by_command

        added = add_by_command(run, command, again)
        print(f"{added.records} records have got {', '.join(added.names)}")
        _say_undefined(added)
        missing |= dict.fromkeys(added.missing)
        unscored = {name: files for name, files in added.unscored.items() if files}
    _warn_of("%d pictures are missing, damaged or changed since the run; their records lack the metrics:%s", missing)
    for name, files in unscored.items():
        _warn_of(f"the command gave no finite {name} for %d pictures, whose records lack it:%s", files)
    return 1 if missing or unscored else 0


def _say_undefined(added: AddedMetrics) -> None:
    for name, count in added.undefined.items():
        if count:
            print(f"{name} is undefined (null) for {count} of them")


def _warn_of(message: str, files: Collection[Path | str]) -> None:
    """Log a message with the number and the names of some files, if there are any."""
    if files:
        logging.getLogger(__name__).warning(message, len(files), "".join(f"\n  {file}" for file in files))


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
