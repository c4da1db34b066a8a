"""Products with codes of which k numbers a row are not zero: k rows of the dictionary are touched, not all.

Every product is the forward pass of an embedding bag, which on CPUs and GPUs is fast and gives the same sum each time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag


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
    by_feature, order = features.flatten().sort(stable=True)
    starts = torch.searchsorted(by_feature, torch.arange(n_features, device=features.device))
    return Active(features, order, order // features.shape[1], starts)


def weighted_rows(where: Active, codes: Tensor, dictionary: Tensor) -> Tensor:
    """``codes @ dictionary`` for codes ``[batch, k]`` and a dictionary ``[n, d]``: ``[batch, d]``."""
    return embedding_bag(where.features, dictionary, per_sample_weights=codes, mode="sum")


def weighted_rows_transposed(where: Active, codes: Tensor, vectors: Tensor) -> Tensor:
    """``codes.T @ vectors`` for codes ``[batch, k]`` and vectors ``[batch, d]``: ``[n, d]``."""
    weights = codes.flatten()[where.order]
    return embedding_bag(where.rows, vectors, where.starts, per_sample_weights=weights, mode="sum")


class Encode(torch.autograd.Function):
    """Pre-activations at the active features, whose gradient costs as little as they are few.

    ``apply(pre, centred, W_enc, pre_bias, latent_bias, where)`` picks ``[batch, k]`` of the pre-activations
    ``pre = centred W_enc^T + latent_bias`` ``[batch, n]``, with ``centred = x - pre_bias`` ``[batch, d]``. The gradient
    goes to ``W_enc``, ``pre_bias`` and ``latent_bias``.
    """

    @staticmethod
    def forward(
        context: Any, pre: Tensor, centred: Tensor, W_enc: Tensor, pre_bias: Tensor, latent_bias: Tensor, where: Active
    ) -> Tensor:
        context.save_for_backward(centred, W_enc)
        context.where = where
        return pre.gather(1, where.features)

    @staticmethod
    @once_differentiable
    def backward(context: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        centred, W_enc = context.saved_tensors
        of_weight = weighted_rows_transposed(context.where, grad, centred)
        of_latent = weighted_rows_transposed(context.where, grad, centred.new_ones(len(centred), 1)).squeeze(1)
        return None, None, of_weight, -(of_latent @ W_enc), of_latent, None


class Decode(torch.autograd.Function):
    """``apply(codes, W_dec, where)``: :func:`weighted_rows` with a gradient to codes ``[batch, k]`` and ``W_dec``."""

    @staticmethod
    def forward(context: Any, codes: Tensor, W_dec: Tensor, where: Active) -> Tensor:
        context.save_for_backward(codes, W_dec)
        context.where = where
        return weighted_rows(where, codes, W_dec)

    @staticmethod
    @once_differentiable
    def backward(context: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        codes, W_dec = context.saved_tensors
        with torch.enable_grad():
            free = codes.detach().requires_grad_()
            summed = weighted_rows(context.where, free, W_dec.detach())
        (of_codes,) = torch.autograd.grad(summed, free, grad)
        return of_codes, weighted_rows_transposed(context.where, codes, grad), None
