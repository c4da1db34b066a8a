"""How much of the variance a reconstruction explains, and the centre of vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from riebench.sae.dictionary import Dictionary


def explained_variance(sae: Dictionary, x: Tensor) -> float:
    """``1 - |x - x'|^2 / |x - mean x|^2`` over vectors ``[n, d]``."""
    with torch.no_grad():
        rebuilt = sae.decode(sae.encode(x))
        return float(1 - (x - rebuilt).square().sum() / (x - x.mean(0)).square().sum())


def geometric_median(x: Tensor, rounds: int = 100) -> Tensor:
    """The point ``[d]`` with the least sum of distances to ``[n, d]`` (Weiszfeld's iteration)."""
    guess = x.mean(0)
    for _ in range(rounds):
        weights = 1 / (x - guess).norm(dim=1).clamp(min=1e-6)
        guess = (x * weights[:, None]).sum(0) / weights.sum()
    return guess
