"""Choose what to move: relative scores and their ranking (PROTOCOL: Choosing features)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from riebench.util.errors import UserError

Score = Literal["first", "mean"]
Shares = Literal["sum", "absolute"]
Count = Annotated[int, Field(gt=0)]


def masked_mean(values: Tensor, mask: Tensor, score: Score) -> Tensor:
    """Mean ``[n]`` of ``[steps, n, height, width]`` over the positions of a mask ``[height, width]``.

    ``first`` takes the first step, ``mean`` the average over all steps.
    """
    steps = values[:1] if score == "first" else values
    return steps.flatten(2)[..., mask.flatten()].mean((0, 2))


def relative_score(source: Tensor, base: Tensor, shares: Shares = "absolute") -> Tensor:
    """``s_src / sum(s_src) - s_base / sum(s_base)`` of mean activations ``[n]``; a sum of 0 counts as all zeros.

    As published (``sum``) the formula is for activations that are never negative: sums of signed ones can be
    near zero or below, which blows scores up or turns their order round. ``absolute`` divides by the sum of
    absolute values instead; for SAE codes the two are the same.
    """

    def share(s: Tensor) -> Tensor:
        total = s.sum() if shares == "sum" else s.abs().sum()
        return torch.zeros_like(s) if total == 0 else s / total

    return share(source) - share(base)


def rank(
    source: Sequence[Tensor], base: Sequence[Tensor], k: int, shares: Shares = "absolute"
) -> tuple[list[Tensor], list[Tensor]]:
    """The k features to add and the k to remove, all blocks ranked jointly.

    Args:
        source: mean activations ``[n_b]`` of each block b in the source run.
        base: the same of the base run.
        k: how many in each direction.
        shares: see :func:`relative_score`.

    Returns:
        For each block the indices to add and the indices to remove.

    Raises:
        UserError: if k is larger than the number of candidates.
    """
    score = relative_score(torch.cat(list(source)), torch.cat(list(base)), shares)
    if not 0 < k <= len(score):
        raise UserError(f"k is {k}, but there are {len(score)} features to choose from; give --k 1 to {len(score)}")
    order = score.argsort(descending=True, stable=True)
    sizes = [len(s) for s in source]
    ends = torch.tensor(sizes, device=score.device).cumsum(0)

    def by_block(chosen: Tensor) -> list[Tensor]:
        chosen = chosen.sort().values
        counts = torch.searchsorted(chosen, ends).diff(prepend=ends.new_zeros(1)).tolist()
        return [part - (end - size) for part, end, size in zip(chosen.split(counts), ends, sizes, strict=True)]

    return by_block(order[:k]), by_block(order[-k:])


def k_of_share(share: float, candidates: int) -> int:
    """A default k that goes with the number of candidates."""
    return max(1, math.ceil(share * candidates))
