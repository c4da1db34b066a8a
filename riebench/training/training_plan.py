"""What a training run will do, with all that can be wrong found before the first step. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from riebench.prompts import prompts_hash
from riebench.training.capture import ALL, Capture, refuse_full_disk, resolve_capture, size_text
from riebench.training.dataset import Dataset, open_dataset
from riebench.training.training_grid import GridPoint, SAESettings, grid_points, settings_and_axes
from riebench.util.errors import UserError
from riebench.util.files import write_whole

TRAINING, CHECKPOINT = "training.json", "checkpoint.pt"


@dataclass(frozen=True)
class TrainingPlan:
    """A training run.

    Attributes:
        out: folder of the SAE folders.
        settings: of all SAEs.
        points: the SAEs.
        widths: site to the width of its vectors.
        data: a data set, or
        live: what the model generates.
        device: where it is trained.
        log_every: steps between lines of the log.
        checkpoint_every: steps between checkpoints.
    """

    out: Path
    settings: SAESettings
    points: Sequence[GridPoint]
    widths: Mapping[str, int]
    data: Dataset | None
    live: Capture | None
    device: str
    log_every: int
    checkpoint_every: int

    @property
    def model_name(self) -> str:
        """The model whose values these are."""
        if self.data is not None:
            return self.data.asked.model
        assert self.live is not None
        return self.live.entry.name

    @cached_property
    def asked(self) -> dict[str, Any]:
        """What decides the result; a run is gone on with only if this is the same."""
        origin: dict[str, Any] = {"data": self.data.fingerprint} if self.data else {}
        if self.live is not None:
            live = self.live
            origin = {
                "model": live.entry.name,
                "prompts": prompts_hash(live.prompted),
                "run_steps": live.steps,
                "positions": live.sampled,
                "settings": live.settings.model_dump(mode="json", exclude={"model": {"device"}}, exclude_defaults=True),
            }
        return {**origin, **self.settings.model_dump(), "saes": [point.name for point in self.points]}

    @property
    def weights(self) -> int:
        """Bytes of the weights of all SAEs."""
        return 4 * sum(2 * point.expansion * self.widths[point.site] ** 2 for point in self.points)

    @property
    def bytes(self) -> int:
        """What the run writes at most: two checkpoints at one time, then each SAE in two layouts."""
        return self.weights * (2 * 3 + 2)

    @property
    def memory(self) -> int:
        """What the run holds in memory at least: weights, gradients and Adam's two means."""
        return self.weights * 4

    def config(self, point: GridPoint, steps: int) -> dict[str, Any]:
        """What the ``config.json`` of an SAE says beside its size."""
        return {
            "auxk": self.settings.auxk if point.aux else None,
            "dead_steps_threshold": self.settings.dead_after // self.settings.batch,
            "model": self.model_name,
            **point.model_dump(),
            "steps": steps,
            **self.settings.model_dump(include={"batch", "lr", "eps", "decay", "aux_weight", "shuffle_seed"}),
        }

    def begin(self) -> bool:
        """Note what is trained; whether there is something left to do.

        Raises:
            UserError: if the folder holds another training.
        """
        try:
            noted = json.loads((self.out / TRAINING).read_text())
            found = {name: noted[name] for name in ("asked", "finished")}
        except FileNotFoundError:
            found = None
        except (ValueError, LookupError, TypeError):
            raise UserError(f"{self.out / TRAINING} cannot be read; remove it or give another --out") from None
        if found is None or not (found["finished"] or (self.out / CHECKPOINT).is_file()):  # nothing to be lost
            found = {"asked": self.asked, "finished": False}
            write_whole(self.out / TRAINING, json.dumps(found, indent=1).encode())
        for name, wanted in self.asked.items():
            has = found["asked"].get(name)
            if has != wanted:
                raise UserError(f"{self.out} holds a training with {name} {has}, not {wanted}; give another --out")
        return not found["finished"]

    def mark_finished(self) -> None:
        """Note that all SAEs are written, and let the checkpoint go."""
        write_whole(self.out / TRAINING, json.dumps({"asked": self.asked, "finished": True}, indent=1).encode())
        (self.out / CHECKPOINT).unlink(missing_ok=True)


def plan_training(
    data: str | Path | None,
    out: str | Path,
    *,
    site: str | Sequence[str] = ALL,
    preset: str | None = None,
    device: str = "auto",
    live: Mapping[str, Any] | None = None,
    log_every: int = 50,
    checkpoint_every: int = 500,
    **given: Any,
) -> TrainingPlan:
    """See :func:`train`.

    Raises:
        UserError: if something is unknown or cannot be; see there.
    """
    settings, axes = settings_and_axes(preset, given)
    if (data is None) == (live is None):
        raise UserError("give either a folder that 'riebench sae collect' has filled, or a model to generate with")
    names = [site] if isinstance(site, str) else list(site)
    dataset, capture = None, None
    if data is not None:
        named = [] if ALL in names else names
        dataset = open_dataset(Path(data), named)
        widths = {name: stored.width for name, stored in dataset.asked.sites.items() if not named or name in named}
    else:
        capture = resolve_capture(site=names, **(live or {}))
        widths = {name: there.width for name, there in capture.sites.items()}
    points = grid_points(axes, widths)
    for name, value in (("log_every", log_every), ("checkpoint_every", checkpoint_every)):
        if value < 1:
            raise UserError(f"{name} is {value}; expected 1 or more")
    plan = TrainingPlan(Path(out), settings, points, widths, dataset, capture, device, log_every, checkpoint_every)
    refuse_full_disk(plan.out, plan.bytes)
    _refuse_full_memory(plan)
    _refuse_few(plan)
    return plan


def _refuse_full_memory(plan: TrainingPlan) -> None:
    """Refuse what this machine cannot hold; how much a GPU holds is known once torch is there."""
    there = psutil.virtual_memory().total
    if plan.memory > there and not plan.device.startswith("cuda"):
        raise UserError(
            f"training the SAEs takes {size_text(plan.memory)} of memory, this machine has {size_text(there)}; take a "
            "lower --expansion, or fewer at a time"
        )


def _refuse_few(plan: TrainingPlan) -> None:
    for site in plan.widths:
        if plan.data is not None:
            count = sum(shard.vectors[site] for shard in plan.data.shards)
        else:
            assert plan.live is not None
            count = len(plan.live.prompted) * plan.live.steps * plan.live.positions(site)
        if count < plan.settings.batch:
            raise UserError(f"there are {count} vectors of {site}, a batch takes {plan.settings.batch}; lower --batch")
