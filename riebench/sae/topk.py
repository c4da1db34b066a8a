"""The TopK sparse autoencoder (arXiv 2410.22366; Gao et al., 2024)."""

from __future__ import annotations

from riebench.sae.linear import LinearSAE, TopK


class TopKSAE(LinearSAE):
    """``z = relu(topk(W_enc (x - b_pre) + b_lat, k))``, ``x' = W_dec z + b_pre``.

    Args:
        d_model: width d of the vectors.
        n_features: number n of features.
        k: features that stay active.
    """

    k: int

    def __init__(self, d_model: int, n_features: int, k: int) -> None:
        super().__init__(d_model, n_features, TopK(k))
