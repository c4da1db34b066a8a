"""Load SDXL, SDXL Turbo and their like from a folder in diffusers' layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from riebench.util.errors import UserError
from riebench.spec.settings import ModelSettings

UNET_WEIGHTS = "unet/diffusion_pytorch_model{}.safetensors"


def pick_device(name: str) -> torch.device:
    """A device by name; ``auto`` is the best there is.

    Raises:
        UserError: if the device is not there.
    """
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(best if name == "auto" else name)
    except RuntimeError:
        raise UserError(f"the device {name!r} is not known; expected auto, cpu, cuda, cuda:N or mps") from None
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.type, False):
        raise UserError(f"the device {name!r} is not on this machine; the best there is here is {best!r}")
    return device


def load_pipeline(folder: Path, settings: ModelSettings) -> Any:
    """A ``StableDiffusionXLPipeline`` on its device, from safetensors alone.

    Half-precision files (``.fp16.safetensors``) are taken where there are no others. In float16 the VAE runs in
    float32 if its configuration says that half precision breaks it.

    Raises:
        UserError: if the folder cannot be read, or offloading is asked for without a GPU.
    """
    import diffusers.utils.logging
    import transformers.utils.logging
    from diffusers import StableDiffusionXLPipeline

    # Bars of the loaders would cover up the run's own.
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    device, dtype = pick_device(settings.device), getattr(torch, settings.dtype)
    if settings.offload != "none" and device.type == "cpu":
        raise UserError(f"offload={settings.offload} needs a GPU to load weights onto; leave it out on the CPU")
    half_only = not (folder / UNET_WEIGHTS.format("")).exists() and (folder / UNET_WEIGHTS.format(".fp16")).exists()
    try:
        pipeline = StableDiffusionXLPipeline.from_pretrained(
            folder,
            dtype=dtype,
            variant="fp16" if half_only else None,
            use_safetensors=True,
            local_files_only=True,
            add_watermarker=False,
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        said = str(error).strip().splitlines()[0]
        raise UserError(f"the pipeline in {folder} cannot be loaded: {said}") from None
    if dtype == torch.float16 and pipeline.vae.config.force_upcast:
        pipeline.vae.to(torch.float32)
    pipeline.vae.enable_slicing()  # decoding a batch at once takes more memory than all the rest
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
        part.eval().requires_grad_(False)
    if settings.offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif settings.offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    else:
        pipeline.to(device)
    return pipeline
