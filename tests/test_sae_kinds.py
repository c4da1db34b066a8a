"""SAEs of every kind: activations by hand, and the types of numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from riebench.sae.linear import GroupMax, JumpReLU, LinearSAE, TopK


@pytest.mark.parametrize(
    ("activation", "codes"),
    [
        (TopK(3), [[3.0, 0, 0.5, 1, 0, 0], [0, 0, 0, 0, 0, 1]]),
        (JumpReLU(torch.zeros(6)), [[3.0, 0, 0.5, 1, 0, 0], [0, 0, 0, 0, 0, 1]]),
        (JumpReLU(torch.tensor([3.0, -3, 0.4, 0.5, 0, 2])), [[0.0, 0, 0.5, 1, 0, 0], [0.0] * 6]),
        (GroupMax(2), [[3.0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1]]),
    ],
)
def test_activations_by_hand(activation: TopK | JumpReLU | GroupMax, codes: list[list[float]]) -> None:
    pre = torch.tensor([[3.0, -2, 0.5, 1, -9, 0], [-1, -1, -1, -1, -1, 1]])
    assert activation(pre).tolist() == codes
    assert torch.equal(activation(pre.expand(4, 2, 6))[3], activation(pre))


def test_kind_and_k_say_what_the_activation_is() -> None:
    sizes = (4, 6)
    for activation, kind, k in (
        (TopK(2), "topk", 2),
        (GroupMax(3), "groupmax", 3),
        (JumpReLU(torch.zeros(6)), "relu", None),
        (JumpReLU(torch.ones(6)), "jumprelu", None),
    ):
        sae = LinearSAE(*sizes, activation)  # type: ignore[arg-type]
        assert (sae.kind, sae.k, sae.d_model, sae.n_features) == (kind, k, *sizes)
    with pytest.raises(ValueError, match="6 features make no 4 groups"):
        LinearSAE(*sizes, GroupMax(4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_sae_in_half_precision_computes_in_float32(dtype: torch.dtype) -> None:
    sae = LinearSAE(8, 16, JumpReLU(torch.full((16,), 0.1))).requires_grad_(False)
    sae.pre_bias.normal_()
    sae = sae.to(dtype)
    wide = LinearSAE(8, 16, JumpReLU(torch.zeros(16))).requires_grad_(False)
    wide.load_state_dict(sae.state_dict())

    def same(x: Tensor) -> None:
        codes = sae.encode(x)
        assert codes.dtype == torch.float32
        assert torch.equal(codes, wide.encode(x))
        assert torch.equal(sae.decode(codes), wide.decode(codes))
        features = torch.tensor([3, 1])
        assert torch.equal(sae.directions(codes, features), wide.directions(codes, features))
        assert torch.equal(sae.W_dec, wide.W_dec)

    same(torch.randn(3, 8))
    same(torch.randn(3, 8).to(dtype))
