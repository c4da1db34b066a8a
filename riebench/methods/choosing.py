"""Rank features, and spread values over a mask: pure functions on tensors (PROTOCOL.md, Choosing features)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from riebench.util.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Score = Literal["first", "mean"]
Shares = Literal["sum", "absolute"]
Count = Annotated[int, Field(gt=0)]


def masked_mean(values: Tensor, mask: Tensor, score: Score) -> Tensor:
    """Mean ``[width]`` of values ``[steps, positions, width]`` over the positions of a mask ``[positions]``.

    ``first`` takes the first step, ``mean`` the average over all steps.
    """
    steps = values[:1] if score == "first" else values
    return steps[:, mask].mean((0, 1))


def spread(values: Tensor, mask: Tensor, spatial: bool = True) -> Tensor:
    """Values ``[steps, positions, width]`` kept at the positions of a mask ``[positions]``, 0 elsewhere.

    Without ``spatial``, the mean over the mask's positions stands at each of them.
    """
    if not spatial:
        values = values[:, mask].mean(1, keepdim=True).expand_as(values)
    return values * mask[:, None]


def relative_score(source: Tensor, base: Tensor, shares: Shares = "absolute") -> Tensor:
    """``s_src / sum(s_src) - s_base / sum(s_base)`` of mean activations ``[n]``; a sum of 0 counts as all zeros.

    The published formula (``sum``) is for activations that are never negative. The sum of signed activations can be
    near zero or negative, which inflates the scores or reverses their order; ``absolute`` divides by the sum of
    absolute values instead. For SAE codes the two are the same.
    """

    def share(s: Tensor) -> Tensor:
        total = s.sum() if shares == "sum" else s.abs().sum()
        return s * 0 if total == 0 else s / total

    return share(source) - share(base)


def rank(
    source: Sequence[Tensor], base: Sequence[Tensor], k: int, shares: Shares = "absolute"
) -> tuple[list[Tensor], list[Tensor]]:
    """The k features to add and the k features to remove, ranked jointly over all sites.

    Args:
        source: mean activations ``[n_s]`` of each site s in the source run.
        base: the same of the base run.
        k: number of features in each direction.
        shares: see :func:`relative_score`.

    Returns:
        For each site the indices ``[n]`` of the features to add, and those of the features to remove.

    Raises:
        UserError: if k is larger than the number of candidates.
    """
    import torch

    score = relative_score(torch.cat(list(source)), torch.cat(list(base)), shares)
    if not 0 < k <= len(score):
        raise UserError(f"k is {k}, but there are {len(score)} features to choose from; give --k 1 to {len(score)}")
    order = score.argsort(descending=True, stable=True)
    sizes = [len(s) for s in source]
    ends = torch.tensor(sizes, device=score.device).cumsum(0)

    def by_site(chosen: Tensor) -> list[Tensor]:
        chosen = chosen.sort().values
        counts = torch.searchsorted(chosen, ends).diff(prepend=ends.new_zeros(1)).tolist()
        return [part - (end - size) for part, end, size in zip(chosen.split(counts), ends, sizes, strict=True)]

    return by_site(order[:k]), by_site(order[-k:])


def k_of_share(share: float, candidates: int) -> int:
    """A share of the number of candidates, rounded up, at least 1: a default k for any model."""
    return max(1, math.ceil(share * candidates))
