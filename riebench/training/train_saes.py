"""Train a grid of SAEs, from a data set or straight from a model. Needs no torch until the plan holds."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Any

from riebench.models.arguments import batch_kept
from riebench.training.capture import ALL, size_text
from riebench.training.training_plan import COUNTED, TRAINING, TrainingPlan, plan_training
from riebench.util.errors import UserError
from riebench.util.files import remove_torn
from riebench.util.work_folder import WorkFolder, check_work_folder, unwritable

if TYPE_CHECKING:
    from riebench.training.training_log import Callback

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """The result of a training.

    Attributes:
        folders: of the SAEs; empty if it ended early.
        signal: that ended it early, if one did.
        measured: name of each SAE to the measures of its last step: ``explained`` variance, ``l0`` and the share of
            ``dead`` features, of the step's batch.
    """

    folders: Sequence[Path]
    signal: Signals | None = None
    measured: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


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
    callback: Callback | None = None,
    tensorboard: bool = False,
    **options: Any,
) -> Trained:
    """Train a grid of SAEs in one pass over the data; goes on from the checkpoint that ``out`` holds.

    Args:
        data: folder that :func:`riebench.training.collect` filled; or ``live``.
        out: folder of the SAE folders, which ``sae.folder`` finds by their sites.
        site: site or sites; ``all`` for those of the data, or the model's default ones.
        preset: ``mini``, ``paper`` or ``paper-v1``.
        live: arguments of :func:`riebench.training.capture.resolve_capture` but ``site``, to train on what the model
            generates, without a data set.
        device: ``auto`` takes the best of this machine.
        log_every: steps between lines of the log.
        checkpoint_every: steps between checkpoints.
        quiet: whether to show no progress.
        callback: is called as ``callback(sae, step, measured)`` with each line of the log: the name of an SAE, the
            step, and loss, auxiliary loss, ``explained`` variance, ``l0`` and share of ``dead`` features.
        tensorboard: whether to write events for TensorBoard into the folder ``tensorboard`` of ``out``.
        options: axes of the grid (``kind``, ``k``, ``l1``, ``l0``, ``expansion``, ``aux``, ``frozen``, ``seeds``) and
            settings, see :class:`riebench.training.training_plan.Axes` and
            :class:`riebench.training.training_plan.SAESettings`.

    Raises:
        UserError: before the first step, if the data are not whole, the grid cannot be, the disk is too small, ``out``
            holds another training, or TensorBoard is not installed; later, if a shard is damaged, a value or a loss is
            not finite.
    """
    _check_watching(callback, tensorboard)
    plan = plan_training(
        data,
        out,
        site=site,
        preset=preset,
        live=live,
        device=device,
        log_every=log_every,
        checkpoint_every=checkpoint_every,
        **options,
    )
    check_work_folder(plan.out, TRAINING)
    folders = [plan.out / point.name for point in plan.points]
    from riebench.training.training_log import draw_learning_curves, last_lines, tensorboard_callback, warn_of_poor_saes

    loaded = plan.live and plan.live.model
    with batch_kept(loaded), WorkFolder(plan.out, TRAINING) as folder, unwritable(plan.out):
        for sae_folder in folders:
            remove_torn(sae_folder)
        if plan.begin(folder):
            with tensorboard_callback(plan.out) if tensorboard else nullcontext() as events:
                callbacks = [each for each in (callback, events) if each]
                signal = _train_what_is_left(plan, folder, quiet, callbacks)
            if signal is not None:
                return Trained([], signal)
        elif plan.live:
            plan.check_weights(folder, plan.live.load().fingerprint)
        draw_learning_curves(plan.out)
        lines = last_lines(plan.out)
    measured = {folder.name: lines[folder.name] for folder in folders if folder.name in lines}
    warn_of_poor_saes(measured, {p.name: p.k for p in plan.points if p.kind not in COUNTED and p.k is not None})
    return Trained(folders, measured=measured)


def _check_watching(callback: Callback | None, tensorboard: bool) -> None:
    """Refuse what cannot watch a training (UserError)."""
    if tensorboard and find_spec("tensorboard") is None:
        raise UserError("tensorboard is not installed; install it (pip install tensorboard) or leave out --tensorboard")
    if callback is not None and not callable(callback):
        raise UserError(f"callback is {callback!r}; expected a function of an SAE's name, the step and its numbers")


def _train_what_is_left(
    plan: TrainingPlan, folder: WorkFolder, quiet: bool, callbacks: Sequence[Callback]
) -> Signals | None:
    """Train to the end of the plan; the signal that ended it before, or None."""
    from riebench.training.one_pass import train_plan

    if not quiet:
        count, size = len(plan.points), size_text(plan.bytes)
        log.info("%d SAE%s of %s; up to %s in %s", count, "s" * (count != 1), ", ".join(plan.widths), size, plan.out)
    return train_plan(plan, folder, quiet, callbacks)
