"""Muon: momentum whose matrix is made orthogonal before it is applied (Jordan et al., 2024).

torch.optim.Muon takes matrices only; convolution kernels are flattened here to ``[out, in * h * w]``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor


def orthogonal(batch: Tensor) -> Tensor:
    """Nearest semi-orthogonal matrices of ``[n, rows, columns]`` by five quintic Newton-Schulz steps.

    Each step multiplies by a polynomial of the Gram matrix, so all five are done on the small Gram matrices
    and applied at the end at once.
    """
    turned = batch.shape[1] > batch.shape[2]
    x = batch.transpose(1, 2) if turned else batch
    x = x / (x.flatten(1).norm(dim=1).view(-1, 1, 1) + 1e-7)
    gram = x @ x.transpose(1, 2)
    identity = torch.eye(gram.shape[1]).expand_as(gram)
    product = identity
    for _ in range(5):
        factor = 3.4445 * identity - 4.7750 * gram + 2.0315 * gram @ gram
        product = factor @ product
        gram = factor @ gram @ factor
    x = product @ x
    return x.transpose(1, 2) if turned else x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum 0.95; the step of a matrix is scaled by sqrt(max(1, rows / columns))."""

    def __init__(self, params: list[torch.nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[tuple[torch.nn.Parameter, Tensor]]] = defaultdict(list)
            for p in group["params"]:
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(buffer, group["momentum"]).reshape(p.shape[0], -1)
                shapes[(update.shape[0], update.shape[1])].append((p, update))
            for (rows, columns), members in shapes.items():
                steps = orthogonal(torch.stack([u for _, u in members]))
                scale = max(1.0, rows / columns) ** 0.5
                for (p, _), update in zip(members, steps, strict=True):
                    p.add_(update.view(p.shape), alpha=-group["lr"] * scale)
