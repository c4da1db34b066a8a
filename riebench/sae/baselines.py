"""Dictionaries that a trained one has to beat: random, with a frozen random decoder, and plain coordinates."""

from __future__ import annotations

import torch
from torch import Tensor

from riebench.sae.topk import TopKSAE

STEPS, BATCH, RATE = 600, 1024, 2e-3


class SignedCoordinates:
    """The coordinates of the values as features, one for each sign: ``z = [relu(x), relu(-x)]``, ``x' = x``."""

    def __init__(self, width: int, device: torch.device) -> None:
        self.width, self.device = width, device

    @property
    def W_dec(self) -> Tensor:
        """The unit vectors and their opposites ``[2 d, d]``."""
        eye = torch.eye(self.width, device=self.device)
        return torch.cat([eye, -eye])

    def encode(self, x: Tensor) -> Tensor:
        """Codes ``[..., 2 d]`` of vectors ``[..., d]``."""
        return torch.cat([x, -x], -1).relu()

    def decode(self, z: Tensor) -> Tensor:
        """The vectors ``[..., d]`` themselves."""
        up, down = z.chunk(2, -1)
        return up - down


def random_dictionary(width: int, features: int, k: int, seed: int) -> TopKSAE:
    """A TopK SAE with random unit directions, the encoder its transpose, without biases."""
    generator = torch.Generator().manual_seed(seed)
    sae = TopKSAE(width, features, k)
    directions = torch.nn.functional.normalize(torch.randn(features, width, generator=generator), dim=1)
    with torch.no_grad():
        sae.decoder.weight.copy_(directions.T)
        sae.encoder.weight.copy_(directions)
    return sae.eval().requires_grad_(False)


def train_encoder(sae: TopKSAE, x: Tensor, seed: int, steps: int = STEPS) -> None:
    """Train encoder and biases of a TopK SAE in place, while its decoder stays as it is (arXiv 2602.14111).

    By Adam on the mean squared error over the variance of the data, from the data's mean as bias.

    Args:
        sae: as of :func:`random_dictionary`.
        x: values ``[m, d]``.
        seed: of the order of the values.
        steps: steps of :data:`BATCH` values each; the rate falls to 0 over the last fifth.
    """
    trained = [sae.encoder.weight, sae.pre_bias, sae.latent_bias]
    for parameter in trained:
        parameter.requires_grad_(True)
    with torch.no_grad():
        sae.pre_bias.copy_(x.mean(0))
    variance = (x - x.mean(0)).square().mean()
    optimizer = torch.optim.Adam(trained, lr=RATE, eps=6.25e-10)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, (steps - step) / (steps / 5))
        batch = x[torch.randint(len(x), (min(BATCH, len(x)),), generator=generator).to(x.device)]
        loss = (sae(batch) - batch).square().mean() / variance
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    sae.requires_grad_(False)
