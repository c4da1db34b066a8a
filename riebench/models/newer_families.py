"""Transformers of diffusers' text-to-image pipelines of 2025 and later: an entry for each. Importing it needs no torch.

As in ``token_families.py``, ``scripts/check_families`` compares each entry with the pipeline's own call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import ceil
from typing import Any

from riebench.models.diffusers_entry import PUBLISHED_VAE, Text, hub
from riebench.models.model import TEXT
from riebench.models.token_families import (
    DOUBLE,
    FIRST,
    IGNORED_CALLBACK,
    LAST,
    SANA,
    SINGLE,
    T5,
    UNGUIDED,
    WITH_MASK,
)
from riebench.models.tokens import Blocks, Inner, TokenEntry, heads_width, parts_of
from riebench.util.errors import UserError

QWEN_VL = 8.29e9  # weights of Qwen 2.5 VL 7B
QWEN3_VL = 4.44e9  # of Qwen 3 VL 4B
BLOCKS = ("block", "transformer_blocks", "num_layers")
BEFORE_TEXT: dict[str, Any] = {"place": "first"}
"""Of modules whose picture tokens come before the text's."""
WITH_PROMPT_MASK = ("prompt_embeds", "prompt_embeds_mask")


def hunyuan_guiders(pipeline: Any, size: int, guidance: float, guided: bool) -> Mapping[str, Any]:
    """Guiders of the run's scale, in place of the pipeline's own, which also keep what earlier runs left in them."""
    own = {name: getattr(pipeline, name) for name in ("guider", "ocr_guider")}
    if guided and own["guider"] is None:
        raise UserError("the pipeline has no guider; give --set model.guidance=1, or load it with guider=")
    kept = {name: guider for name, guider in own.items() if guider is not None}
    for name, guider in kept.items() if guided else ():
        span = tuple(guider.config.get(end, whole) for end, whole in (("start", 0.0), ("stop", 1.0)))
        if span != (0.0, 1.0):
            raise UserError(
                f"the pipeline's {name} guides from {span[0]} to {span[1]} of the steps, riebench needs guidance in "
                "all; give the pipeline one with start=0 and stop=1"
            )
    return {name: guider.new(guidance_scale=guidance, enabled=guided) for name, guider in kept.items()}


HUNYUAN_IMAGE = TokenEntry(
    **hub("hunyuanimage", "hunyuanvideo-community/HunyuanImage-2.1-Diffusers", 17.5e9, QWEN_VL + 0.22e9 + 0.4e9),
    pipeline_class="HunyuanImagePipeline",
    size=2048,
    default_sites=("single.20",),
    steps=50,
    guidance=3.5,
    guidance_kind="calls",
    guidance_argument="distilled_guidance_scale",  # which only the distilled network takes
    during_calls=hunyuan_guiders,
    expected={"guidance_embeds": False},
    patch=1,
    factor=lambda vae: int(vae["spatial_compression_ratio"]),
    blocks=(
        replace(DOUBLE, picture=0, output=0, text=1),
        Blocks(*SINGLE, parts_of(Inner("act_mlp", **BEFORE_TEXT)), picture=0, output=0, text=1),
    ),
    masks_shift=True,  # a text in quotation marks chooses the guider of all rows
    text=Text(
        (*WITH_PROMPT_MASK, "prompt_embeds_2", "prompt_embeds_mask_2"),
        {},
        {TEXT: "text_encoder", "glyph encoder": "text_encoder_2"},
        {"tokenizer": 1000 + 34},  # the template's first 34 tokens are dropped
        wrapped=lambda pipeline, prompt: str(pipeline.prompt_template_encode.format(prompt)),
    ),
    published={
        "transformer": {
            "in_channels": 64,
            "num_layers": 20,
            "num_single_layers": 40,
            "attention_head_dim": 128,
            "num_attention_heads": 28,
            "text_embed_2_dim": 1472,
            "guidance_embeds": False,
        },
        "vae": {"spatial_compression_ratio": 32},
    },
)
HUNYUAN_IMAGE_DISTILLED = replace(
    HUNYUAN_IMAGE,
    **hub(
        "hunyuanimage-distilled",
        "hunyuanvideo-community/HunyuanImage-2.1-Distilled-Diffusers",
        HUNYUAN_IMAGE.denoiser_parameters,
        HUNYUAN_IMAGE.pipeline_parameters - HUNYUAN_IMAGE.denoiser_parameters,
    ),
    steps=8,
    guidance=3.25,
    guidance_kind="embedded",
    expected={"guidance_embeds": True},
    published={
        **HUNYUAN_IMAGE.published,
        "transformer": {
            **HUNYUAN_IMAGE.published["transformer"],
            "guidance_embeds": True,
            "use_meanflow": True,
        },
    },
)
SANA_SPRINT = replace(
    SANA,
    **hub("sana-sprint", "Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers", 1.6e9, 2.6e9 + 0.31e9),
    pipeline_class="SanaSprintPipeline",
    steps=2,
    guidance_kind="embedded",
    arguments={"use_resolution_binning": False},
    arguments_of=lambda steps: {} if steps == 2 else {"intermediate_timesteps": None},  # which is for two steps alone
    more_times=1,
    no_start="its scheduler puts no noise on a finished picture",
    text=replace(SANA.text, arguments={"max_sequence_length": 300}, negative=()),
    published={
        **SANA.published,
        "transformer": {
            **SANA.published["transformer"],
            "guidance_embeds": True,
            "qk_norm": "rms_norm_across_heads",
        },
    },
)
QWEN_IMAGE_21 = TokenEntry(
    **hub("qwen-image-2.1", "Qwen/Qwen-Image-2.1", 7.1e9, 8.77e9 + 0.3e9),
    pipeline_class="QwenImage21Pipeline",
    default_sites=("block.16",),
    steps=40,
    guidance=1.0,
    guidance_kind="calls",
    guidance_argument="true_cfg_scale",
    packs=True,
    patch=1,
    factor=lambda vae: 16,  # fixed in the pipeline
    unit=32,
    # After the first step blocks get the picture alone: the text's keys and values are kept.
    blocks=(
        Blocks(
            *BLOCKS,
            parts_of(Inner("img_mlp.out", is_input=True, **LAST), Inner("attn", **LAST), mlp=Inner("img_mlp", **LAST)),
            **LAST,
            own_text=False,
        ),
    ),
    replays=False,
    neurons=lambda transformer: int(transformer["mlp_ratio"] * heads_width(transformer)),
    text=Text(
        WITH_PROMPT_MASK,
        {},
        tokenizers={"processor": None},
        wrapped=lambda pipeline, prompt: str(pipeline.prompt_template_t2i.format(prompt)),
    ),
    published={
        "transformer": {
            "in_channels": 64,
            "num_layers": 32,
            "attention_head_dim": 128,
            "num_attention_heads": 32,
            "mlp_ratio": 3,
        },
        "vae": {},
    },
)
HIDREAM = TokenEntry(
    **hub("hidream-i1", "HiDream-ai/HiDream-I1-Full", 17.1e9, T5 + 8.03e9 + 0.81e9 + 0.08e9),
    pipeline_class="HiDreamImagePipeline",
    default_sites=("single.16",),
    steps=50,
    guidance=5.0,
    guidance_kind="rows",
    # Otherwise it scales every size to the area of 1024 x 1024 pixels.
    during_calls=lambda pipeline, size, *_: {"default_sample_size": size // pipeline.vae_scale_factor},
    # Each block gets text tokens of its own beside those that it hands on. Neurons are those of the shared expert.
    blocks=(
        Blocks(
            "double",
            "double_stream_blocks",
            "num_layers",
            parts_of(
                Inner("block.ff_i.shared_experts.w2", is_input=True), Inner("block.attn1", **FIRST), mlp="block.ff_i"
            ),
            output=0,
        ),
        Blocks(
            "single",
            "single_stream_blocks",
            "num_single_layers",
            parts_of(
                Inner("block.ff_i.shared_experts.w2", is_input=True, **BEFORE_TEXT),
                Inner("block.attn1", **BEFORE_TEXT),
                mlp=Inner("block.ff_i", **BEFORE_TEXT),
            ),
            **BEFORE_TEXT,
        ),
    ),
    neurons=lambda transformer: 256 * ceil(int(4 * heads_width(transformer) / 3) / 256),
    text=Text(
        ("prompt_embeds_t5", "", "prompt_embeds_llama3", "", "pooled_prompt_embeds"),
        {**UNGUIDED, "max_sequence_length": 128},
        {
            TEXT: "text_encoder_4",
            "T5": "text_encoder_3",
            "CLIP text encoder": "text_encoder",
            "second text encoder": "text_encoder_2",
        },
        {"tokenizer_3": 128, "tokenizer_4": 128},  # as in FLUX.1, CLIP reads the first tokens
        row_dimensions={"prompt_embeds_llama3": 1},
    ),
    published={
        "transformer": {
            "patch_size": 2,
            "in_channels": 16,
            "num_layers": 16,
            "num_single_layers": 32,
            "attention_head_dim": 128,
            "num_attention_heads": 20,
            "caption_channels": [4096, 4096],
            "axes_dims_rope": [64, 32, 32],
            "llama_layers": [*range(32), *[31] * 16],
        },
        "vae": PUBLISHED_VAE,
    },
)
KANDINSKY5 = TokenEntry(
    **hub("kandinsky5-lite", "kandinskylab/Kandinsky-5.0-T2I-Lite-sft-Diffusers", 6.4e9, QWEN_VL + 0.12e9 + 0.08e9),
    pipeline_class="Kandinsky5T2IPipeline",
    default_sites=("block.25",),
    steps=50,
    guidance=3.5,
    guidance_kind="calls",
    during_calls=lambda pipeline, size, *_: {"resolutions": [(size, size)]},  # otherwise one of seven near 1024
    channels="in_visual_dim",
    channels_last=True,
    factor=lambda vae: 8,  # fixed in the pipeline
    width=lambda transformer: int(transformer["model_dim"]),
    neurons=lambda transformer: int(transformer["ff_dim"]),
    blocks=(
        Blocks(
            "block",
            "visual_transformer_blocks",
            "num_visual_blocks",
            parts_of("feed_forward.activation", "self_attention", "cross_attention", "feed_forward"),
            picture=0,
        ),
    ),
    text=Text(
        ("prompt_embeds_qwen", "prompt_embeds_clip", "prompt_cu_seqlens"),
        {"max_sequence_length": 512},
        {TEXT: "text_encoder", "CLIP text encoder": "text_encoder_2"},
        {"tokenizer": 512 + 40},  # the template's first 40 tokens are dropped
        wrapped=lambda pipeline, prompt: str(pipeline.prompt_template.format(prompt)),
    ),
    published={
        "transformer": {
            "in_visual_dim": 16,
            "out_visual_dim": 16,
            "model_dim": 2560,
            "ff_dim": 10240,
            "time_dim": 1024,
            "num_visual_blocks": 50,
            "axes_dims": [32, 48, 48],
        },
        "vae": PUBLISHED_VAE,
    },
)


def longcat_pieces(pipeline: Any, prompt: str) -> list[str]:
    """The pieces that a prompt is tokenized in: each character of what is in quotation marks, and the rest whole."""
    from diffusers.pipelines.longcat_image.pipeline_longcat_image import split_quotation

    return [piece for part, quoted in split_quotation(prompt) for piece in (part if quoted else [part])]


LONGCAT = TokenEntry(
    **hub("longcat-image", "meituan-longcat/LongCat-Image", 6.3e9, QWEN_VL + 0.08e9),
    pipeline_class="LongCatImagePipeline",
    default_sites=("single.10",),
    steps=50,
    guidance=4.5,
    guidance_kind="calls",
    packs=True,
    blocks=(DOUBLE, Blocks(*SINGLE, parts_of(Inner("act_mlp", **LAST)), output=1, text=DOUBLE.text)),
    arguments={"enable_prompt_rewrite": False},
    no_start="its pipeline takes no callback",
    text=Text(tokenizers={"tokenizer": 512}, wrapped=longcat_pieces, within="_encode_prompt"),
    published={
        "transformer": {
            "num_layers": 10,
            "num_single_layers": 20,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
        },
        "vae": PUBLISHED_VAE,
    },
)
PRX = TokenEntry(
    **hub("prx", "Photoroom/prx-512-t2i-sft", 1.17e9, 2.6e9 + 0.08e9),
    pipeline_class="PRXPipeline",
    size=512,
    default_sites=("block.8",),
    steps=28,
    guidance=4.0,
    guidance_kind="rows",
    guided_alone=True,  # two guided prompts fail: a timestep of two rows meets four (diffusers 0.42)
    least_guidance=1.0,
    width=lambda transformer: int(transformer["hidden_size"]),
    neurons=lambda transformer: int(transformer["hidden_size"] * transformer["mlp_ratio"]),
    blocks=(
        Blocks("block", "blocks", "depth", parts_of(Inner("down_proj", is_input=True), "attention", mlp="down_proj")),
    ),
    arguments={"use_resolution_binning": False},
    no_start=IGNORED_CALLBACK,
    text=Text(WITH_MASK, UNGUIDED),
    published={
        "transformer": {"in_channels": 16, "depth": 16, "hidden_size": 1792, "mlp_ratio": 3.5, "num_heads": 28},
        "vae": PUBLISHED_VAE,
    },
)
FIBO = TokenEntry(
    **hub("fibo", "briaai/FIBO", 8.3e9, 3.08e9 + 0.7e9, gated=True),
    pipeline_class="BriaFiboPipeline",
    default_sites=("single.15",),
    steps=30,
    guidance=5.0,
    guidance_kind="rows",
    packs=True,
    pack="_pack_latents_no_patch",
    patch=1,
    factor=lambda vae: 16,  # fixed in the pipeline
    # Half of the text's channels are new in each block.
    blocks=(
        replace(DOUBLE, own_text=False),
        Blocks(*SINGLE, parts_of(Inner("act_mlp", **LAST)), **LAST, own_text=False),
    ),
    text=Text(tokenizers={"tokenizer": 3000}, within="get_prompt_embeds"),
    published={
        "transformer": {
            "in_channels": 48,
            "num_layers": 8,
            "num_single_layers": 38,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
        },
        "vae": {},
    },
)
FIBO2 = TokenEntry(
    **hub("fibo2", "briaai/Fibo-2.0-dev", 8.13e9, QWEN3_VL + 0.08e9, gated=True),
    pipeline_class="BriaFibo2Pipeline",
    default_sites=("block.22",),
    steps=30,
    guidance=5.0,
    guidance_kind="calls",
    width=lambda transformer: int(transformer["dim"]),
    neurons=lambda transformer: int(transformer["dim"] * 8 // 3 // 64 * 64),
    # The text's tokens come before the picture's in a batch of texts of one length, as batches are made here.
    blocks=tuple(
        Blocks(
            name,
            path,
            count,
            parts_of(
                Inner("feed_forward.w2", is_input=True, **place),
                Inner("attention", **place),
                mlp=Inner("feed_forward", **place),
            ),
            picture=0,
            own_text=False,
            **place,
        )
        for name, path, count, place in (
            ("refiner", "noise_refiner", "n_refiner_layers", {}),
            ("block", "layers", "n_layers", LAST),
        )
    ),
    text=Text(
        tokenizers={"processor": 4096},
        wrapped=lambda pipeline, prompt: str(pipeline.prompt_template_encode.format(prompt)),
        within="encode_prompt",
    ),
    published={
        "transformer": {"in_channels": 32, "dim": 3584, "n_layers": 44, "n_refiner_layers": 2},
        "vae": PUBLISHED_VAE,
    },
)
KREA2 = TokenEntry(
    **hub("krea2", "krea/Krea-2-Raw", 12.9e9, QWEN3_VL + 0.13e9, gated=True),
    pipeline_class="Krea2Pipeline",
    default_sites=("block.14",),
    steps=28,
    guidance=4.5,
    guidance_kind="calls",
    guided_above=0.0,
    distilled=False,
    packs=True,
    factor=lambda vae: 2 ** len(vae["temperal_downsample"]),
    neurons=lambda transformer: int(transformer["intermediate_size"]),
    blocks=(
        Blocks(
            *BLOCKS,
            parts_of(Inner("ff.down", is_input=True, **LAST), Inner("attn", **LAST), mlp=Inner("ff", **LAST)),
            picture=0,
            **LAST,
        ),
    ),
    text=Text(
        WITH_PROMPT_MASK,
        {"max_sequence_length": 512},
        tokenizers={"tokenizer": 512 + 34 - 5},  # of the template, the first 34 are dropped and the last 5 added
        wrapped=lambda pipeline, prompt: f"{pipeline.prompt_template_encode_prefix}{prompt}",
    ),
    published={
        "transformer": {
            "in_channels": 64,
            "num_layers": 28,
            "attention_head_dim": 128,
            "num_attention_heads": 48,
            "intermediate_size": 16384,
        },
        "vae": {"temperal_downsample": [False, True, True]},
    },
)
KREA2_TURBO = replace(
    KREA2,
    **hub(
        "krea2-turbo",
        "krea/Krea-2-Turbo",
        KREA2.denoiser_parameters,
        KREA2.pipeline_parameters - KREA2.denoiser_parameters,
        gated=True,
    ),
    steps=8,
    guidance=0.0,
    distilled=True,
)
ERNIE_IMAGE = TokenEntry(
    **hub("ernie-image", "baidu/ERNIE-Image", 8.0e9, 3.8e9 + 0.08e9),
    pipeline_class="ErnieImagePipeline",
    default_sites=("block.18",),
    steps=50,
    guidance=4.0,
    guidance_kind="rows",
    latent_cells=2,
    counts_latents=True,
    width=lambda transformer: int(transformer["hidden_size"]),
    neurons=lambda transformer: int(transformer["ffn_hidden_size"]),
    blocks=(
        Blocks(
            "block",
            "layers",
            "num_layers",
            parts_of(
                Inner("mlp.linear_fc2", is_input=True, tokens_first=True, **BEFORE_TEXT),
                Inner("self_attention", **BEFORE_TEXT),
                mlp=Inner("mlp", tokens_first=True, **BEFORE_TEXT),
            ),
            picture=0,
            tokens_first=True,
            **BEFORE_TEXT,
        ),
    ),
    replays=False,
    text=Text(("prompt_embeds",)),
    published={
        "transformer": {
            "in_channels": 128,
            "num_layers": 36,
            "hidden_size": 4096,
            "num_attention_heads": 32,
            "ffn_hidden_size": 12288,
            "text_in_dim": 3072,
        },
        "vae": PUBLISHED_VAE,
    },
)
NUCLEUS = TokenEntry(
    **hub("nucleus-image", "NucleusAI/Nucleus-Image", 17e9, 8.77e9 + 0.13e9),
    pipeline_class="NucleusMoEImagePipeline",
    default_sites=("block.16",),
    steps=50,
    guidance=4.0,
    guidance_kind="calls",
    packs=True,
    factor=lambda vae: 2 ** len(vae["temperal_downsample"]),
    blocks=(Blocks(*BLOCKS, parts_of(attention="attn", mlp="img_mlp")),),  # most have experts in place of neurons
    text=Text(
        WITH_PROMPT_MASK,
        {"max_sequence_length": 1024},
        tokenizers={"processor": 1024},
        wrapped=lambda pipeline, prompt: str(pipeline._format_prompt(prompt)),
    ),
    published={
        "transformer": {
            "in_channels": 64,
            "out_channels": 16,
            "num_layers": 32,
            "attention_head_dim": 128,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
            "joint_attention_dim": 4096,
            "dense_moe_strategy": "leave_first_three_blocks_dense",
            "num_experts": 64,
        },
        "vae": {"temperal_downsample": [False, True, True]},
    },
)
