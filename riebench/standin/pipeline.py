"""Random weights of SDXL's pipeline, in diffusers' layout."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch

from riebench.standin.saes import write_saes
from riebench.standin.size import Size, Writers

WHOLE = "20GB"
"""Largest size of a file, large enough for a whole network."""
Networks: TypeAlias = Mapping[str, Callable[[], Any]]
"""Component of a pipeline to the function that makes it with random weights."""


@dataclass(frozen=True)
class PipelineShape:
    """Widths and depths of an SDXL; the names of layers and files do not depend on them."""

    unet: tuple[int, int, int]
    heads: tuple[int, int, int]
    layers: tuple[int, int, int]
    time: int
    vae: tuple[int, int, int, int]
    groups: int
    text: tuple[int, int, int]  # width, layers, heads
    text_2: tuple[int, int, int]


SHAPES: dict[Size, PipelineShape] = {
    "true": PipelineShape(
        unet=(320, 640, 1280),
        heads=(5, 10, 20),
        layers=(1, 2, 10),
        time=256,
        vae=(128, 256, 512, 512),
        groups=32,
        text=(768, 12, 12),
        text_2=(1280, 32, 20),
    ),
    "tiny": PipelineShape(
        unet=(32, 64, 64),
        heads=(1, 2, 2),
        layers=(1, 1, 2),
        time=8,
        vae=(8, 16, 16, 16),
        groups=8,
        text=(32, 2, 2),
        text_2=(32, 2, 2),
    ),
}
SIDES = {"sdxl-turbo": 64, "sdxl-base": 128}
"""Model to the side of its latents, in cells, at its own picture size (512 and 1024 px)."""


INDEX = {
    "_class_name": "StableDiffusionXLPipeline",
    "_diffusers_version": "0.24.0",
    "force_zeros_for_empty_prompt": True,
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def unet_config(shape: PipelineShape, side: int) -> dict[str, Any]:
    """The configuration of SDXL's U-Net (stabilityai/sdxl-turbo, ``unet/config.json``)."""
    return {
        "sample_size": side,
        "block_out_channels": shape.unet,
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": list(shape.layers),
        "attention_head_dim": list(shape.heads),
        "cross_attention_dim": shape.text[0] + shape.text_2[0],
        "norm_num_groups": min(32, shape.groups * 4),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": shape.time,
        "projection_class_embeddings_input_dim": shape.text_2[0] + 6 * shape.time,
        "use_linear_projection": True,
    }


def clip_text_config(size: tuple[int, int, int], activation: str) -> Any:
    """The configuration of a published CLIP text encoder.

    Args:
        size: width, layers, heads.
        activation: of the layers.
    """
    from transformers import CLIPTextConfig

    width, layers, heads = size
    return CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=77,
        hidden_act=activation,
        bos_token_id=0,
        eos_token_id=2,  # as published; transformers then ends a text at its highest id
        pad_token_id=1,
    )


def write_tokenizer(folder: Path, padding: str) -> None:
    """Write CLIP's tokenizer in the published layout; the vocabulary is the one in the open_clip package."""
    from open_clip.tokenizer import SimpleTokenizer

    simple = SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(token, token): number for token, number in simple.encoder.items()}
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    special["pad_token"] = padding
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, **special}
    folder.mkdir(parents=True, exist_ok=True)
    merges = "\n".join(" ".join(pair) for pair in simple.bpe_ranks)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")


def _scheduler(model: str) -> Any:
    from diffusers import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler

    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    if model == "sdxl-turbo":
        return EulerAncestralDiscreteScheduler(**betas, timestep_spacing="trailing")
    return EulerDiscreteScheduler(**betas, timestep_spacing="leading")


def write_networks(
    folder: Path,
    networks: Networks,
    seed: int,
    dtype: torch.dtype = torch.float32,
    shard: str = WHOLE,
) -> None:
    """Write networks of random weights as diffusers and transformers do, each into the folder of its name.

    Args:
        folder: of the pipeline.
        networks: to write.
        seed: of the weights of each network.
        dtype: of the weights.
        shard: largest size of a file.
    """
    import transformers.utils.logging

    transformers.utils.logging.disable_progress_bar()
    for name, make in networks.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = make()
        for parameter in network.parameters():
            parameter.data = parameter.data.to(dtype)
        network.save_pretrained(folder / name, safe_serialization=True, max_shard_size=shard)
        del network  # one at a time: at true size they would fill the memory together


def sdxl_parts(root: Path, model: str, size: Size, seed: int) -> Writers:
    """The writers of an SDXL: its pipeline and its SAEs."""
    return {
        "model": lambda: write_pipeline(root / model, model, size, seed),
        "sae": lambda: write_saes(root / "sdxl-turbo-saes", size, seed),
    }


def sdxl_networks(model: str, size: Size) -> Networks:
    """The networks of an SDXL, with random weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    shape = SHAPES[size]
    return {
        "vae": lambda: AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=shape.vae,
            layers_per_block=2,
            latent_channels=4,
            norm_num_groups=shape.groups,
            sample_size=8 * SIDES[model],
            scaling_factor=0.13025,
            force_upcast=True,
        ),
        "text_encoder": lambda: CLIPTextModel(clip_text_config(shape.text, "quick_gelu")),
        "text_encoder_2": lambda: CLIPTextModelWithProjection(clip_text_config(shape.text_2, "gelu")),
        "unet": lambda: UNet2DConditionModel(**unet_config(shape, SIDES[model])),
    }


def write_pipeline(folder: Path, model: str, size: Size, seed: int) -> None:
    """Write a ``StableDiffusionXLPipeline`` with random weights, in float32."""
    write_networks(folder, sdxl_networks(model, size), seed)
    write_sdxl_frame(folder, model)


def write_sdxl_frame(folder: Path, model: str) -> None:
    """Write the scheduler, the tokenizers and the index of a pipeline."""
    _scheduler(model).save_pretrained(folder / "scheduler")
    write_tokenizer(folder / "tokenizer", "<|endoftext|>")
    write_tokenizer(folder / "tokenizer_2", "!")
    index = INDEX | {"scheduler": ["diffusers", type(_scheduler(model)).__name__]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
