"""One training loop for every part of mini: seeded, resumable, one process a core, gradients averaged."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable
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


def run(job: Job, folder: Path, rank: int = 0, world: int = 1, every: int = 50) -> dict[str, Tensor]:
    """Train to the end of the schedule, from the newest checkpoint if there is one; return the mean weights."""
    path = folder / f"{job.name}.ckpt"
    weights_file = folder / f"{job.name}.weights"
    parameters = [p for p in job.module.parameters() if p.requires_grad]
    for p in parameters:
        p.grad = torch.zeros_like(p)
    matrices = [p for p in parameters if p.ndim >= 2 and job.muon and not any(p is e for e in job.embeddings)]
    chosen = {id(p) for p in matrices}
    others = [p for p in parameters if id(p) not in chosen]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, lr=job.adam, betas=(0.9, 0.98), weight_decay=job.weight_decay)
    ]
    if matrices:
        optimizers.append(Muon(matrices, lr=job.muon or 0.0))
    base = [o.param_groups[0]["lr"] for o in optimizers]
    ema = {k: v.detach().clone() for k, v in job.module.state_dict().items()}
    start = 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        job.module.load_state_dict(state["module"])
        ema, start = state["ema"], state["step"]
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
    clock, shown = time.time(), start
    sums: dict[str, float] = {}
    for step in range(start, job.steps):
        factor = schedule(step, job.steps, job.warmup)
        for optimizer, lr in zip(optimizers, base, strict=True):
            optimizer.param_groups[0]["lr"] = lr * factor
            optimizer.zero_grad(set_to_none=False)
        loss, figures = job.loss(np.random.default_rng([job.seed, step, rank]), step)
        loss.backward()
        average_gradients(parameters, world)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if job.after_step:
            job.after_step()
        decay = min(job.ema, (step + 1) / (step + 10))
        with torch.no_grad():
            for k, v in job.module.state_dict().items():
                if v.is_floating_point():
                    ema[k].lerp_(v, 1 - decay)
                else:
                    ema[k].copy_(v)
        for k, value in figures.items():
            sums[k] = sums.get(k, 0.0) + value
        if rank == 0 and (step + 1) % every == 0:
            rate = (step + 1 - shown) / (time.time() - clock)
            text = "  ".join(f"{k} {v / every:.4f}" for k, v in sums.items())
            left = (job.steps - step - 1) / rate / 60
            print(
                f"{job.name}  step {step + 1}/{job.steps}  {text}  {rate:.2f} steps/s  {left:.1f} min left", flush=True
            )
            clock, shown, sums = time.time(), step + 1, {}
        if rank == 0 and ((step + 1) % (every * 10) == 0 or step + 1 == job.steps):
            state = {
                "module": job.module.state_dict(),
                "ema": ema,
                "optimizers": [o.state_dict() for o in optimizers],
                "step": step + 1,
            }
            _save(state, path)
            _save(ema, weights_file)
    if world > 1:
        dist.barrier()
    return ema


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
