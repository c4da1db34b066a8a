"""Products with codes of which k numbers a row are not zero: k rows of the dictionary are touched, not all.

Every product is the forward pass of an embedding bag, which on CPUs and GPUs is fast and gives the same sum each time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

NUMBERS, ROWS = 10_500_000, 512
"""Pre-activations that a CPU computes at a time, and of how many rows they are at least and a multiple: large products
are fast ones, those of an odd number of rows less so, and 42 MB are little beside what a step holds."""
GROUPS = (32, 16, 8, 4)
"""Sizes of groups of features; the largest with ``n >= k * size^2`` leaves the least to sort."""


class Active(NamedTuple):
    """Where the codes of a batch are, row by row and feature by feature.

    Attributes:
        features: ``[batch, k]``, the features of each row.
        order: ``[batch * k]``, the entries of ``features`` sorted by feature.
        rows: ``[batch * k]``, the row of each of them.
        starts: ``[n]``, where the entries of each feature begin in ``order``.
    """

    features: Tensor
    order: Tensor
    rows: Tensor
    starts: Tensor


def active(features: Tensor, n_features: int) -> Active:
    """Sort the features ``[batch, k]`` of a batch."""
    # Numbers of half the size are sorted in half the time.
    by_feature, order = features.flatten().int().sort(stable=True)
    starts = torch.searchsorted(by_feature, torch.arange(n_features, device=features.device, dtype=torch.int32))
    return Active(features, order, order // features.shape[1], starts)


def best_features(centred: Tensor, W_enc: Tensor, latent_bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest pre-activations of each row, and their features, both ``[batch, k]``, unsorted, without gradient.

    On a CPU the pre-activations ``centred W_enc^T + latent_bias`` are computed of some rows at a time. The k largest of
    a row lie in the k groups of features with the largest maxima, so only these are sorted; the result is exact.

    Args:
        centred: vectors ``[batch, d]`` less the bias.
        W_enc: ``[n, d]``.
        latent_bias: ``[n]``.
        k: 1 to n.
    """
    n_features = len(W_enc)
    rows = len(centred) if centred.is_cuda else max(NUMBERS // n_features // ROWS * ROWS, ROWS)
    group = next((size for size in GROUPS if n_features % size == 0 and n_features >= k * size * size), 1)
    pre = centred.new_empty(min(rows, len(centred)), n_features)
    starts = torch.arange(0, n_features, n_features // group, device=centred.device)[:, None]
    found: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        for part in centred.split(rows):
            some = torch.addmm(latent_bias, part, W_enc.T, out=pre[: len(part)])
            if group == 1:
                values, features = some.topk(k, dim=1, sorted=False)
            else:
                best = some.unflatten(1, (group, -1)).amax(1).topk(k, dim=1, sorted=False).indices
                among = (best[:, None] + starts).flatten(1)
                values, indices = some.gather(1, among).topk(k, dim=1, sorted=False)
                features = among.gather(1, indices)
            found.append((values, features))
    return torch.cat([values for values, _ in found]), torch.cat([features for _, features in found])


def weighted_rows(where: Active, codes: Tensor, dictionary: Tensor) -> Tensor:
    """``codes @ dictionary`` for codes ``[batch, k]`` and a dictionary ``[n, d]``: ``[batch, d]``."""
    return embedding_bag(where.features, dictionary, per_sample_weights=codes, mode="sum")


def weighted_rows_transposed(where: Active, codes: Tensor, vectors: Tensor) -> Tensor:
    """``codes.T @ vectors`` for codes ``[batch, k]`` and vectors ``[batch, d]``: ``[n, d]``."""
    weights = codes.flatten()[where.order]
    return embedding_bag(where.rows, vectors, where.starts, per_sample_weights=weights, mode="sum")
