"""The TopK sparse autoencoder (arXiv 2410.22366; Gao et al., 2024)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from riebench.util.errors import UserError


class TopKSAE(nn.Module):
    """``z = relu(topk(W_enc (x - b_pre) + b_lat, k))``, ``x' = W_dec z + b_pre``.

    Parameter names are those of the published checkpoints.

    Args:
        d_model: width d of the vectors.
        n_features: number n of features.
        k: features that stay active.
    """

    stats_last_nonzero: Tensor

    def __init__(self, d_model: int, n_features: int, k: int) -> None:
        super().__init__()
        if not 0 < k <= n_features:
            raise ValueError(f"k is {k}, expected 1 to the number of features, {n_features}")
        self.k = k
        self.encoder = nn.Linear(d_model, n_features, bias=False)
        self.decoder = nn.Linear(n_features, d_model, bias=False)
        self.pre_bias = nn.Parameter(torch.zeros(d_model))
        self.latent_bias = nn.Parameter(torch.zeros(n_features))
        self.register_buffer("stats_last_nonzero", torch.zeros(n_features, dtype=torch.long))

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.decoder.weight.shape[1]

    @property
    def d_model(self) -> int:
        """Width of the vectors."""
        return self.decoder.weight.shape[0]

    @property
    def W_dec(self) -> Tensor:
        """The direction of each feature ``[n, d]``."""
        return self.decoder.weight.T

    def pre_activations(self, x: Tensor) -> Tensor:
        """``W_enc (x - b_pre) + b_lat``: ``[..., d]`` to ``[..., n]``."""
        centred = (x - self.pre_bias).to(self.encoder.weight.dtype)  # of the values' type where that is wider
        pre: Tensor = self.encoder(centred) + self.latent_bias
        return pre

    def encode(self, x: Tensor) -> Tensor:
        """Codes ``[..., n]`` of vectors ``[..., d]``; at most k of them are above zero.

        Raises:
            UserError: if the vectors are no real tensor of this width, or on another device.
        """
        if not isinstance(x, Tensor) or not x.is_floating_point():
            kind = f"a tensor of {x.dtype}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise UserError(f"the vectors are {kind}; expected a tensor of real numbers")
        if not x.ndim or x.shape[-1] != self.d_model:
            raise UserError(f"the vectors have the shape {list(x.shape)}; expected [..., {self.d_model}] for this SAE")
        if x.device != self.pre_bias.device:
            raise UserError(f"the vectors are on {x.device}; expected {self.pre_bias.device}, the SAE's device")
        values, indices = self.pre_activations(x).topk(self.k, dim=-1)
        # Of the products' type, which is not that of half-precision values.
        return values.new_zeros(*x.shape[:-1], self.n_features).scatter(-1, indices, values.relu())

    def decode(self, z: Tensor) -> Tensor:
        """Reconstruction ``[..., d]`` of codes ``[..., n]``."""
        return self.decoder(z) + self.pre_bias

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))

    def directions(self, codes: Tensor, features: Tensor) -> Tensor:
        """What some features write: codes ``[..., n]`` and indices ``[m]`` to ``[..., d]``, without the bias."""
        return codes[..., features] @ self.decoder.weight[:, features].T
