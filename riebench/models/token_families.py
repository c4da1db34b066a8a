"""The transformers of diffusers' text-to-image pipelines beside FLUX.1: an entry for each. Importing it needs no torch.

What a forward hook meets on these pipelines was measured with diffusers 0.42; ``scripts/check_families`` compares each
entry with the pipeline's own call on tiny random weights.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import Any

from riebench.models.diffusers_entry import PUBLISHED_VAE, Text, hub
from riebench.models.model import TEXT
from riebench.models.tokens import Blocks, Config, Inner, TokenEntry, four_widths, heads_width, parts_of

UNGUIDED = {"do_classifier_free_guidance": False}
UNCLEANED = {**UNGUIDED, "clean_caption": False}
"""PixArt's call cleans captions by default, but only where Beautiful Soup is installed."""
WITH_MASK = ("prompt_embeds", "prompt_attention_mask")
IGNORED_CALLBACK = "its pipeline ignores callback_on_step_end"
T5 = 4.76e9  # weights of T5-XXL's encoder
FIRST: dict[str, Any] = {"element": 0}
"""Of modules that put out the picture and then the text."""
LAST: dict[str, Any] = {"place": "last"}
"""Of modules whose picture tokens come after the text's."""
JOINT = parts_of("ff.net.0", Inner("attn", **FIRST), mlp="ff")
"""The parts of a block whose picture and text have a feed-forward each and attend to both."""
CROSSED = parts_of("ff.net.0", "attn1", "attn2", "ff")
"""The parts of a block whose picture attends to itself and then to the text."""
TEXT_ARGUMENT = "encoder_hidden_states"
DOUBLE = Blocks("double", "transformer_blocks", "num_layers", JOINT, output=1, text=TEXT_ARGUMENT)
SINGLE = ("single", "single_transformer_blocks", "num_single_layers")
"""Attention and feed-forward of a single block share their projection, so that neither's part is put out alone."""


def qwen_message(pipeline: Any, prompt: str, **how: Any) -> str:
    """A prompt as a user's message in the tokenizer's chat template."""
    message = [{"role": "user", "content": prompt}]
    text: str = pipeline.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True, **how)
    return text


SD3 = TokenEntry(
    **hub("sd3.5-medium", "stabilityai/stable-diffusion-3.5-medium", 2.47e9, T5 + 0.9e9, gated=True),
    pipeline_class="StableDiffusion3Pipeline",
    default_sites=("block.12",),
    steps=28,
    guidance=7.0,
    guidance_kind="rows",
    blocks=(Blocks("block", "transformer_blocks", "num_layers", JOINT, output=1, text=TEXT_ARGUMENT, last_text=False),),
    published={
        "transformer": {
            "sample_size": 128,
            "num_layers": 24,
            "attention_head_dim": 64,
            "num_attention_heads": 24,
            "caption_projection_dim": 1536,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 2048,
            "pos_embed_max_size": 384,
            "dual_attention_layers": tuple(range(13)),
            "qk_norm": "rms_norm",
        },
        "vae": PUBLISHED_VAE,
    },
    text=Text(
        ("prompt_embeds", "", "pooled_prompt_embeds"),
        {**UNGUIDED, "prompt_2": None, "prompt_3": None, "max_sequence_length": 256},
        {TEXT: "text_encoder_3", "CLIP text encoder": "text_encoder", "second text encoder": "text_encoder_2"},
        {"tokenizer_3": 256},
    ),
)

PIXART: dict[str, Any] = {
    "steps": 20,
    "guidance": 4.5,
    "guidance_kind": "rows",
    "default_sites": ("block.14",),
    "blocks": (Blocks("block", "transformer_blocks", "num_layers", CROSSED, picture=0),),
    "arguments": {"use_resolution_binning": False, "negative_prompt": None},
    "no_start": IGNORED_CALLBACK,
    "published": {
        "transformer": {
            "sample_size": 128,
            "num_layers": 28,
            "attention_head_dim": 72,
            "num_attention_heads": 16,
            "cross_attention_dim": 1152,
            "caption_channels": 4096,
            "norm_type": "ada_norm_single",
        },
        "vae": PUBLISHED_VAE,
    },
}
"""The fields that PixArt-alpha and PixArt-Sigma share."""
PIXART_ALPHA = TokenEntry(
    **hub("pixart-alpha", "PixArt-alpha/PixArt-XL-2-1024-MS", 0.61e9, T5),
    **PIXART,
    pipeline_class="PixArtAlphaPipeline",
    least_steps=2,  # of one step the pipeline takes the scheduler's second value, which few have
    text=Text(WITH_MASK, {**UNCLEANED, "max_sequence_length": 120}, tokenizers={"tokenizer": 120}),
)
PIXART_SIGMA = TokenEntry(
    **hub("pixart-sigma", "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS", 0.61e9, T5),
    **PIXART,
    pipeline_class="PixArtSigmaPipeline",
    text=Text(WITH_MASK, {**UNCLEANED, "max_sequence_length": 300}, tokenizers={"tokenizer": 300}),
)


def autoencoder_dc_factor(vae: Config) -> int:
    """Pixels on each side of a latent cell of an ``AutoencoderDC``."""
    return 2 ** (len(vae["encoder_block_out_channels"]) - 1)


SANA = TokenEntry(
    **hub("sana", "Efficient-Large-Model/Sana_1600M_1024px_diffusers", 1.6e9, 2.6e9 + 0.31e9),
    pipeline_class="SanaPipeline",
    default_sites=("block.10",),
    steps=20,
    guidance=4.5,
    guidance_kind="rows",
    patch=1,
    factor=autoencoder_dc_factor,
    neurons=lambda transformer: int(transformer["mlp_ratio"] * heads_width(transformer)),
    blocks=(
        Blocks(
            "block",
            "transformer_blocks",
            "num_layers",
            parts_of(Inner("ff.conv_point", is_input=True), "attn1", "attn2", "ff"),
            picture=0,
        ),
    ),
    arguments={"use_resolution_binning": False, "negative_prompt": None},
    text=Text(
        WITH_MASK,
        {**UNGUIDED, "max_sequence_length": 300},
        tokenizers={"tokenizer": 298},  # two of its tokens are of the instruction before the prompt
        as_called=("complex_human_instruction",),
        negative=("", "", *WITH_MASK),
    ),
    published={
        "transformer": {
            "sample_size": 32,
            "num_layers": 20,
            "attention_head_dim": 32,
            "num_attention_heads": 70,
            "mlp_ratio": 2.5,
        },
        "vae": {"encoder_block_out_channels": [128, 256, 512, 512, 1024, 1024]},
    },
)
Z_IMAGE = TokenEntry(
    **hub("z-image-turbo", "Tongyi-MAI/Z-Image-Turbo", 6.15e9, 4.02e9 + 0.08e9),
    pipeline_class="ZImagePipeline",
    default_sites=("block.15",),
    steps=9,
    guidance=0.0,
    guidance_kind="rows, conditional first",
    guided_above=0.0,
    width=lambda transformer: int(transformer["dim"]),
    neurons=lambda transformer: int(transformer["dim"] / 3 * 8),
    # Tokens are padded to multiples of 32, in both lists.
    blocks=tuple(
        Blocks(
            name,
            path,
            count,
            parts_of(
                Inner("feed_forward.w2", place="first", is_input=True),
                Inner("attention", place="first"),
                mlp=Inner("feed_forward", place="first"),
            ),
            picture=0,
            place="first",
        )
        for name, path, count in (
            ("refiner", "noise_refiner", "n_refiner_layers"),
            ("block", "layers", "n_layers"),
        )
    ),
    text=Text(
        ("prompt_embeds",),
        {**UNGUIDED, "max_sequence_length": 512},
        tokenizers={"tokenizer": 512},
        wrapped=lambda pipeline, prompt: qwen_message(pipeline, prompt, enable_thinking=True),
    ),
    published={"transformer": {"dim": 3840, "n_layers": 30, "n_refiner_layers": 2}, "vae": PUBLISHED_VAE},
)
QWEN_IMAGE = TokenEntry(
    **hub("qwen-image", "Qwen/Qwen-Image", 20.4e9, 8.29e9 + 0.13e9),
    pipeline_class="QwenImagePipeline",
    default_sites=("block.30",),
    steps=50,
    guidance=4.0,
    guidance_kind="calls",
    guidance_argument="true_cfg_scale",
    packs=True,
    factor=lambda vae: 2 ** len(vae["temperal_downsample"]),
    blocks=(
        Blocks(
            "block",
            "transformer_blocks",
            "num_layers",
            parts_of("img_mlp.net.0", Inner("attn", **FIRST), mlp="img_mlp"),
            output=1,
            text=TEXT_ARGUMENT,
        ),
    ),
    text=Text(
        ("prompt_embeds", "prompt_embeds_mask"),
        {"max_sequence_length": 512},
        tokenizers={"tokenizer": 512 + 34},  # the template's first 34 tokens are dropped
        wrapped=lambda pipeline, prompt: str(pipeline.prompt_template_encode.format(prompt)),
    ),
    published={
        "transformer": {"num_layers": 60, "attention_head_dim": 128, "num_attention_heads": 24},
        "vae": {"temperal_downsample": [False, True, True]},
    },
)


def lumina_neurons(transformer: Config) -> int:
    """A block's neurons: four for each channel, rounded up."""
    wide = int((transformer.get("ffn_dim_multiplier") or 1) * 4 * transformer["hidden_size"])
    return int(transformer["multiple_of"] * ceil(wide / transformer["multiple_of"]))


LUMINA2 = TokenEntry(
    **hub("lumina2", "Alpha-VLLM/Lumina-Image-2.0", 2.6e9, 2.6e9 + 0.08e9),
    pipeline_class="Lumina2Pipeline",
    default_sites=("block.13",),
    steps=30,
    guidance=4.0,
    guidance_kind="calls",
    width=lambda transformer: int(transformer["hidden_size"]),
    neurons=lumina_neurons,
    blocks=tuple(
        Blocks(
            name,
            path,
            count,
            parts_of(
                Inner("feed_forward.linear_2", is_input=True, **place),
                Inner("attn", **place),
                mlp=Inner("feed_forward", **place),
            ),
            picture=0,
            **place,
        )
        for name, path, count, place in (
            ("refiner", "noise_refiner", "num_refiner_layers", {}),
            ("block", "layers", "num_layers", LAST),
        )
    ),
    masks_shift=True,
    text=Text(
        WITH_MASK,
        {**UNGUIDED, "max_sequence_length": 256},
        tokenizers={"tokenizer": 256},
        wrapped=lambda pipeline, prompt: f"{pipeline.system_prompt} <Prompt Start> {prompt}",
        negative=("", "", *WITH_MASK),  # without the system's prompt
    ),
    published={
        "transformer": {
            "sample_size": 128,
            "hidden_size": 2304,
            "num_layers": 26,
            "num_refiner_layers": 2,
            "multiple_of": 256,
        },
        "vae": PUBLISHED_VAE,
    },
)
AURA_FLOW = TokenEntry(
    **hub("auraflow", "fal/AuraFlow-v0.3", 6.8e9, 1.2e9 + 0.08e9),
    pipeline_class="AuraFlowPipeline",
    default_sites=("single.16",),
    steps=50,
    guidance=3.5,
    guidance_kind="rows",
    neurons=lambda transformer: 256 * ceil(int(2 * four_widths(transformer) / 3) / 256),
    blocks=(
        Blocks(
            "joint",
            "joint_transformer_blocks",
            "num_mmdit_layers",
            parts_of(Inner("ff.out_projection", is_input=True), Inner("attn", **FIRST), mlp="ff"),
            output=1,
            text=TEXT_ARGUMENT,
        ),
        Blocks(
            "single",
            "single_transformer_blocks",
            "num_single_dit_layers",
            parts_of(Inner("ff.out_projection", is_input=True, **LAST), Inner("attn", **LAST), mlp=Inner("ff", **LAST)),
            **LAST,
        ),
    ),
    text=Text(WITH_MASK, {**UNGUIDED, "max_sequence_length": 256}, tokenizers={"tokenizer": 256}),
    published={
        "transformer": {
            "sample_size": 64,
            "num_mmdit_layers": 4,
            "num_single_dit_layers": 32,
            "attention_head_dim": 256,
            "num_attention_heads": 12,
        },
        "vae": PUBLISHED_VAE,
    },
)
DOUBLE_AND_SINGLE: dict[str, Any] = {"num_layers": 19, "num_single_layers": 38}
CHROMA = TokenEntry(
    **hub("chroma", "lodestones/Chroma1-HD", 8.9e9, T5 + 0.08e9),
    pipeline_class="ChromaPipeline",
    default_sites=("double.18",),
    steps=35,
    guidance=5.0,
    guidance_kind="calls",
    packs=True,
    blocks=(
        DOUBLE,
        Blocks(*SINGLE, parts_of(Inner("act_mlp", **LAST)), **LAST),
    ),
    text=Text(
        ("prompt_embeds", "", "prompt_attention_mask"),
        {**UNGUIDED, "max_sequence_length": 512},
        tokenizers={"tokenizer": 512},
    ),
    published={
        "transformer": {**DOUBLE_AND_SINGLE, "attention_head_dim": 128, "num_attention_heads": 24},
        "vae": PUBLISHED_VAE,
    },
)
COGVIEW4 = TokenEntry(
    **hub("cogview4", "zai-org/CogView4-6B", 6.4e9, 9.4e9 + 0.08e9),
    pipeline_class="CogView4Pipeline",
    default_sites=("block.15",),
    steps=50,
    guidance=5.0,
    guidance_kind="calls",
    # One feed-forward serves the picture and then the text.
    blocks=(
        Blocks(
            "block",
            "transformer_blocks",
            "num_layers",
            parts_of(Inner("ff.net.0", calls=2), Inner("attn1", **FIRST), mlp=Inner("ff", calls=2)),
            picture=0,
            output=0,
            text=1,
        ),
    ),
    text=Text(("prompt_embeds",), {**UNGUIDED, "max_sequence_length": 1024}, tokenizers={"tokenizer": 1024}),
    published={
        "transformer": {
            "sample_size": 128,
            "num_layers": 28,
            "attention_head_dim": 128,
            "num_attention_heads": 32,
            "text_embed_dim": 4096,
        },
        "vae": PUBLISHED_VAE,
    },
)


def flux2_message(pipeline: Any, prompt: str) -> str:
    """A prompt in the chat template of FLUX.2, after its system's message."""
    from diffusers.pipelines.flux2.pipeline_flux2 import format_input

    messages = format_input([prompt], system_message=pipeline.system_message)[0]
    text: str = pipeline.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
    return text


FLUX2: dict[str, Any] = {
    "default_sites": ("single.10",),
    "steps": 50,
    "guidance": 4.0,
    "latent_cells": 2,
    "neurons": lambda transformer: int(transformer["mlp_ratio"] * heads_width(transformer)),
    "blocks": (
        replace(DOUBLE, parts=parts_of("ff.act_fn", Inner("attn", **FIRST), mlp="ff")),
        Blocks(*SINGLE, parts_of(Inner("attn.mlp_act_fn", **LAST)), **LAST),
    ),
}
"""The fields that FLUX.2 and its Klein share."""
FLUX2_TEXT = Text(
    ("prompt_embeds",),
    {"max_sequence_length": 512},
    tokenizers={"tokenizer": 512},
    as_called=("text_encoder_out_layers",),
    wrapped=flux2_message,
)
FLUX2_DEV = TokenEntry(
    **hub("flux2-dev", "black-forest-labs/FLUX.2-dev", 32e9, 24e9 + 0.08e9, gated=True),
    **FLUX2,
    pipeline_class="Flux2Pipeline",
    guidance_kind="embedded",
    text=FLUX2_TEXT,
    published={
        "transformer": {
            "num_layers": 8,
            "num_single_layers": 48,
            "attention_head_dim": 128,
            "num_attention_heads": 48,
            "mlp_ratio": 3.0,
        },
        "vae": PUBLISHED_VAE,
    },
)
FLUX2_KLEIN = TokenEntry(
    **hub("flux2-klein", "black-forest-labs/FLUX.2-klein-base-4B", 3.9e9, 4.02e9 + 0.08e9),
    **FLUX2,
    pipeline_class="Flux2KleinPipeline",
    guidance_kind="calls",
    distilled=False,
    text=replace(FLUX2_TEXT, wrapped=lambda pipeline, prompt: qwen_message(pipeline, prompt, enable_thinking=False)),
    published={
        "transformer": {
            "num_layers": 5,
            "num_single_layers": 20,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "mlp_ratio": 3.0,
            "joint_attention_dim": 7680,
            "guidance_embeds": False,
        },
        "vae": PUBLISHED_VAE,
    },
)
FLUX2_KLEIN_DISTILLED = replace(
    FLUX2_KLEIN,
    **hub(
        "flux2-klein-distilled",
        "black-forest-labs/FLUX.2-klein-4B",
        FLUX2_KLEIN.denoiser_parameters,
        FLUX2_KLEIN.pipeline_parameters - FLUX2_KLEIN.denoiser_parameters,
    ),
    steps=4,
    guidance=0.0,
    guidance_kind="none",
    distilled=True,
)
_HUNYUAN_SECOND = Text(
    ("prompt_embeds_2", "", "prompt_attention_mask_2"),
    {**UNGUIDED, "text_encoder_index": 1, "max_sequence_length": 256},
    tokenizers={"tokenizer_2": 256},
)
HUNYUAN_DIT = TokenEntry(
    **hub("hunyuandit", "Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers", 1.5e9, 0.35e9 + 1.67e9 + 0.08e9),
    pipeline_class="HunyuanDiTPipeline",
    default_sites=("block.14",),
    steps=50,
    guidance=5.0,
    guidance_kind="rows",
    neurons=lambda transformer: int(transformer["mlp_ratio"] * heads_width(transformer)),
    # Later blocks compute a linear of their input and an earlier block's output: output minus input is no update.
    blocks=(Blocks("block", "blocks", lambda t: t["num_layers"] // 2 + 1, CROSSED, picture=0),),
    arguments={"use_resolution_binning": False},
    text=Text(
        ("prompt_embeds", "", "prompt_attention_mask"),
        {**UNGUIDED, "text_encoder_index": 0, "max_sequence_length": 77},
        {TEXT: "text_encoder_2", "CLIP text encoder": "text_encoder"},
        {},  # as CLIP in FLUX.1, this encoder reads the first tokens; the second one reads all
        more=(_HUNYUAN_SECOND,),
    ),
    published={
        "transformer": {
            "sample_size": 128,
            "num_layers": 40,
            "attention_head_dim": 88,
            "num_attention_heads": 16,
            "mlp_ratio": 4.3637,
            "hidden_size": 1408,
            "cross_attention_dim": 1024,
            "cross_attention_dim_t5": 2048,
            "pooled_projection_dim": 1024,
            "in_channels": 4,
            "patch_size": 2,
            "use_style_cond_and_image_meta_size": False,
        },
        "vae": PUBLISHED_VAE,
    },
)
OVIS = TokenEntry(
    **hub("ovis-image", "AIDC-AI/Ovis-Image-7B", 7.4e9, 1.7e9 + 0.08e9),
    pipeline_class="OvisImagePipeline",
    default_sites=("single.13",),
    steps=50,
    guidance=5.0,
    guidance_kind="calls",
    packs=True,
    blocks=(
        DOUBLE,
        # The module that looks like the neurons is the activation of their gate alone.
        Blocks(*SINGLE, parts_of(Inner("proj_out", is_input=True, **LAST)), output=1, text=TEXT_ARGUMENT),
    ),
    arguments={"negative_prompt": None},
    text=Text(
        ("prompt_embeds",),
        {**UNGUIDED, "max_sequence_length": 256},
        tokenizers={"tokenizer": 256 + 28},  # the template's first 28 tokens are dropped
        wrapped=lambda pipeline, prompt: str(pipeline._get_messages(prompt)[0]),
    ),
    published={
        "transformer": {
            "num_layers": 6,
            "num_single_layers": 27,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
        },
        "vae": PUBLISHED_VAE,
    },
)
