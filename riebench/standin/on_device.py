"""Random models made on their device, without files.

At true shape the networks of an SDXL have 14 GB in float32. A GPU fills them with random numbers in seconds; writing
them to a disk and reading them takes minutes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from riebench.models import Model, entry_named
from riebench.models.diffusers_entry import DiffusersEntry, pipeline_on, prepared
from riebench.models.sdxl import FOUR
from riebench.models.tokens import TokenEntry
from riebench.settings.settings import Settings
from riebench.standin.flux_pipeline import FLUX_SHAPES, SAE_BLOCKS, flux_networks, write_flux_frame
from riebench.standin.pipeline import Networks, sdxl_networks, write_sdxl_frame
from riebench.standin.saes import SHAPES as SAE_SHAPES
from riebench.standin.saes import random_sae
from riebench.standin.size import Size


def model_on(device: torch.device, name: str, size: Size, settings: Settings, seed: int = 0) -> Model:
    """A model with random weights and SAEs, on a device.

    Weights are drawn in float32 and then cast, so that they differ between types by rounding only. Each kind of device
    draws other numbers.

    Args:
        device: that computes.
        name: of an SDXL, or ``flux-schnell``.
        size: see :data:`riebench.standin.size.Size`; a FLUX has fewer blocks at true widths.
        settings: type, offloading, size of the pictures and the like.
        seed: of the weights.
    """
    entry = entry_named(name)
    assert isinstance(entry, DiffusersEntry)
    flux = isinstance(entry, TokenEntry)
    networks = flux_networks(FLUX_SHAPES[size], name == "flux-dev") if flux else sdxl_networks(name, size)
    kind = pipeline_on(entry, device)
    with tempfile.TemporaryDirectory() as folder:
        write_flux_frame(Path(folder)) if flux else write_sdxl_frame(Path(folder), name)
        made = networks_on(device, networks, getattr(torch, settings.model.dtype), seed)
        pipeline = kind.from_pretrained(folder, local_files_only=True, **made, **entry.loading)
    model = entry.model_of(prepared(pipeline, settings.model.offload, device), settings, f"standin-{name}-{seed}")
    generator = torch.Generator().manual_seed(seed)
    blocks = [block for block in (SAE_BLOCKS if flux else FOUR) if block in model.sites]
    features, k = FLUX_SHAPES[size].sae if flux else (SAE_SHAPES[size]["n_dirs_local"], SAE_SHAPES[size]["k"])
    for_site = {"n_dirs_local": features, "k": k}
    model.saes = {b: random_sae({**for_site, "d_model": model.sites[b].width}, generator).to(device) for b in blocks}
    return model


def networks_on(device: torch.device, networks: Networks, dtype: torch.dtype, seed: int) -> dict[str, Any]:
    """The networks of a pipeline with random weights on a device; each is made and cast before the next."""
    made = {}
    for name, make in networks.items():
        with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]), torch.device(device):
            torch.manual_seed(seed)
            made[name] = make().to(dtype)
    return made
