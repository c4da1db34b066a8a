"""Write trained parts into the package: half precision, safetensors, one folder a part."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import open_clip
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTokenizer

from riebench.models.mini import FLUX_WEIGHTS, WEIGHTS

from . import flux, perception, tokens, unet, vae


def _load(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return torch.load(folder / f"{name}.weights", weights_only=True)


def _half(module: nn.Module) -> nn.Module:
    """Weights rounded to half precision and held in it."""
    return module.half()


def export_pipeline(folder: Path) -> None:
    """VAE, U-Net, text encoders, tokenizer and scheduler as a diffusers pipeline folder."""
    shutil.rmtree(WEIGHTS / "pipeline", ignore_errors=True)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    model = unet.Denoiser(tokenizer)
    model.load_state_dict(_load(folder, "balance"))
    autoencoder = vae.build()
    autoencoder.load_state_dict(_load(folder, "vae"))
    autoencoder.register_to_config(scaling_factor=float(torch.load(folder / "latent_scale.pt", weights_only=True)))
    pipeline = StableDiffusionXLPipeline(
        vae=_half(autoencoder),
        text_encoder=_half(model.text_encoder),
        text_encoder_2=_half(model.text_encoder_2),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=_half(model.unet),
        scheduler=unet.build_scheduler(),
        add_watermarker=False,
    )
    pipeline.save_pretrained(WEIGHTS / "pipeline", safe_serialization=True)


def export_flux(folder: Path) -> None:
    """Transformer, text encoders, tokenizers, VAE and scheduler as a pipeline folder of FLUX's."""
    shutil.rmtree(FLUX_WEIGHTS / "pipeline", ignore_errors=True)
    model = flux.FluxDenoiser(flux.build_transformer(), len(tokens.t5()))
    model.load_state_dict(_load(folder, "flux"))
    autoencoder = vae.build()
    autoencoder.load_state_dict(_load(folder, "vae"))
    scale = float(torch.load(folder / "latent_scale.pt", weights_only=True))
    pipeline = flux.pipeline_of(model, autoencoder, scale, tokens.write(folder / "tokenizer"))
    pipeline.to(torch.float16).save_pretrained(FLUX_WEIGHTS / "pipeline", safe_serialization=True)


def export_masker(folder: Path) -> None:
    """The masker's network."""
    target = WEIGHTS / "masker"
    target.mkdir(parents=True, exist_ok=True)
    state = {k: v.half() if v.is_floating_point() else v for k, v in _load(folder, "presence").items()}
    save_file({k: v.contiguous() for k, v in state.items()}, target / "masker.safetensors")


def export_clip(folder: Path) -> None:
    """The CLIP: open_clip's configuration and a checkpoint."""
    target = WEIGHTS / "clip"
    target.mkdir(parents=True, exist_ok=True)
    (target / f"{perception.CLIP_NAME}.json").write_text(json.dumps(perception.CLIP_CONFIG, indent=2) + "\n")
    open_clip.add_model_config(target)
    state = {k.removeprefix("clip."): v for k, v in _load(folder, "clip").items() if k.startswith("clip.")}
    half = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in state.items()}
    save_file(half, target / "open_clip_model.safetensors")


def export_trunk(folder: Path) -> None:
    """The convolutions of AlexNet, under torchvision's layer numbers."""
    target = WEIGHTS / "lpips"
    target.mkdir(parents=True, exist_ok=True)
    state = {k.removeprefix("features."): v for k, v in _load(folder, "trunk").items() if k.startswith("features.")}
    save_file({k: v.half().contiguous() for k, v in state.items()}, target / "trunk.safetensors")


EXPORTS = {
    "balance": export_pipeline,
    "presence": export_masker,
    "clip": export_clip,
    "trunk": export_trunk,
    "flux": export_flux,
}


def export_all(folder: Path) -> None:
    """Export every part that has been trained."""
    for name, export in EXPORTS.items():
        if (folder / f"{name}.weights").exists():
            export(folder)
            print(f"exported {name}", flush=True)
