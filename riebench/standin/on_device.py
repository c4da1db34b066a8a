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
from riebench.standin.tiny_pipelines import TINY, class_of, tiny_networks, write_tiny_frame

FEW = 2
"""Blocks in each list of a family at true widths: the whole transformers have up to 64 GB in 16 bits."""
WIDE: dict[str, dict[str, Any]] = {
    "sd3.5-medium": {"attention_head_dim": 64, "num_attention_heads": 24, "caption_projection_dim": 1536},
    "flux2-dev": {
        "attention_head_dim": 128,
        "num_attention_heads": 48,
        "axes_dims_rope": (32, 32, 32, 32),
        "timestep_guidance_channels": 256,
    },
    "z-image-turbo": {
        "dim": 3840,
        "n_heads": 30,
        "n_kv_heads": 30,
        "axes_dims": [32, 48, 48],
        "axes_lens": [1024, 512, 512],
    },
    "qwen-image": {"attention_head_dim": 128, "num_attention_heads": 24, "axes_dims_rope": (16, 56, 56)},
}
"""Families to the published widths of their transformers; all but what depends on the width of the text encoders."""


def model_on(device: torch.device, name: str, size: Size, settings: Settings, seed: int = 0) -> Model:
    """A model with random weights and SAEs, on a device.

    Weights are drawn in float32 and then cast, so that they differ between types by rounding only. Each kind of device
    draws other numbers.

    Args:
        device: that computes.
        name: of an SDXL, ``flux-schnell``, or a family of :data:`WIDE`.
        size: see :data:`riebench.standin.size.Size`; a FLUX has fewer blocks at true widths, and a family has few at
            any, with tiny text encoders and a tiny autoencoder.
        settings: type, offloading, size of the pictures and the like.
        seed: of the weights.
    """
    entry = entry_named(name)
    assert isinstance(entry, DiffusersEntry)
    flux, family = isinstance(entry, TokenEntry), name in WIDE
    if family:
        networks = family_networks(entry, size)
    else:
        networks = flux_networks(FLUX_SHAPES[size], name == "flux-dev") if flux else sdxl_networks(name, size)
    kind = pipeline_on(entry, device)
    with tempfile.TemporaryDirectory() as folder:
        made = networks_on(device, networks, getattr(torch, settings.model.dtype), seed)
        if family:
            classes = {part: class_of(network) for part, network in made.items()}
            write_tiny_frame(Path(folder), entry.pipeline_class, classes)
        else:
            write_flux_frame(Path(folder)) if flux else write_sdxl_frame(Path(folder), name)
        pipeline = kind.from_pretrained(folder, local_files_only=True, **made, **entry.loading)
    model = entry.model_of(prepared(pipeline, settings.model.offload, device), settings, f"standin-{name}-{seed}")
    generator = torch.Generator().manual_seed(seed)
    blocks = block_sites(model.sites)[-1:] if family else SAE_BLOCKS if flux else FOUR
    blocks = [block for block in blocks if block in model.sites]
    features, k = FLUX_SHAPES[size].sae if flux else (SAE_SHAPES[size]["n_dirs_local"], SAE_SHAPES[size]["k"])
    for_site = {"n_dirs_local": features, "k": k}
    model.saes = {b: random_sae({**for_site, "d_model": model.sites[b].width}, generator).to(device) for b in blocks}
    return model


def family_networks(entry: DiffusersEntry, size: Size) -> Networks:
    """The networks of a family of transformers with few blocks."""
    tiny = TINY[entry.pipeline_class]
    depth = dict.fromkeys(tiny.depth, FEW)
    return tiny_networks(entry.pipeline_class, depth if size == "tiny" else depth | WIDE[entry.name])


def networks_on(device: torch.device, networks: Networks, dtype: torch.dtype, seed: int) -> dict[str, Any]:
    """The networks of a pipeline with random weights on a device; each is made and cast before the next."""
    made = {}
    for name, make in networks.items():
        with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]), torch.device(device):
            torch.manual_seed(seed)
            made[name] = make().to(dtype)
    return made
