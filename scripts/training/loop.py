"""One training loop for every part of mini: seeded, resumable, one process a core, gradients averaged."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from .muon import Muon

Loss = Callable[[np.random.Generator, int], tuple[Tensor, dict[str, float]]]


@dataclass
class Job:
    """What one stage trains.

    Attributes:
        name: names the checkpoint and the progress line.
        module: everything that is trained, as one module.
        loss: called with a seeded generator and the step; returns the loss and figures to show.
        steps: length of the schedule.
        muon: learning rate of Muon for matrices; None gives every parameter to Adam.
        adam: learning rate of Adam.
        ema: decay of the running mean of the weights, which is what is kept.
        after_step: called after each update (for constraints on weights).
    """

    name: str
    module: nn.Module
    loss: Loss
    steps: int
    adam: float = 2e-3
    muon: float | None = None
    weight_decay: float = 0.0
    ema: float = 0.995
    warmup: int = 40
    seed: int = 0
    after_step: Callable[[], None] | None = None
    embeddings: Iterable[nn.Parameter] = field(default_factory=list)


def schedule(step: int, steps: int, warmup: int) -> float:
    """Factor on the learning rate: linear warm-up, flat to the middle, cosine to 2 % at the end."""
    if step < warmup:
        return (step + 1) / warmup
    half = steps / 2
    if step < half:
        return 1.0
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - half) / half)))


def average_gradients(parameters: list[nn.Parameter], world: int) -> None:
    """Replace each gradient by its mean over the processes."""
    if world == 1:
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in grads])
    dist.all_reduce(flat)
    flat /= world
    for g, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        g.copy_(part.view_as(g))


class Training:
    """A job under way: its optimisers and the running mean of its weights.

    Attributes:
        done: steps so far.
        mean: the running mean of the weights by name, which is what is kept.
    """

    def __init__(self, job: Job, world: int) -> None:
        self._job, self._world, self.done = job, world, 0
        self._parameters = [p for p in job.module.parameters() if p.requires_grad]
        for p in self._parameters:
            p.grad = torch.zeros_like(p)
        self._optimizers = optimizers_of(job, self._parameters)
        self._rates = [optimizer.param_groups[0]["lr"] for optimizer in self._optimizers]
        self.mean = {name: value.detach().clone() for name, value in job.module.state_dict().items()}

    def step(self, generator: np.random.Generator) -> dict[str, float]:
        """One update; gives the figures of the loss."""
        job = self._job
        factor = schedule(self.done, job.steps, job.warmup)
        for optimizer, rate in zip(self._optimizers, self._rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * factor
            optimizer.zero_grad(set_to_none=False)
        loss, figures = job.loss(generator, self.done)
        loss.backward()
        average_gradients(self._parameters, self._world)
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
        if job.after_step:
            job.after_step()
        self.done += 1
        self._follow()
        return figures

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the mean towards the weights, the faster the fewer steps it is of."""
        decay = min(self._job.ema, self.done / (self.done + 9))
        for name, value in self._job.module.state_dict().items():
            if value.is_floating_point():
                self.mean[name].lerp_(value, 1 - decay)
            else:
                self.mean[name].copy_(value)

    def save(self, folder: Path) -> None:
        """Write the checkpoint, and the mean alone."""
        state = {
            "module": self._job.module.state_dict(),
            "ema": self.mean,
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "step": self.done,
        }
        _save(state, folder / f"{self._job.name}.ckpt")
        _save(self.mean, folder / f"{self._job.name}.weights")

    def restore(self, folder: Path) -> None:
        """Go on from the checkpoint, if there is one."""
        path = folder / f"{self._job.name}.ckpt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self._job.module.load_state_dict(state["module"])
        self.mean, self.done = state["ema"], state["step"]
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


def optimizers_of(job: Job, parameters: list[nn.Parameter]) -> list[torch.optim.Optimizer]:
    """Adam, and Muon for the matrices where the job says so."""
    matrices = [p for p in parameters if p.ndim >= 2 and job.muon and not any(p is e for e in job.embeddings)]
    chosen = {id(p) for p in matrices}
    others = [p for p in parameters if id(p) not in chosen]
    adam = torch.optim.AdamW(others, lr=job.adam, betas=(0.9, 0.98), weight_decay=job.weight_decay)
    return [adam, Muon(matrices, lr=job.muon or 0.0)] if matrices else [adam]


class ProgressLine:
    """Prints the mean figures of the last steps, their rate and the minutes that are left."""

    def __init__(self, job: Job, done: int) -> None:
        self._job = job
        self._begin(done)

    def _begin(self, done: int) -> None:
        self._clock, self._shown = time.time(), done
        self._sums: Counter[str] = Counter()

    def add(self, figures: Mapping[str, float]) -> None:
        """Take in the figures of a step."""
        self._sums.update(figures)

    def show(self, done: int) -> None:
        """Print the line after so many steps, and begin anew."""
        count = done - self._shown
        rate = count / (time.time() - self._clock)
        text = "  ".join(f"{name} {total / count:.4f}" for name, total in self._sums.items())
        left = (self._job.steps - done) / rate / 60
        where = f"{self._job.name}  step {done}/{self._job.steps}"
        print(f"{where}  {text}  {rate:.2f} steps/s  {left:.1f} min left", flush=True)
        self._begin(done)


def run(job: Job, folder: Path, rank: int = 0, world: int = 1, every: int = 50) -> dict[str, Tensor]:
    """Train to the end of the schedule, from the newest checkpoint if there is one; return the mean weights."""
    training = Training(job, world)
    training.restore(folder)
    line = ProgressLine(job, training.done)
    while training.done < job.steps:
        line.add(training.step(np.random.default_rng([job.seed, training.done, rank])))
        if rank == 0 and training.done % every == 0:
            line.show(training.done)
        if rank == 0 and (training.done % (every * 10) == 0 or training.done == job.steps):
            training.save(folder)
    if world > 1:
        dist.barrier()
    return training.mean


def _save(value: object, path: Path) -> None:
    torch.save(value, f"{path}.part")
    os.replace(f"{path}.part", path)


def _worker(rank: int, world: int, port: int, target: Callable[..., None], args: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    if world > 1:
        dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    target(rank, world, *args)
    if world > 1:
        dist.destroy_process_group()


def launch(target: Callable[..., None], world: int, *args: object) -> None:
    """Run ``target(rank, world, *args)`` in one process a core; keeps glibc from giving memory back, which is slow."""
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "4000000000")
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", "8000000000")
    port = 29500 + os.getpid() % 1000
    torch.multiprocessing.spawn(_worker, (world, port, target, args), nprocs=world)
