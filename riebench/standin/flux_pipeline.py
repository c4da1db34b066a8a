"""Random weights of FLUX.1-schnell's pipeline, in diffusers' layout."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from riebench.standin.pipeline import WHOLE, Networks, clip_text_config, write_networks, write_tokenizer
from riebench.standin.saes import write_sae
from riebench.standin.size import Size, Writers

T5_WORDS, T5_VOCABULARY = 31_000, 32_128
T5_LENGTH = 512


@dataclass(frozen=True)
class FluxShape:
    """Widths and depths of a FLUX; the names of layers and files do not depend on them."""

    double: int
    single: int
    head: int
    heads: int
    axes: tuple[int, int, int]
    vae: tuple[int, int, int, int]
    groups: int
    clip: tuple[int, int, int]  # width, layers, heads
    t5: tuple[int, int, int, int, int]  # width, of a head, of the feed-forward, layers, heads
    shard: str
    dtype: torch.dtype
    sae: tuple[int, int]  # features, k


FLUX_SHAPES: dict[Size, FluxShape] = {
    # Three blocks of each kind and two layers of T5: the whole model would fill 67 GB in float32.
    "true": FluxShape(
        double=3,
        single=3,
        head=128,
        heads=24,
        axes=(16, 56, 56),
        vae=(128, 256, 512, 512),
        groups=32,
        clip=(768, 12, 12),
        t5=(4096, 64, 10240, 2, 64),
        shard="2GB",
        dtype=torch.bfloat16,
        sae=(12288, 20),
    ),
    "tiny": FluxShape(
        double=19,
        single=38,
        head=8,
        heads=2,
        axes=(2, 2, 4),
        vae=(8, 16, 16, 16),
        groups=8,
        clip=(32, 2, 2),
        t5=(24, 8, 64, 2, 2),
        shard="500KB",
        dtype=torch.float32,
        sae=(64, 8),
    ),
}
SAE_BLOCKS = ("double.1", "double.18")
"""The blocks of the random SAEs in the folder ``flux-saes``; a model with fewer blocks has fewer SAEs."""
LARGE = ("text_encoder_2", "transformer")
FLUX_INDEX = {
    "_class_name": "FluxPipeline",
    "_diffusers_version": "0.30.0.dev0",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def transformer_config(shape: FluxShape, guided: bool = False) -> dict[str, Any]:
    """The configuration of a FLUX.1 transformer (``transformer/config.json``); FLUX.1-dev's is guided."""
    width = shape.clip[0]
    return {
        "patch_size": 1,
        "in_channels": 64,
        "num_layers": shape.double,
        "num_single_layers": shape.single,
        "attention_head_dim": shape.head,
        "num_attention_heads": shape.heads,
        "joint_attention_dim": shape.t5[0],
        "pooled_projection_dim": width,
        "guidance_embeds": guided,
        "axes_dims_rope": shape.axes,
    }


def vae_config(shape: FluxShape) -> dict[str, Any]:
    """The configuration of FLUX.1's autoencoder (``vae/config.json``)."""
    return {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": shape.vae,
        "layers_per_block": 2,
        "latent_channels": 16,
        "norm_num_groups": shape.groups,
        "sample_size": 1024,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }


def t5_config(shape: FluxShape) -> Any:
    """The configuration of T5 v1.1; only the encoder is used."""
    from transformers import T5Config

    width, head, feed_forward, layers, heads = shape.t5
    return T5Config(
        vocab_size=T5_VOCABULARY,
        d_model=width,
        d_kv=head,
        d_ff=feed_forward,
        num_layers=layers,
        num_heads=heads,
        feed_forward_proj="gated-gelu",
    )


def flux_parts(root: Path, model: str, size: Size, seed: int) -> Writers:
    """The writers of a FLUX: its pipeline, and random SAEs for ``sae.folder``."""
    shape = FLUX_SHAPES[size]
    few = f"{shape.double} of 19 double and {shape.single} of 38 single blocks, {shape.t5[3]} of T5's 24 layers"
    return {
        "model" if size == "tiny" else f"model ({few})": lambda: write_flux(
            root / model, shape, seed, model == "flux-dev"
        ),
        "sae": lambda: _write_saes(root / "flux-saes", shape, seed),
    }


def _write_saes(folder: Path, shape: FluxShape, seed: int) -> None:
    features, k = shape.sae
    config = {"n_dirs_local": features, "d_model": shape.head * shape.heads, "k": k}
    generator = torch.Generator().manual_seed(seed)
    for block in SAE_BLOCKS:
        if int(block.rpartition(".")[2]) < shape.double:
            write_sae(folder / block, config, generator)


def flux_networks(shape: FluxShape, guided: bool = False) -> Networks:
    """The networks of a FLUX, with random weights."""
    from diffusers import AutoencoderKL, FluxTransformer2DModel
    from transformers import CLIPTextModel, T5EncoderModel

    return {
        "vae": lambda: AutoencoderKL(**vae_config(shape)),
        "text_encoder": lambda: CLIPTextModel(clip_text_config(shape.clip, "quick_gelu")),
        "text_encoder_2": lambda: T5EncoderModel(t5_config(shape)),
        "transformer": lambda: FluxTransformer2DModel(**transformer_config(shape, guided)),
    }


def write_flux(folder: Path, shape: FluxShape, seed: int, guided: bool = False) -> None:
    """Write a ``FluxPipeline`` with random weights; large networks are split into several files, as published."""
    for name, make in flux_networks(shape, guided).items():
        write_networks(folder, {name: make}, seed, shape.dtype, shape.shard if name in LARGE else WHOLE)
    write_flux_frame(folder)


def write_flux_frame(folder: Path) -> None:
    """Write the scheduler, the tokenizers and the index of a pipeline."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler: Any = FlowMatchEulerDiscreteScheduler(
        shift=1.0, base_shift=0.5, max_shift=1.15, base_image_seq_len=256, max_image_seq_len=4096
    )
    scheduler.save_pretrained(folder / "scheduler")
    write_tokenizer(folder / "tokenizer", "<|endoftext|>")
    write_t5_tokenizer(folder / "tokenizer_2")
    (folder / "model_index.json").write_text(json.dumps(FLUX_INDEX, indent=2) + "\n")


def write_t5_tokenizer(folder: Path) -> None:
    """Write a tokenizer in T5's layout; its pieces are letters and whole words of CLIP's vocabulary."""
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import T5Tokenizer

    ending = "</w>"
    pieces = [token.removesuffix(ending) for token in SimpleTokenizer().encoder if token.endswith(ending)]
    words = [piece for piece in pieces if len(piece) > 1 and piece.isascii() and piece.isalpha()][:T5_WORDS]
    letters = [chr(code) for code in range(33, 127)]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    scored = [(letter, -12.0) for letter in letters] + [(f"▁{word}", -8.0) for word in words]
    T5Tokenizer([*special, *scored], extra_ids=0, model_max_length=T5_LENGTH).save_pretrained(folder)
