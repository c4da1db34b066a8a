"""Tiny random weights of pipelines beside SDXL and FLUX.1, in diffusers' layout: a description for each pipeline."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from riebench.models.model import ModelEntry
from riebench.standin.newer_tiny_pipelines import NEWER
from riebench.standin.pipeline import write_networks
from riebench.standin.size import Size, Writers
from riebench.standin.tiny_networks import (
    CLIP,
    CLIP_WORDS,
    FLOW,
    GEMMA_WORDS,
    HEADS,
    QWEN_WORDS,
    T5_WIDTH,
    T5_WORDS,
    WIDTH,
    Make,
    TinyPipeline,
    autoencoder,
    autoencoder_dc,
    autoencoder_flux2,
    autoencoder_qwen,
    bert,
    clip,
    decoder,
    plain_clip,
    qwen_vl,
    t5,
    t5_of,
    umt5,
    write_bert_tokenizer,
    write_glm_tokenizer,
)
from riebench.util.errors import UserError

PIXART: dict[str, Any] = {
    **HEADS,
    "num_layers": 28,
    "sample_size": 128,
    "cross_attention_dim": 16,
    "caption_channels": T5_WIDTH,
    "norm_type": "ada_norm_single",
}
FLUX2: dict[str, Any] = {
    **HEADS,
    "joint_attention_dim": 3 * WIDTH,
    "axes_dims_rope": (2, 2, 2, 2),
    "timestep_guidance_channels": 8,
}
SD: Mapping[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (8, 16, 16, 16),
    "layers_per_block": 2,
    "attention_head_dim": 2,
    "cross_attention_dim": CLIP[0],
    "norm_num_groups": 4,
}
BETAS: Mapping[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TINY: dict[str, TinyPipeline] = {
    "StableDiffusionPipeline": TinyPipeline(
        ("UNet2DConditionModel", SD),
        (),
        {"text_encoder": plain_clip},
        {"tokenizer": CLIP_WORDS},
        ("EulerDiscreteScheduler", {**BETAS, "steps_offset": 1}),  # the published PNDM makes a pass more than steps
        lambda: autoencoder(4),
    ),
    "LatentConsistencyModelPipeline": TinyPipeline(
        ("UNet2DConditionModel", {**SD, "time_cond_proj_dim": 8}),
        (),
        {"text_encoder": plain_clip},
        {"tokenizer": CLIP_WORDS},
        ("LCMScheduler", BETAS),
        lambda: autoencoder(4),
    ),
    "StableDiffusion3Pipeline": TinyPipeline(
        (
            "SD3Transformer2DModel",
            {
                **HEADS,
                "num_layers": 24,
                "joint_attention_dim": 64,
                "caption_projection_dim": 16,
                "pooled_projection_dim": 64,
                "dual_attention_layers": tuple(range(13)),
                "qk_norm": "rms_norm",
            },
        ),
        ("num_layers",),
        {"text_encoder": clip, "text_encoder_2": clip, "text_encoder_3": lambda: t5_of(64)},
        {"tokenizer": CLIP_WORDS, "tokenizer_2": CLIP_WORDS, "tokenizer_3": T5_WORDS},
        ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    ),
    "PixArtAlphaPipeline": TinyPipeline(
        ("PixArtTransformer2DModel", PIXART | {"attention_head_dim": 12, "cross_attention_dim": 24}),
        ("num_layers",),
        {"text_encoder": t5},
        {"tokenizer": T5_WORDS},
        ("DPMSolverMultistepScheduler", {}),
        lambda: autoencoder(4),
    ),
    "PixArtSigmaPipeline": TinyPipeline(
        ("PixArtTransformer2DModel", PIXART | {"use_additional_conditions": False}),
        ("num_layers",),
        {"text_encoder": t5},
        {"tokenizer": T5_WORDS},
        ("DPMSolverMultistepScheduler", {}),
        lambda: autoencoder(4),
    ),
    "SanaPipeline": TinyPipeline(
        (
            "SanaTransformer2DModel",
            {
                **HEADS,
                "num_layers": 20,
                "num_cross_attention_heads": 2,
                "cross_attention_head_dim": 8,
                "cross_attention_dim": 16,
                "caption_channels": WIDTH,
            },
        ),
        ("num_layers",),
        {"text_encoder": decoder("Gemma2Model")},
        {"tokenizer": GEMMA_WORDS},
        (
            "DPMSolverMultistepScheduler",
            {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0},
        ),
        autoencoder_dc,
    ),
    "ZImagePipeline": TinyPipeline(
        (
            "ZImageTransformer2DModel",
            {
                "dim": 32,
                "n_layers": 30,
                "n_heads": 2,
                "n_kv_heads": 2,
                "cap_feat_dim": WIDTH,
                "axes_dims": [4, 6, 6],
                "axes_lens": [1024, 64, 64],
            },
        ),
        ("n_layers",),
        {"text_encoder": decoder("Qwen3Model")},
        {"tokenizer": QWEN_WORDS},
        ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    ),
    "QwenImagePipeline": TinyPipeline(
        (
            "QwenImageTransformer2DModel",
            {**HEADS, "num_layers": 60, "joint_attention_dim": WIDTH, "axes_dims_rope": (2, 2, 4)},
        ),
        ("num_layers",),
        {"text_encoder": qwen_vl},
        {"tokenizer": QWEN_WORDS},
        ("FlowMatchEulerDiscreteScheduler", FLOW | {"use_dynamic_shifting": True, "time_shift_type": "exponential"}),
        autoencoder_qwen,
    ),
    "Lumina2Pipeline": TinyPipeline(
        (
            "Lumina2Transformer2DModel",
            {
                "hidden_size": 32,
                "num_layers": 26,
                "num_attention_heads": 2,
                "num_kv_heads": 1,
                "axes_dim_rope": (4, 6, 6),
                "axes_lens": (512, 64, 64),
                "cap_feat_dim": WIDTH,
            },
        ),
        ("num_layers",),
        {"text_encoder": decoder("Gemma2Model")},
        {"tokenizer": GEMMA_WORDS},
        ("FlowMatchEulerDiscreteScheduler", FLOW | {"use_dynamic_shifting": True}),
    ),
    "AuraFlowPipeline": TinyPipeline(
        (
            "AuraFlowTransformer2DModel",
            {
                **HEADS,
                "num_mmdit_layers": 4,
                "num_single_dit_layers": 32,
                "joint_attention_dim": T5_WIDTH,
                "caption_projection_dim": 16,
            },
        ),
        ("num_mmdit_layers", "num_single_dit_layers"),
        {"text_encoder": umt5},
        {"tokenizer": T5_WORDS},
        vae=lambda: autoencoder(4),
    ),
    "ChromaPipeline": TinyPipeline(
        (
            "ChromaTransformer2DModel",
            {
                **HEADS,
                "num_layers": 19,
                "num_single_layers": 38,
                "joint_attention_dim": T5_WIDTH,
                "axes_dims_rope": (2, 2, 4),
                "approximator_num_channels": 8,
                "approximator_hidden_dim": 16,
                "approximator_layers": 1,
            },
        ),
        ("num_layers", "num_single_layers"),
        {"text_encoder": t5},
        {"tokenizer": T5_WORDS},
    ),
    "CogView4Pipeline": TinyPipeline(
        (
            "CogView4Transformer2DModel",
            {
                **HEADS,
                "num_layers": 30,
                "text_embed_dim": WIDTH,
                "time_embed_dim": 8,
                "condition_dim": 4,
                "rope_axes_dim": (64, 64),
            },
        ),
        ("num_layers",),
        {"text_encoder": decoder("GlmModel")},
        {"tokenizer": (write_glm_tokenizer, "PreTrainedTokenizerFast")},
        (
            "FlowMatchEulerDiscreteScheduler",
            {**FLOW, "base_shift": 0.25, "max_shift": 0.75, "use_dynamic_shifting": True, "time_shift_type": "linear"},
        ),
    ),
    "Flux2Pipeline": TinyPipeline(
        ("Flux2Transformer2DModel", FLUX2 | {"num_layers": 8, "num_single_layers": 48, "guidance_embeds": True}),
        ("num_layers", "num_single_layers"),
        {"text_encoder": decoder("Qwen3ForCausalLM", layers=30)},
        {"tokenizer": QWEN_WORDS},
        ("FlowMatchEulerDiscreteScheduler", FLOW | {"use_dynamic_shifting": True}),
        autoencoder_flux2,
    ),
    "Flux2KleinPipeline": TinyPipeline(
        ("Flux2Transformer2DModel", FLUX2 | {"num_layers": 5, "num_single_layers": 20, "guidance_embeds": False}),
        ("num_layers", "num_single_layers"),
        {"text_encoder": decoder("Qwen3ForCausalLM", layers=27)},
        {"tokenizer": QWEN_WORDS},
        ("FlowMatchEulerDiscreteScheduler", FLOW | {"use_dynamic_shifting": True}),
        autoencoder_flux2,
    ),
    "OvisImagePipeline": TinyPipeline(
        (
            "OvisImageTransformer2DModel",
            {
                **HEADS,
                "num_layers": 6,
                "num_single_layers": 27,
                "joint_attention_dim": WIDTH,
                "axes_dims_rope": (2, 2, 4),
            },
        ),
        ("num_layers", "num_single_layers"),
        {"text_encoder": decoder("Qwen3Model")},
        {"tokenizer": QWEN_WORDS},
        ("FlowMatchEulerDiscreteScheduler", FLOW | {"use_dynamic_shifting": True}),
    ),
    "HunyuanDiTPipeline": TinyPipeline(
        (
            "HunyuanDiT2DModel",
            {
                **HEADS,
                "num_layers": 40,
                "hidden_size": 16,
                "in_channels": 4,
                "patch_size": 2,
                "sample_size": 128,
                "cross_attention_dim": WIDTH,
                "cross_attention_dim_t5": T5_WIDTH,
                "pooled_projection_dim": 16,
            },
        ),
        ("num_layers",),
        {"text_encoder": bert, "text_encoder_2": t5},
        {"tokenizer": (write_bert_tokenizer, "BertTokenizer"), "tokenizer_2": T5_WORDS},
        ("DDPMScheduler", {"prediction_type": "v_prediction", "beta_end": 0.018, "beta_schedule": "scaled_linear"}),
        lambda: autoencoder(4),
    ),
    **NEWER,
}
"""Class of a pipeline to its tiny form."""
OPTIONAL = ("safety_checker", "feature_extractor", "image_encoder", "pe", "pe_tokenizer")
"""Components that a tiny pipeline lacks."""


def tiny_parts(root: Path, model: str, size: Size, seed: int) -> Writers:
    """The writers of a tiny pipeline.

    Raises:
        UserError: if the size is another than tiny.
    """
    from riebench.models import entry_named

    if size != "tiny":
        raise UserError(f"{model} has no random weights at its true shapes; give --size tiny")
    return {"model": lambda: write_tiny_model(root / model, entry_named(model), seed)}


def write_tiny_model(folder: Path, entry: ModelEntry, seed: int, blocks: int | None = None) -> None:
    """Write the tiny pipeline of an entry, with the settings that it expects; see :func:`write_tiny_pipeline`."""
    distilled = getattr(entry, "distilled", None)
    settings = {} if distilled is None else {"is_distilled": distilled}
    write_tiny_pipeline(folder, entry.pipeline_class, seed, blocks, getattr(entry, "expected", {}), settings)


def write_tiny_pipeline(
    folder: Path,
    kind: str,
    seed: int,
    blocks: int | None = None,
    changes: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write a pipeline with random weights; all of them, so that no gate is closed.

    Args:
        folder: of the pipeline.
        kind: class of the pipeline.
        seed: of the weights.
        blocks: number of blocks in each list; as published unless given.
        changes: of the denoiser's configuration.
        settings: of the pipeline itself, beside its own.
    """
    depth = {} if blocks is None else dict.fromkeys(TINY[kind].depth, blocks)
    classes: dict[str, Any] = {}
    for name, guider in TINY[kind].guiders.items():
        made = noted(name, guider, classes)
        made.save_pretrained(folder / name)
    for part, make in tiny_networks(kind, {**depth, **(changes or {})}).items():
        write_networks(folder, {part: partial(noted, part, make, classes)}, seed)
    write_tiny_frame(folder, kind, classes, settings)


def tiny_networks(kind: str, changes: Mapping[str, Any]) -> dict[str, Make]:
    """The networks of a tiny pipeline, as functions that make them; with changes of the denoiser's configuration."""
    import diffusers

    tiny = TINY[kind]
    name, config = tiny.denoiser[0], {**tiny.denoiser[1], **changes}
    if "llama_layers" in config:  # of each block
        config["llama_layers"] = config["llama_layers"][: config["num_layers"] + config["num_single_layers"]]
    return {
        "unet" if name.startswith("UNet") else "transformer": lambda: opened(getattr(diffusers, name)(**config)),
        "vae": tiny.vae,
        **tiny.networks,
    }


def write_tiny_frame(
    folder: Path, kind: str, classes: Mapping[str, Any], settings: Mapping[str, Any] | None = None
) -> None:
    """Write all of a tiny pipeline but its networks.

    Args:
        folder: of the pipeline.
        kind: class of the pipeline.
        classes: network to its library and class.
        settings: of the pipeline itself, beside its own.
    """
    import diffusers

    tiny, components = TINY[kind], dict(classes)
    scheduler: Any = getattr(diffusers, tiny.scheduler[0])(**tiny.scheduler[1])
    scheduler.save_pretrained(folder / "scheduler")
    components["scheduler"] = ["diffusers", tiny.scheduler[0]]
    for part, (write, tokenizer) in tiny.tokenizers.items():
        write(folder / part)
        components[part] = ["kolors" if tokenizer.startswith("ChatGLM") else "transformers", tokenizer]
    parameters = inspect.signature(getattr(diffusers, kind).__init__).parameters
    optional = {part: [None, None] for part in parameters if part in OPTIONAL}
    own = {"_class_name": kind, "_diffusers_version": diffusers.__version__, **tiny.settings, **(settings or {})}
    index = {**own, **optional, **components}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def noted(part: str, make: Make, classes: dict[str, Any]) -> Any:
    """A network, whose library and class are noted for the index."""
    network = make()
    classes[part] = class_of(network)
    return network


def class_of(network: Any) -> list[str]:
    """The library and the class of a network, as the index names them: of diffusers' pipelines their own folder."""
    parts = type(network).__module__.split(".")
    library = parts[2] if parts[:2] == ["diffusers", "pipelines"] else parts[0]
    return [library, type(network).__name__]


def opened(network: torch.nn.Module) -> torch.nn.Module:
    """A network in which no parameter is zero: otherwise gates are closed, and blocks hand on what they are given."""
    for module in network.modules():
        if type(module).__name__ == "SwiGLUExperts":  # diffusers leaves them as the memory was
            for parameter in module.parameters():
                torch.nn.init.normal_(parameter, std=0.2)
    for parameter in network.parameters():
        if not bool(parameter.any()) or bool((parameter == parameter.flatten()[0]).all()):
            parameter.data += 0.2 * torch.randn_like(parameter)
    return network
