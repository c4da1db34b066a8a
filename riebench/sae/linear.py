"""An SAE with a linear encoder and decoder, and the activations that are usual between them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from riebench.sae.sae import SAE, at_least_float32


class TopK(nn.Module):
    """``relu(topk(pre, k))``: the k largest pre-activations (Gao et al., 2024)."""

    kind = "topk"

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, pre: Tensor) -> Tensor:
        values, indices = pre.topk(self.k, dim=-1)
        return torch.zeros_like(pre).scatter(-1, indices, values.relu())


class GroupMax(nn.Module):
    """The largest of ``relu(pre)`` in each of k groups of neighbouring features (sparsify)."""

    kind = "groupmax"

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, pre: Tensor) -> Tensor:
        groups = pre.relu().unflatten(-1, (self.k, -1))
        values, indices = groups.max(-1, keepdim=True)
        return torch.zeros_like(groups).scatter(-1, indices, values).flatten(-2)


class JumpReLU(nn.Module):
    """``relu(pre)`` where ``pre > threshold [n]`` (arXiv 2407.14435); plain ReLU with thresholds of 0."""

    k = None

    def __init__(self, threshold: Tensor) -> None:
        super().__init__()
        self.threshold: Tensor
        self.register_buffer("threshold", threshold)

    @property
    def kind(self) -> str:
        """``relu`` if no threshold is above 0, else ``jumprelu``."""
        return "jumprelu" if bool((self.threshold > 0).any()) else "relu"

    def forward(self, pre: Tensor) -> Tensor:
        return pre.relu() * (pre > self.threshold)


class LinearSAE(SAE):
    """``z = activation(W_enc (x - b_pre) + b_lat)``, ``x' = W_dec z + b_pre``, in float32 whatever the weights' type.

    A transcoder encodes the input x of an MLP, and x' is the MLP's output, to which a matrix may add ``W_skip x``.

    Parameter names are those of the published checkpoints.

    Args:
        d_model: width d of the vectors.
        n_features: number n of features.
        activation: of pre-activations ``[..., n]`` to codes ``[..., n]``.
        kind: its name where the activation's own is not that of the SAE's files.
        transcodes: whether it is a transcoder, which its kind then says.
        skips: whether a transcoder has ``W_skip [d, d]``.

    Raises:
        ValueError: if an activation of k does not fit the number of features.
    """

    stats_last_nonzero: Tensor

    def __init__(
        self,
        d_model: int,
        n_features: int,
        activation: TopK | GroupMax | JumpReLU,
        kind: str | None = None,
        transcodes: bool = False,
        skips: bool = False,
    ) -> None:
        super().__init__()
        k = activation.k
        if k is not None and not 0 < k <= n_features:
            raise ValueError(f"k is {k}, expected 1 to the number of features, {n_features}")
        if isinstance(activation, GroupMax) and n_features % activation.k:
            raise ValueError(f"{n_features} features make no {k} groups of one size; expected a multiple of k")
        self.activation, self.transcodes = activation, transcodes
        self.kind = (kind or activation.kind) + (f"{'-skip' * skips}-transcoder" if transcodes else "")
        self.encoder = nn.Linear(d_model, n_features, bias=False)
        self.decoder = nn.Linear(n_features, d_model, bias=False)
        self.pre_bias = nn.Parameter(torch.zeros(d_model))
        self.latent_bias = nn.Parameter(torch.zeros(n_features))
        self.skip = nn.Linear(d_model, d_model, bias=False) if skips else None
        self.register_buffer("stats_last_nonzero", torch.zeros(n_features, dtype=torch.long))

    @property
    def k(self) -> Any:
        """The activation's k; None of one without. What is set here is the activation's too."""
        return self.activation.k

    @k.setter
    def k(self, k: Any) -> None:
        self.activation.k = k

    @property
    def W_dec(self) -> Tensor:
        """The direction of each feature ``[n, d]``."""
        return at_least_float32(self.decoder.weight).T

    @property
    def n_features(self) -> int:
        """Number n of features."""
        return self.decoder.weight.shape[1]

    @property
    def d_model(self) -> int:
        """Width d of the vectors."""
        return self.decoder.weight.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.decoder.weight.device

    def pre_activations(self, x: Tensor) -> Tensor:
        """``W_enc (x - b_pre) + b_lat``: ``[..., d]`` to ``[..., n]``."""
        W_enc = at_least_float32(self.encoder.weight)
        centred = (x - at_least_float32(self.pre_bias)).to(W_enc.dtype)  # of the values' type where that is wider
        return linear(centred, W_enc) + self.latent_bias

    def codes(self, x: Tensor) -> Tensor:
        """Codes ``[..., n]`` of vectors ``[..., d]``."""
        codes: Tensor = self.activation(self.pre_activations(x))
        return codes

    def decode(self, z: Tensor) -> Tensor:
        """Reconstruction ``[..., d]`` of codes ``[..., n]``."""
        return linear(z, at_least_float32(self.decoder.weight)) + self.pre_bias

    def rebuild(self, x: Tensor, codes: Tensor) -> Tensor:
        """See :class:`SAE`."""
        rebuilt = self.decode(codes)
        return rebuilt if self.skip is None else rebuilt + linear(x.to(rebuilt), at_least_float32(self.skip.weight))
