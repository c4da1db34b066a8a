"""Train a grid of SAEs, from a data set or straight from a model. Needs no torch until the plan holds."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any

from riebench.records import only_writer
from riebench.training.capture import ALL, size_text
from riebench.training.training_plan import plan_training
from riebench.util.errors import UserError
from riebench.util.files import remove_torn
from riebench.util.progress import tracked


@dataclass(frozen=True)
class Trained:
    """What became of a training.

    Attributes:
        folders: of the SAEs; empty if it ended early.
        signal: that ended it early, if one did.
    """

    folders: Sequence[Path]
    signal: Signals | None = None


def train(
    data: str | Path | None = None,
    *,
    out: str | Path,
    site: str | Sequence[str] = ALL,
    preset: str | None = None,
    live: Mapping[str, Any] | None = None,
    device: str = "auto",
    log_every: int = 50,
    checkpoint_every: int = 500,
    quiet: bool = False,
    **given: Any,
) -> Trained:
    """Train a grid of SAEs in one pass over the data; goes on from the checkpoint that ``out`` holds.

    Args:
        data: folder that :func:`riebench.training.collect` filled; or ``live``.
        out: folder of the SAE folders, which ``sae.folder`` finds by their sites.
        site: site or sites; ``all`` for those of the data, or the model's default ones.
        preset: ``mini``, ``paper`` or ``paper-v1``.
        live: arguments of :func:`riebench.training.capture.resolve_capture` but ``site``, to train on what the model
            generates, without a data set.
        device: ``auto`` takes the best there is.
        log_every: steps between lines of the log.
        checkpoint_every: steps between checkpoints.
        quiet: whether to show no progress.
        given: axes of the grid (``k``, ``expansion``, ``aux``, ``frozen``, ``seeds``) and settings, see
            :class:`riebench.training.training_grid.Axes` and :class:`riebench.training.training_grid.SAESettings`.

    Raises:
        UserError: before the first step, if the data are not whole, the grid cannot be, the disk is too small or
            ``out`` holds another training; later, if a shard is damaged, a value or a loss is not finite.
    """
    plan = plan_training(
        data,
        out,
        site=site,
        preset=preset,
        live=live,
        device=device,
        log_every=log_every,
        checkpoint_every=checkpoint_every,
        **given,
    )
    if not quiet:
        _say(f"{len(plan.points)} SAEs of {', '.join(plan.widths)}; up to {size_text(plan.bytes)} in {plan.out}")
    folders = [plan.out / point.name for point in plan.points]
    try:
        plan.out.mkdir(parents=True, exist_ok=True)
        with only_writer(plan.out):
            for folder in (plan.out, *folders):
                remove_torn(folder)
            if plan.begin():
                from riebench.training.one_pass import train_plan

                ended = train_plan(plan, tracked("steps") if not quiet else iter)
                if ended is not None:
                    return Trained([], ended)
            from riebench.training.learning_curves import draw_learning_curves

            draw_learning_curves(plan.out)
    except OSError as error:
        raise UserError(f"the folder {plan.out} cannot be written ({error.strerror or error})") from None
    return Trained(folders)


def _say(text: str) -> None:
    print(f"riebench: {text}", file=sys.stderr, flush=True)
