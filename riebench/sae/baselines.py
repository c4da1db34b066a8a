"""Dictionaries that a trained one has to beat: random, with a frozen random decoder, and plain coordinates."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from riebench.models.model import Model
from riebench.sae.prompts import Prompted
from riebench.sae.scan import runs_of
from riebench.sae.topk import TopKSAE
from riebench.util.progress import Track

BASELINES = ("random", "frozen-decoder", "neurons", "channels")
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


def frozen_decoder(x: Tensor, features: int, k: int, seed: int, steps: int = STEPS) -> TopKSAE:
    """A TopK SAE whose decoder stays random while encoder and biases are trained (arXiv 2602.14111).

    Trained by Adam on the mean squared error over the variance of the data, from a tied start at the data's mean.

    Args:
        x: values ``[m, d]``.
        features: number of features.
        k: active features.
        seed: of the directions and of the order of the values.
        steps: steps of :data:`BATCH` values each.
    """
    sae = random_dictionary(x.shape[1], features, k, seed).to(x.device)
    sae.pre_bias.copy_(x.mean(0))
    trained = [sae.encoder.weight, sae.pre_bias, sae.latent_bias]
    for parameter in trained:
        parameter.requires_grad_(True)
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
    return sae.eval().requires_grad_(False)


def values_at(
    model: Model, sites: Collection[str], prompted: Sequence[Prompted], track: Track = iter
) -> dict[str, Tensor]:
    """Values ``[pictures * positions, width]`` of one-step runs at some sites."""
    found: dict[str, list[Tensor]] = {site: [] for site in sites}
    runs = runs_of(model, prompted, 1, sites)
    for _ in track(range(len(prompted))):
        run = next(runs)
        for site in sites:
            found[site].append(run.values[site][0].float())
    return {site: torch.cat(parts) for site, parts in found.items()}
