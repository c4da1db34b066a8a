"""Train a grid of SAEs in one pass over the data: each batch is read and moved once, and every SAE steps on it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from signal import Signals
from typing import Any

import torch
from torch import Tensor

from riebench.models.devices import pick_device
from riebench.sae.saelens import save_for_saelens
from riebench.sae.store import save_sae
from riebench.sae.variance import geometric_median
from riebench.training.kinds import learner_of
from riebench.training.learner import Learner, Start, StepResult
from riebench.training.training_log import Callback, TrainingLog, last_lines
from riebench.training.training_plan import CHECKPOINT, GridPoint, SAESettings, TrainingPlan
from riebench.training.vectors import GeneratedVectors, Portions, StoredVectors, StreamPosition, Vectors
from riebench.util.errors import UserError
from riebench.util.files import writing_whole
from riebench.util.freed_memory import keep_freed_memory
from riebench.util.progress import progress_bar
from riebench.util.work_folder import InTurn, WorkFolder, full_disk, work_off

log = logging.getLogger(__name__)
SAMPLE = 1 << 15
"""Vectors from which a site's median and variance are taken."""
TIMED, WORTH_SAYING = 10, 10.0
"""Steps after which the time of the others is told, and the seconds from which on it is."""


def train_plan(
    plan: TrainingPlan, folder: WorkFolder, quiet: bool, callbacks: Sequence[Callback] = ()
) -> Signals | None:
    """Train all SAEs of a plan, from its checkpoint if there is one, and write them.

    Args:
        plan: the plan.
        folder: the plan's, locked.
        quiet: whether to show no progress.
        callbacks: told each line of the log.

    Returns:
        The signal that ended it early; None if it came to its end.

    Raises:
        UserError: if the device is missing, the data are too few or damaged, or a loss is not finite.
    """
    keep_freed_memory()
    training = _Training(plan, callbacks)
    plan.check_weights(folder, training.fingerprint)
    steps = range(training.step, training.steps)
    started = time.perf_counter()

    def keep(step: int, _: None) -> None:
        advance()
        if step == steps.start + TIMED and not quiet:
            left = (time.perf_counter() - started) / (TIMED + 1) * (len(steps) - TIMED - 1)
            if left >= WORTH_SAYING:
                log.info("%d steps are left; they take about %s", len(steps) - TIMED - 1, duration_text(left))
        if training.step % plan.checkpoint_every == 0:
            training.keep()

    with progress_bar("steps", len(steps), quiet=quiet) as advance:
        ending = work_off(InTurn(training.advance), steps, keep, "step")
    if ending.left:
        training.keep()
        return ending.signal
    training.finish(folder)
    return None


class _Training:
    """The state of a training.

    Attributes:
        step: number of finished steps.
        steps: number of all steps.
        fingerprint: of the weights whose values the SAEs are trained on.
    """

    def __init__(self, plan: TrainingPlan, callbacks: Sequence[Callback]) -> None:
        self.plan, self.callbacks = plan, callbacks
        stream = self._stream()
        portions = Portions(stream, plan.settings)
        self.steps = plan.settings.steps or portions.batches_in_round()
        self.step, self.position = 0, StreamPosition()
        state = _read_checkpoint(plan.out / CHECKPOINT)
        if state is None:
            self.starts = {site: start_of(x) for site, x in portions.sample(SAMPLE).items()}
            self.learners = {
                site: learners_of(
                    [p for p in plan.points if p.site == site], width, self.starts[site], plan.settings, self.device
                )
                for site, width in plan.widths.items()
            }
        else:
            self.step, self.position = state["step"], StreamPosition(**state["place"])
            self.starts = {site: Start(*values) for site, values in state["starts"].items()}
            self.learners = {
                site: [self._restored(site, learner) for learner in several]
                for site, several in state["learners"].items()
            }
        self.log = TrainingLog(plan.out, self.step)
        self.batches = portions.batches(self.position)
        self.results: dict[GridPoint, StepResult] = {}

    def _stream(self) -> Vectors:
        if self.plan.data is not None:
            self.device, self.fingerprint = pick_device(self.plan.device), self.plan.data.facts.fingerprint
            return StoredVectors(self.plan.data, list(self.plan.widths))
        assert self.plan.live is not None
        stream = GeneratedVectors(self.plan.live)
        self.fingerprint = stream.model.fingerprint
        self.device = stream.model.device if self.plan.device == "auto" else pick_device(self.plan.device)
        return stream

    def _restored(self, site: str, state: Mapping[str, Any]) -> Learner:
        points = [GridPoint(**point) for point in state["points"]]
        learner = learner_of(points, self.plan.widths[site], self.starts[site], self.plan.settings, self.device)
        learner.restore(state)
        return learner

    def advance(self, _: int) -> None:
        """Do the next step of all SAEs.

        Raises:
            UserError: if the stream cannot be read any more (the checkpoint is written first), or a loss is not finite.
        """
        try:
            self.position, batch = next(self.batches)
        except UserError:
            self.keep()
            raise
        rates = rates_of(self.plan.settings, self.step, self.steps)
        self.step += 1
        self.results = {}
        for site, rows in batch.items():
            self.results |= step_all(self.learners[site], rows.to(self.device).float(), *rates)
        if self.step % self.plan.log_every == 0 or self.step == self.steps:
            self._check()
            for point, seen in self.results.items():
                measured = {name: value.item() for name, value in seen._asdict().items()}
                self.log.add(point.name, self.step, self.step * self.plan.settings.batch, measured)
                for callback in self.callbacks:
                    callback(point.name, self.step, measured)

    def keep(self) -> None:
        """Write the checkpoint and the log up to it.

        Raises:
            UserError: if it cannot be written, or a loss is not finite.
        """
        self._check()
        self.log.flush()
        state = {
            "step": self.step,
            "place": asdict(self.position),
            "starts": {site: tuple(start) for site, start in self.starts.items()},
            "learners": {site: [learner.state() for learner in several] for site, several in self.learners.items()},
        }
        path = self.plan.out / CHECKPOINT
        with full_disk(path), writing_whole(path) as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:  # torch's word for a full disk
                raise OSError(str(error).splitlines()[0]) from None

    def _check(self) -> None:
        for point, seen in self.results.items():
            if not bool(seen.loss.isfinite()):
                raise UserError(f"the loss of {point.name} is not finite at step {self.step}; try a lower --lr")

    def finish(self, folder: WorkFolder) -> None:
        """Write the SAEs, then remove the checkpoint."""
        self.log.flush()
        last = last_lines(self.plan.out)
        for learner in (learner for several in self.learners.values() for learner in several):
            sae = learner.sae()
            for point in learner.points:
                config = self.plan.config(point, self.steps, self.fingerprint)
                config |= {"explained_variance": last[point.name]["explained"], **learner.found()}
                save_sae(sae, self.plan.out / point.name, config)
                save_for_saelens(sae, self.plan.out / point.name, self.plan.model_name, point.site)
        self.plan.mark_finished(folder)


def duration_text(seconds: float) -> str:
    """A time in words, as 2 minutes."""
    for size, unit in ((3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def learners_of(
    points: Sequence[GridPoint], width: int, start: Start, settings: SAESettings, device: torch.device
) -> list[Learner]:
    """Learners for the SAEs of a site; those that differ in the auxiliary loss alone begin as one."""
    together: dict[GridPoint, list[GridPoint]] = {}
    for point in points:
        together.setdefault(point.start, []).append(point)
    return [learner_of(several, width, start, settings, device) for several in together.values()]


def step_all(learners: list[Learner], x: Tensor, lr: float, warmth: float = 1.0) -> dict[GridPoint, StepResult]:
    """One step of all learners of a site on vectors ``[batch, d]``; a learner that must fork adds one to the list."""
    learners += [other for learner in learners if (other := learner.fork()) is not None]
    results: dict[GridPoint, StepResult] = {}
    for learner in learners:
        seen = learner.step(x, lr, warmth)
        results |= dict.fromkeys(learner.points, seen)
    return results


def start_of(x: Tensor) -> Start:
    """The start of SAEs that are trained on vectors like these ``[n, d]``."""
    return Start(geometric_median(x), (x - x.mean(0)).square().mean())


def learning_rate(settings: SAESettings, step: int, steps: int) -> float:
    """The learning rate of a step, from 0: constant, then falling linearly to 0 over the last part."""
    falling = settings.decay * steps
    return settings.lr * min(1.0, (steps - step) / falling) if falling else settings.lr


def rates_of(settings: SAESettings, step: int, steps: int) -> tuple[float, float]:
    """The learning rate of a step, and the share of a penalty's weight: it rises linearly over the first part to 1."""
    rising = settings.warmup * steps
    return learning_rate(settings, step, steps), min(1.0, (step + 1) / rising) if rising else 1.0


def _read_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state in a checkpoint; None if there is no checkpoint.

    Raises:
        UserError: if it cannot be read.
    """
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, UnpicklingError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be read ({reason}); remove it to start over") from None
    return state
