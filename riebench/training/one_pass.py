"""Train a grid of SAEs in one pass over the data: each batch is read and moved once, and every SAE steps on it."""

from __future__ import annotations

import sys
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
from riebench.training.learner import Learner, Start, StepResult
from riebench.training.training_grid import GridPoint, SAESettings
from riebench.training.training_log import TrainingLog, read_log
from riebench.training.training_plan import CHECKPOINT, TrainingPlan
from riebench.training.vectors import GeneratedVectors, Place, Portions, StoredVectors, Vectors
from riebench.util.errors import UserError
from riebench.util.files import writing_whole
from riebench.util.progress import Track, stopping

SAMPLE = 1 << 15
"""Vectors from which a site's median and variance are taken."""


def train_plan(plan: TrainingPlan, track: Track) -> Signals | None:
    """Train all that a plan asks for, from its checkpoint if there is one.

    Returns:
        The signal that ended it early; None if it came to its end.

    Raises:
        UserError: if the device is not there, the data are too few or damaged, or a loss is not finite.
    """
    training = _Training(plan)
    with stopping("step") as asked:
        for _ in track(range(training.step, training.steps)):
            training.advance()
            if training.step % plan.checkpoint_every == 0 or asked:
                training.keep()
            if asked:
                break
    if training.step < training.steps:
        print(f"riebench: ended at step {training.step} of {training.steps}; the same command goes on", file=sys.stderr)
        return asked[0]
    training.finish()
    return None


class _Training:
    """Where a training run is.

    Attributes:
        step: steps that are done.
        steps: steps in all.
    """

    def __init__(self, plan: TrainingPlan) -> None:
        self.plan = plan
        stream = self._stream()
        portions = Portions(stream, plan.settings)
        self.steps = plan.settings.steps or portions.batches_in_round()
        self.step, self.place = 0, Place()
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
            self.step, self.place = state["step"], Place(**state["place"])
            self.starts = {site: Start(*values) for site, values in state["starts"].items()}
            self.learners = {
                site: [self._restored(site, kept) for kept in several] for site, several in state["learners"].items()
            }
        self.log = TrainingLog(plan.out, self.step)
        self.batches = portions.batches(self.place)
        self.results: dict[GridPoint, StepResult] = {}

    def _stream(self) -> Vectors:
        if self.plan.data is not None:
            self.device = pick_device(self.plan.device)
            return StoredVectors(self.plan.data, list(self.plan.widths))
        assert self.plan.live is not None
        stream = GeneratedVectors(self.plan.live)
        self.device = stream.model.device if self.plan.device == "auto" else pick_device(self.plan.device)
        return stream

    def _restored(self, site: str, kept: Mapping[str, Any]) -> Learner:
        points = [GridPoint(**point) for point in kept["points"]]
        learner = Learner(points, self.plan.widths[site], self.starts[site], self.plan.settings, self.device)
        learner.restore(kept)
        return learner

    def advance(self) -> None:
        """One step of all SAEs.

        Raises:
            UserError: if the stream cannot be read any more (the checkpoint is written first), or a loss is not finite.
        """
        try:
            self.place, batch = next(self.batches)
        except UserError:
            self.keep()
            raise
        lr = learning_rate(self.plan.settings, self.step, self.steps)
        self.step += 1
        self.results = {}
        for site, rows in batch.items():
            self.results |= step_all(self.learners[site], rows.to(self.device).float(), lr)
        if self.step % self.plan.log_every == 0 or self.step == self.steps:
            self._check()
            for point, seen in self.results.items():
                measured = {name: value.item() for name, value in seen._asdict().items()}
                self.log.add(point.name, self.step, self.step * self.plan.settings.batch, measured)

    def keep(self) -> None:
        """Write the checkpoint.

        Raises:
            UserError: if it cannot be written, or a loss is not finite.
        """
        self._check()
        self.log.flush()
        state = {
            "step": self.step,
            "place": asdict(self.place),
            "starts": {site: tuple(start) for site, start in self.starts.items()},
            "learners": {site: [learner.state() for learner in several] for site, several in self.learners.items()},
        }
        path = self.plan.out / CHECKPOINT
        try:
            with writing_whole(path) as file:
                torch.save(state, file)
        except (OSError, RuntimeError) as error:
            said = str(error).splitlines()[0]
            raise UserError(f"{path} cannot be written ({said}); make room and give the same command again") from None

    def _check(self) -> None:
        for point, seen in self.results.items():
            if not bool(seen.loss.isfinite()):
                raise UserError(f"the loss of {point.name} is not finite at step {self.step}; try a lower --lr")

    def finish(self) -> None:
        """Write the SAEs, then let the checkpoint go."""
        self.log.flush()
        last = {line["sae"]: line["explained"] for line in read_log(self.plan.out)}
        for learner in (learner for several in self.learners.values() for learner in several):
            sae = learner.sae()
            for point in learner.points:
                config = self.plan.config(point, self.steps) | {"explained_variance": last[point.name]}
                save_sae(sae, self.plan.out / point.name, config)
                save_for_saelens(sae, self.plan.out / point.name, self.plan.model_name, point.site)
        self.plan.mark_finished()


def learners_of(
    points: Sequence[GridPoint], width: int, start: Start, settings: SAESettings, device: torch.device
) -> list[Learner]:
    """Learners for the SAEs of a site; those that differ in the auxiliary loss alone begin as one."""
    together: dict[tuple[str, int, int, bool, int], list[GridPoint]] = {}
    for point in points:
        together.setdefault(point.start, []).append(point)
    return [Learner(several, width, start, settings, device) for several in together.values()]


def step_all(learners: list[Learner], x: Tensor, lr: float) -> dict[GridPoint, StepResult]:
    """One step of all learners of a site on vectors ``[batch, d]``; a learner that must fork adds one to the list."""
    learners += [other for learner in learners if (other := learner.fork()) is not None]
    results: dict[GridPoint, StepResult] = {}
    for learner in learners:
        seen = learner.step(x, lr)
        results |= dict.fromkeys(learner.points, seen)
    return results


def start_of(x: Tensor) -> Start:
    """What the SAEs of vectors ``[n, d]`` begin with."""
    return Start(geometric_median(x), (x - x.mean(0)).square().mean())


def learning_rate(settings: SAESettings, step: int, steps: int) -> float:
    """The learning rate of a step, from 0: constant, then falling linearly to 0 over the last part."""
    falling = settings.decay * steps
    return settings.lr * min(1.0, (steps - step) / falling) if falling else settings.lr


def _read_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state that was kept; None if there is none.

    Raises:
        UserError: if it cannot be read.
    """
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, UnpicklingError, EOFError) as error:
        said = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be read ({said}); remove it to start over") from None
    return state
