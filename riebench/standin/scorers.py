"""Random weights of CLIP and of LPIPS's trunk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
import torchvision
from open_clip.model import CLIP
from safetensors.torch import save_file

from riebench.standin.size import Size
from riebench.weights.parts import ALEXNET

TINY_CLIP: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 224, "layers": 2, "width": 64, "head_width": 32, "patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def write_clip(folder: Path, size: Size, seed: int) -> None:
    """Write ViT-L-14 in open_clip's layout: ``open_clip_config.json`` and ``open_clip_model.safetensors``."""
    config = TINY_CLIP if size == "tiny" else open_clip.get_model_config("ViT-L-14")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIP(**config, quick_gelu=True)
    folder.mkdir(parents=True, exist_ok=True)
    preprocessing = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    described = {"model_cfg": config, "preprocess_cfg": preprocessing}
    (folder / "open_clip_config.json").write_text(json.dumps(described, indent=2) + "\n")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")


def write_trunk(folder: Path, size: Size, seed: int) -> None:
    """Write AlexNet in torchvision's layout. LPIPS fixes the convolutions; ``tiny`` has a smaller classifier."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = torchvision.models.alexnet(weights=None)
        state = model.state_dict()
    if size == "tiny":
        state = {k: v[:8, :8] if v.ndim == 2 else v[:8] if "classifier" in k else v for k, v in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({k: v.clone() for k, v in state.items()}, folder / ALEXNET)
