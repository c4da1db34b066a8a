"""Train a TopK SAE as published: tied start, unit-norm decoder, auxiliary loss on dead features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from riebench.sae.topk import TopKSAE


@dataclass(frozen=True)
class SAESettings:
    """How to train.

    Attributes:
        expansion: features per dimension, n / d.
        k: active features.
        auxk: dead features that reconstruct the residual.
        dead_after: samples without an activation after which a feature counts as dead (published: 10 M).
        batch: vectors in a step (published: 4096).
        steps: steps.
        lr: Adam's learning rate (published: 1e-4 with eps 6.25e-10); falls linearly to 0 over the last fifth.
        aux_weight: weight of the auxiliary loss (published: 1/32).
        seed: of the order of the vectors and of the start.
    """

    expansion: int = 4
    k: int = 16
    auxk: int = 64
    dead_after: int = 200_000
    batch: int = 4096
    steps: int = 3000
    lr: float = 1e-3
    aux_weight: float = 1 / 32
    seed: int = 0


def geometric_median(x: Tensor, rounds: int = 100) -> Tensor:
    """The point ``[d]`` with the least sum of distances to ``[n, d]`` (Weiszfeld's iteration)."""
    guess = x.mean(0)
    for _ in range(rounds):
        weights = 1 / (x - guess).norm(dim=1).clamp(min=1e-6)
        guess = (x * weights[:, None]).sum(0) / weights.sum()
    return guess


def explained_variance(sae: TopKSAE, x: Tensor) -> float:
    """``1 - |x - x'|^2 / |x - mean x|^2`` over vectors ``[n, d]``."""
    with torch.no_grad():
        return float(1 - (x - sae(x)).square().sum() / (x - x.mean(0)).square().sum())


def auxiliary_loss(sae: TopKSAE, x: Tensor, residual: Tensor, dead: Tensor, auxk: int) -> Tensor:
    """Squared error of the residual ``[n, d]`` rebuilt from the top dead features, over its variance.

    ``dead`` is boolean ``[n_features]``; without dead features, or where the ratio is not a number, the loss is 0.
    """
    count = min(auxk, int(dead.sum()))
    if count == 0:
        return x.new_zeros(())
    values, indices = sae.pre_activations(x).masked_fill(~dead, -torch.inf).topk(count, dim=-1)
    codes = torch.zeros(len(x), sae.n_features).scatter(-1, indices, values.relu())
    error = (sae.decoder(codes) - residual).square().mean()
    return (error / (residual - residual.mean(0)).square().mean()).nan_to_num(0, posinf=0)


def train(x: Tensor, settings: SAESettings, progress: Callable[[int, float], None] | None = None) -> TopKSAE:
    """Train on vectors ``[n, d]``.

    Args:
        x: updates at single positions.
        settings: how.
        progress: called now and then with the step and the explained variance of its batch.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    torch.manual_seed(settings.seed)
    d = x.shape[1]
    sae = TopKSAE(d, settings.expansion * d, settings.k)
    with torch.no_grad():
        sae.pre_bias.copy_(geometric_median(x[torch.randperm(len(x), generator=generator)[:32768]]))
        sae.decoder.weight.div_(sae.decoder.weight.norm(dim=0))
        sae.encoder.weight.copy_(sae.decoder.weight.T)
    variance = (x - x.mean(0)).square().mean()
    optimizer = torch.optim.Adam(sae.parameters(), lr=settings.lr, eps=6.25e-10)
    for step in range(settings.steps):
        left = (settings.steps - step) / (settings.steps / 5)
        optimizer.param_groups[0]["lr"] = settings.lr * min(1.0, left)
        batch = x[torch.randint(len(x), (settings.batch,), generator=generator)]
        codes = sae.encode(batch)
        rebuilt = sae.decode(codes)
        loss = (rebuilt - batch).square().mean() / variance
        dead = sae.stats_last_nonzero > settings.dead_after
        auxiliary = auxiliary_loss(sae, batch, (batch - rebuilt).detach(), dead, settings.auxk)
        optimizer.zero_grad()
        (loss + settings.aux_weight * auxiliary).backward()
        constrain_gradient(sae)
        optimizer.step()
        with torch.no_grad():
            sae.decoder.weight.div_(sae.decoder.weight.norm(dim=0))
            active = (codes > 0).any(0)
            sae.stats_last_nonzero += settings.batch
            sae.stats_last_nonzero[active] = 0
        if progress and (step + 1) % 250 == 0:
            progress(step + 1, 1 - loss.item())
    return sae.eval().requires_grad_(False)


def constrain_gradient(sae: TopKSAE) -> None:
    """Take from the decoder's gradient its part along the columns, which renormalising would undo."""
    weight, grad = sae.decoder.weight.data, sae.decoder.weight.grad
    if grad is not None:
        grad -= (grad * weight).sum(0) * weight
