"""Random SAEs in the published layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from riebench.models.sdxl import FOUR, SAE_SUFFIX, module_path
from riebench.sae.topk import TopKSAE
from riebench.standin.size import Size

SHAPES: dict[Size, dict[str, int]] = {
    "true": {"n_dirs_local": 5120, "d_model": 1280, "k": 160, "auxk": 256, "dead_steps_threshold": 2441},
    "tiny": {"n_dirs_local": 256, "d_model": 64, "k": 16, "auxk": 32, "dead_steps_threshold": 2441},
}


def write_saes(folder: Path, size: Size, seed: int) -> None:
    """Write an SAE for each of SDXL's four blocks."""
    generator = torch.Generator().manual_seed(seed)
    for block in FOUR:
        write_sae(folder / f"unet.{module_path(block)}{SAE_SUFFIX}" / "final", SHAPES[size], generator)


def write_sae(folder: Path, config: Mapping[str, int], generator: torch.Generator) -> None:
    """Write one SAE: ``config.json`` and ``state_dict.pth``."""
    sae = random_sae(config, generator)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config) + "\n")
    torch.save({"state_dict": dict(sae.state_dict())}, folder / "state_dict.pth")


def random_sae(config: Mapping[str, int], generator: torch.Generator) -> TopKSAE:
    """A random SAE with the sizes of a published ``config.json``; its encoder is its decoder transposed."""
    sae = TopKSAE(config["d_model"], config["n_dirs_local"], config["k"])
    decoder = torch.randn(config["d_model"], config["n_dirs_local"], generator=generator)
    sae.decoder.weight.data = decoder / decoder.norm(dim=0)
    sae.encoder.weight.data = sae.decoder.weight.data.T.clone()
    return sae.eval().requires_grad_(False)
