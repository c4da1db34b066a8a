"""SAEs of every kind: activations by hand, and the types of numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from riebench.engine.sae_check import _warn_once
from riebench.sae.given import as_sae
from riebench.sae.linear import GroupMax, JumpReLU, LinearSAE, TopK
from riebench.util.errors import UserError


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


class Theirs(nn.Module):
    """A stranger's SAE: its norms are folded by its decoder, so that its W_dec is not what a code adds."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.W_enc = nn.Parameter(torch.randn(8, 16).to(dtype))
        self.W_dec = nn.Parameter(3 * torch.randn(16, 8).to(dtype))
        self.k = 4

    def encode(self, x: Tensor) -> Tensor:
        values, indices = (x @ self.W_enc).topk(self.k)
        return torch.zeros(len(x), 16, dtype=x.dtype).scatter(1, indices, values.relu())

    def decode(self, z: Tensor) -> Tensor:
        return (z / self.W_dec.norm(dim=1)) @ self.W_dec + 1


def test_an_object_with_encode_and_decode_is_an_sae() -> None:
    theirs, x = Theirs(), torch.randn(2, 5, 8)
    sae = as_sae(theirs, 8, "it")
    assert (sae.k, sae.n_features, sae.d_model, sae.kind) == (4, 16, 8, "Theirs")
    codes = sae.encode(x)
    assert torch.equal(codes[1], theirs.encode(x[1]))
    assert torch.allclose(sae(x)[1], theirs.decode(theirs.encode(x[1])))
    assert not codes.requires_grad
    features = torch.arange(16)
    assert torch.allclose(sae.directions(codes, features), sae.decode(codes) - 1, atol=1e-5)
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(16))
    with torch.no_grad():
        theirs.W_dec[3].neg_()
    assert torch.allclose(sae.directions(codes, features), sae.decode(codes) - 1, atol=1e-5)
    half = as_sae(Theirs(torch.bfloat16), 8, "it")
    assert half.encode(x).dtype == half.decode(codes).dtype == half.W_dec.dtype == torch.float32
    assert float((half(x) - as_sae(Theirs(), 8, "it")(x)).norm()) < 0.2 * float(half(x).norm())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_large_bias_rounds_no_direction_away(dtype: torch.dtype) -> None:
    theirs = Theirs(dtype)
    theirs.decode = lambda z: z @ theirs.W_dec + 3000  # type: ignore[method-assign]
    off = as_sae(theirs, 8, "it").W_dec - theirs.W_dec.float()
    assert float(off.norm()) < 0.05 * float(theirs.W_dec.norm())


def test_an_object_that_writes_into_its_vectors_is_refused() -> None:
    theirs = Theirs()
    theirs.encode = lambda x: x.mul_(2) @ theirs.W_enc  # type: ignore[method-assign]
    with pytest.raises(UserError, match="it changes in place the vectors that it encodes; let it change a copy"):
        as_sae(theirs, 8, "it")


def test_an_object_whose_threshold_decides_has_no_k() -> None:
    """As BatchTopK SAEs of dictionary_learning, which keep the k of their training."""
    theirs, x = Theirs(), torch.randn(5, 8)
    theirs.encode = lambda x: (pre := x @ theirs.W_enc) * (pre > 50)  # type: ignore[method-assign]
    sae = as_sae(theirs, 8, "it")
    assert sae.k is None
    assert torch.equal(sae.encode(100 * x), theirs.encode(100 * x))


def test_values_that_an_object_normalises_are_refused() -> None:
    theirs = Theirs()
    theirs.cfg = SimpleNamespace(normalize_activations="expected_average_only_in")
    with pytest.raises(UserError, match="normalize_activations of it is 'expected_average_only_in', expected"):
        as_sae(theirs, 8, "it")
    theirs.cfg.normalize_activations = "none"
    assert as_sae(theirs, 8, "it").n_features == 16
    encode = theirs.encode
    theirs.encode = lambda x: encode(x / x.norm(dim=-1, keepdim=True))  # type: ignore[method-assign]
    with pytest.raises(UserError, match="vectors of twice the length the same codes, as an SAE of normalised values"):
        as_sae(theirs, 8, "it")


def test_codes_with_signs_become_two_features() -> None:
    theirs, x = Theirs(), torch.randn(5, 8)
    theirs.encode = lambda x: x @ theirs.W_enc  # type: ignore[method-assign]
    sae = as_sae(theirs, 8, "it")
    codes = sae.encode(x)
    assert codes.shape == (5, 32)
    assert bool((codes >= 0).all())
    assert torch.allclose(codes[:, :16] - codes[:, 16:], x @ theirs.W_enc)
    assert torch.allclose(sae(x), theirs.decode(theirs.encode(x)), atol=1e-4)
    assert torch.allclose(sae.directions(codes, torch.arange(32)) + 1, sae(x), atol=1e-4)


@pytest.mark.parametrize(
    ("part", "function", "said"),
    [
        ("encode", lambda x: (x, x), "makes a tuple of vectors"),
        ("encode", lambda x: len(x) * (x @ torch.ones(8, 16)), "otherwise in a batch"),
        ("encode", lambda x: x[0] / 0, r"makes \[8\]"),
        ("encode", lambda x: x @ torch.ones(9, 16), "cannot encode and decode"),
        ("decode", lambda z: z @ torch.ones(16, 7), "makes vectors"),
        ("decode", lambda z: (z @ torch.ones(16, 8)).square(), "not by a sum of directions"),
        ("decode", lambda z: z @ torch.ones(16, 8) / 0, "not finite"),
        ("decode", None, "without decode"),
    ],
)
def test_objects_that_are_no_saes_are_refused(part: str, function: Any, said: str) -> None:
    theirs = Theirs()
    setattr(theirs, part, function)
    with pytest.raises(UserError, match=said):
        as_sae(theirs, 8, "it")


def test_each_sae_that_explains_nothing_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """A second one of the same kind and size, too, as a process loads it later."""
    first, second = (LinearSAE(8, 16, TopK(4)) for _ in range(2))
    for site, sae in (("mid.0", first), ("mid.0", first), ("mid.0", second), ("up.0.0", second)):
        _warn_once(site, sae, -1.0)
    assert len(caplog.records) == 3
