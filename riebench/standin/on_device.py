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
from riebench.models.sites import block_sites
from riebench.models.tokens import TokenEntry
from riebench.settings.settings import Settings
from riebench.standin.flux_pipeline import FLUX_SHAPES, SAE_BLOCKS, flux_networks, write_flux_frame
from riebench.standin.pipeline import Networks, sdxl_networks, write_sdxl_frame
from riebench.standin.saes import SHAPES as SAE_SHAPES
from riebench.standin.saes import random_sae
from riebench.standin.size import Size
from riebench.standin.tiny_pipelines import TINY, WIDE, class_of, tiny_networks, write_tiny_frame


def model_on(device: torch.device, name: str, size: Size, settings: Settings, seed: int = 0) -> Model:
    """A model with random weights and SAEs, on a device.

    Weights are drawn in float32 and then cast, so that they differ between types by rounding only. Each kind of device
    draws other numbers.

    Args:
        device: that computes.
        name: of an SDXL, a FLUX.1, or of a family of :mod:`riebench.models.token_families`.
        size: see :data:`riebench.standin.size.Size`; at true widths a FLUX.1 has fewer blocks, and a family (those of
            :data:`riebench.standin.tiny_pipelines.WIDE`) a small autoencoder and small text encoders, too.
        settings: type, offloading, size of the pictures and the like.
        seed: of the weights.
    """
    entry = entry_named(name)
    assert isinstance(entry, DiffusersEntry)
    dtype, flux, family = getattr(torch, settings.model.dtype), isinstance(entry, TokenEntry), entry.pipeline_class
    kind = pipeline_on(entry, device)
    with tempfile.TemporaryDirectory() as folder:
        if family in TINY:
            networks: Networks = tiny_networks(family, WIDE.get(family, {}) if size == "true" else {})
            made = networks_on(device, networks, dtype, seed)
            write_tiny_frame(Path(folder), family, {part: class_of(network) for part, network in made.items()})
        elif flux:
            made = networks_on(device, flux_networks(FLUX_SHAPES[size], name == "flux-dev"), dtype, seed)
            write_flux_frame(Path(folder))
        else:
            made = networks_on(device, sdxl_networks(name, size), dtype, seed)
            write_sdxl_frame(Path(folder), name)
        pipeline = kind.from_pretrained(folder, local_files_only=True, **made, **entry.loading)
    model = entry.model_of(prepared(pipeline, settings.model.offload, device), settings, f"standin-{name}-{seed}")
    generator = torch.Generator().manual_seed(seed)
    blocks = [block for block in (SAE_BLOCKS if flux else FOUR) if block in model.sites]
    features, k = FLUX_SHAPES[size].sae if flux else (SAE_SHAPES[size]["n_dirs_local"], SAE_SHAPES[size]["k"])
    for_site = {"n_dirs_local": features, "k": k}
    blocks = blocks or block_sites(model.sites)[-1:]
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
