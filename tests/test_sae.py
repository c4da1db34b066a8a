"""The TopK SAE: formulas by hand, files, training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from riebench.sae.store import load_sae, save_sae
from riebench.sae.topk import TopKSAE
from riebench.sae.variance import explained_variance, geometric_median
from riebench.util.errors import UserError


@pytest.fixture
def by_hand() -> TopKSAE:
    """Two dimensions, three features, one active."""
    sae = TopKSAE(2, 3, 1)
    with torch.no_grad():
        sae.encoder.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
        sae.decoder.weight.copy_(torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]]))
        sae.pre_bias.copy_(torch.tensor([1.0, 1.0]))
        sae.latent_bias.copy_(torch.tensor([0.0, 0.5, 0.0]))
    return sae.requires_grad_(False)


def test_code_and_reconstruction(by_hand: TopKSAE) -> None:
    x = torch.tensor([[4.0, 2.0], [0.0, -9.0]])
    # x - b_pre = (3, 1) and (-1, -10); encoded with the bias: (3, 1.5, -3) and (-1, -9.5, 1).
    assert by_hand.encode(x).tolist() == [[3, 0, 0], [0, 0, 1]]
    assert by_hand(x).tolist() == [[4, 1], [0, 1]]


def test_negative_winners_are_zero(by_hand: TopKSAE) -> None:
    assert by_hand.encode(torch.tensor([1.0, 0.0])).tolist() == [0, 0, 0]


def test_values_are_encoded_position_by_position(by_hand: TopKSAE) -> None:
    values = torch.randn(2, 12, 2, generator=torch.Generator().manual_seed(1))
    codes = by_hand.encode(values)
    assert codes.shape == (2, 12, 3)
    assert torch.equal(codes[1, 11], by_hand.encode(values[1, 11]))
    assert torch.equal(by_hand.decode(codes)[0, 7], by_hand(values[0, 7]))
    written = by_hand.directions(codes, torch.tensor([0, 2]))
    assert written.shape == (2, 12, 2)
    expected = codes[..., [0]] * torch.tensor([1.0, 0.0]) + codes[..., [2]] * torch.tensor([-1.0, 0.0])
    assert torch.allclose(written, expected)
    assert not by_hand.directions(codes, torch.tensor([], dtype=torch.long)).any()
    with pytest.raises(UserError, match="codes are of 2 features, the SAE has 3"):  # they would be read as 0 and 1
        by_hand.directions(codes[..., [0, 2]], torch.tensor([0, 1]))


@pytest.mark.parametrize("k", [0, 4])
def test_k_is_one_to_the_number_of_features(k: int) -> None:
    with pytest.raises(ValueError, match=f"k is {k}, expected 1 to the number of features, 3"):
        TopKSAE(2, 3, k)


def test_explained_variance_by_hand(by_hand: TopKSAE) -> None:
    x = torch.tensor([[4.0, 2.0], [0.0, -9.0]])
    # Errors (0, 1) and (0, -10): 101; around the mean (2, -3.5): 2 * (4 + 30.25) = 68.5.
    assert explained_variance(by_hand, x) == pytest.approx(1 - 101 / 68.5)


def test_geometric_median_of_a_line() -> None:
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [100.0, 0.0]])
    assert geometric_median(points, 2000)[0].item() == pytest.approx(1.0, abs=0.05)


def test_files_in_the_published_layout(by_hand: TopKSAE, tmp_path: Path) -> None:
    save_sae(by_hand, tmp_path / "up.0.1", {"auxk": 2})
    assert json.loads((tmp_path / "up.0.1" / "config.json").read_text()) == {
        "n_dirs_local": 3,
        "d_model": 2,
        "k": 1,
        "auxk": 2,
    }
    back = load_sae(tmp_path / "up.0.1")
    x = torch.randn(5, 2)
    assert torch.equal(back(x), by_hand(x))
    with pytest.raises(UserError, match="cannot be used"):
        load_sae(tmp_path / "nowhere")
    (tmp_path / "up.0.1" / "config.json").write_text('{"n_dirs_local": 4, "d_model": 2, "k": 1}')
    with pytest.raises(UserError, match="cannot be used"):
        load_sae(tmp_path / "up.0.1")
