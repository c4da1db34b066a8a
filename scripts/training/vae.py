"""Stage 1: the autoencoder, on crops of drawn scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from .data import Scenes, to_tensor
from .loop import Job, run

CROP, BATCH = 64, 8


def build() -> AutoencoderKL:
    """A small AutoencoderKL: factor 4, four latent channels, no attention."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(12, 24, 48),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=128,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def stage(rank: int, world: int, folder: Path, steps: int) -> None:
    """Train the autoencoder: squared and absolute error, light KL, light noise on the latents."""
    torch.manual_seed(0)
    vae = build().to(memory_format=torch.channels_last)
    data = Scenes(folder)

    def loss(rng: np.random.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
        crops = []
        for i in rng.integers(len(data), size=BATCH):
            # Offsets stay on the latent grid, as a block of the pixelated style does in a whole picture.
            y, x = (int(k) * 4 for k in rng.integers(0, (128 - CROP) // 4 + 1, size=2))
            crops.append(data.images[i, y : y + CROP, x : x + CROP])
        x = to_tensor(np.stack(crops)).contiguous(memory_format=torch.channels_last)
        posterior = vae.encode(x).latent_dist
        z = posterior.mean + 0.03 * posterior.mean.std().detach() * torch.randn_like(posterior.mean)
        y = vae.decode(z).sample
        mse = (y - x).square().mean()
        total = mse * 5 + (y - x).abs().mean() * 0.5 + 1e-5 * posterior.kl().mean() / z[0].numel() * 16
        return total, {"mse": mse.item(), "psnr": float(10 * np.log10(4 / mse.item()))}

    run(Job("vae", vae, loss, steps, adam=3e-3, muon=0.006, ema=0.99), folder, rank, world)
