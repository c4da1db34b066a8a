"""Tiny random weights of pipelines beside SDXL and FLUX.1, in diffusers' layout: a description for each pipeline."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from riebench.standin.flux_pipeline import FLUX_SHAPES, t5_config, vae_config, write_t5_tokenizer
from riebench.standin.pipeline import clip_text_config, write_networks, write_tokenizer
from riebench.standin.size import Size, Writers
from riebench.util.errors import UserError

HEADS: dict[str, Any] = {"attention_head_dim": 8, "num_attention_heads": 2}
CLIP, T5_WIDTH, WIDTH = (32, 2, 2), 24, 32
FLOW = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] if message['content'] is string else message['content'][0]['text'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
Make = Callable[[], Any]


@dataclass(frozen=True)
class TinyPipeline:
    """A pipeline of tiny networks with random weights.

    Attributes:
        denoiser: its class in diffusers, and its configuration with the published numbers of blocks.
        depth: the settings of the denoiser that are numbers of blocks.
        networks: other component to the function that makes it.
        tokenizers: component to the function that writes it into a folder, and its class in transformers.
        scheduler: its class in diffusers, and its configuration.
        vae: makes the autoencoder.
    """

    denoiser: tuple[str, Mapping[str, Any]]
    depth: tuple[str, ...]
    networks: Mapping[str, Make]
    tokenizers: Mapping[str, tuple[Callable[[Path], None], str]]
    scheduler: tuple[str, Mapping[str, Any]] = ("FlowMatchEulerDiscreteScheduler", FLOW)
    vae: Make = field(default=lambda: autoencoder(16))


def autoencoder(channels: int) -> Any:
    """A small ``AutoencoderKL`` of 8 pixels to the side of a cell."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(**vae_config(FLUX_SHAPES["tiny"]) | {"latent_channels": channels})


def autoencoder_dc() -> Any:
    """A small ``AutoencoderDC`` of 32 pixels to the side of a cell."""
    from diffusers import AutoencoderDC

    widths, layers = (8, 8, 8, 8, 16, 32), (1,) * 6
    scales = ((), (), (), (), (5,), (5,))
    return AutoencoderDC(
        latent_channels=32,
        attention_head_dim=8,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=layers,
        decoder_layers_per_block=layers,
        encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales,
    )


def autoencoder_qwen() -> Any:
    """A small ``AutoencoderKLQwenImage``."""
    from diffusers import AutoencoderKLQwenImage

    return AutoencoderKLQwenImage(base_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1)


def autoencoder_flux2() -> Any:
    """A small ``AutoencoderKLFlux2``."""
    from diffusers import AutoencoderKLFlux2

    return AutoencoderKLFlux2(block_out_channels=(8, 16, 16, 16), norm_num_groups=8, latent_channels=32)


def t5() -> Any:
    """T5's encoder."""
    from transformers import T5EncoderModel

    return T5EncoderModel(t5_config(FLUX_SHAPES["tiny"]))


def umt5() -> Any:
    """UMT5's encoder."""
    from transformers import UMT5Config, UMT5EncoderModel

    return UMT5EncoderModel(UMT5Config(**t5_config(FLUX_SHAPES["tiny"]).to_dict()))


def clip() -> Any:
    """CLIP's text encoder with a projection."""
    from transformers import CLIPTextModelWithProjection

    return CLIPTextModelWithProjection(clip_text_config(CLIP, "quick_gelu"))


def plain_clip() -> Any:
    """CLIP's text encoder."""
    from transformers import CLIPTextModel

    return CLIPTextModel(clip_text_config(CLIP, "quick_gelu"))


def decoder(name: str, layers: int = 2, **more: Any) -> Make:
    """A small language model of a class of transformers, as ``Gemma2Model``."""

    def make() -> Any:
        import transformers

        network = getattr(transformers, name)
        config = network.config_class(
            vocab_size=SPECIAL_FROM + len(SPECIAL),
            hidden_size=WIDTH,
            intermediate_size=WIDTH,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            pad_token_id=SPECIAL_FROM,
            bos_token_id=SPECIAL_FROM,
            eos_token_id=SPECIAL_FROM,
            **more,
        )
        return network(config)

    return make


def qwen_vl() -> Any:
    """A small Qwen 2.5 VL, of which only the language model is used."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        "vocab_size": SPECIAL_FROM + len(SPECIAL),
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6},
    }
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))


def bert() -> Any:
    """A small BERT."""
    from transformers import BertConfig, BertModel

    sizes: dict[str, Any] = {
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    return BertModel(BertConfig(vocab_size=200, **sizes))


SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<bos>", "<eos>", "<unk>", "<pad>", "<mask>")
SPECIAL_FROM = 256


def write_characters(folder: Path, name: str) -> None:
    """Write a tokenizer of single bytes, of a class of transformers, with a chat template."""
    import transformers
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate((*letters, *SPECIAL))}
    if name == "GemmaTokenizer":
        vocabulary["▁"] = vocabulary.pop("ġ")
    tokenizer = getattr(transformers, name)(vocab=vocabulary, merges=[], model_max_length=4096)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)


def write_glm_tokenizer(folder: Path) -> None:
    """Write a tokenizer in GLM's layout, of single bytes, which begins each text with a token of its own."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: number for number, token in enumerate((*sorted(ByteLevel.alphabet()), *SPECIAL))}
    tokenizer = Tokenizer(BPE(vocabulary, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])])
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", model_max_length=4096)
    whole.save_pretrained(folder)


def write_bert_tokenizer(folder: Path) -> None:
    """Write a tokenizer in BERT's layout, of letters."""
    from transformers import BertTokenizer

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    BertTokenizer(vocab={token: number for number, token in enumerate(tokens)}).save_pretrained(folder)


CLIP_WORDS = (lambda folder: write_tokenizer(folder, "<|endoftext|>"), "CLIPTokenizer")
T5_WORDS = (write_t5_tokenizer, "T5TokenizerFast")
GEMMA_WORDS = (lambda folder: write_characters(folder, "GemmaTokenizer"), "GemmaTokenizer")
QWEN_WORDS = (lambda folder: write_characters(folder, "Qwen2Tokenizer"), "Qwen2Tokenizer")
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
}
"""Class of a pipeline to its tiny form."""


def t5_of(width: int) -> Any:
    """T5's encoder of another width."""
    from transformers import T5EncoderModel

    config = t5_config(FLUX_SHAPES["tiny"])
    config.d_model = width
    return T5EncoderModel(config)


def tiny_parts(root: Path, model: str, size: Size, seed: int) -> Writers:
    """The writers of a tiny pipeline.

    Raises:
        UserError: if the size is another than tiny.
    """
    from riebench.models import entry_named

    if size != "tiny":
        raise UserError(f"{model} has no random weights at its true shapes; give --size tiny")
    kind = entry_named(model).pipeline_class
    return {"model": lambda: write_tiny_pipeline(root / model, kind, seed)}


def write_tiny_pipeline(folder: Path, kind: str, seed: int, blocks: int | None = None) -> None:
    """Write a pipeline with random weights; all of them, so that no gate is closed.

    Args:
        folder: of the pipeline.
        kind: class of the pipeline.
        seed: of the weights.
        blocks: number of blocks in each list; as published unless given.
    """
    depth = {} if blocks is None else dict.fromkeys(TINY[kind].depth, blocks)
    classes: dict[str, Any] = {}
    for part, make in tiny_networks(kind, depth).items():
        write_networks(folder, {part: partial(noted, part, make, classes)}, seed)
    write_tiny_frame(folder, kind, classes)


def tiny_networks(kind: str, changes: Mapping[str, Any]) -> dict[str, Make]:
    """The networks of a tiny pipeline, as functions that make them; with changes of the denoiser's configuration."""
    import diffusers

    tiny = TINY[kind]
    name, config = tiny.denoiser
    return {
        "unet" if name.startswith("UNet") else "transformer": lambda: opened(
            getattr(diffusers, name)(**{**config, **changes})
        ),
        "vae": tiny.vae,
        **tiny.networks,
    }


def write_tiny_frame(folder: Path, kind: str, classes: Mapping[str, Any]) -> None:
    """Write all of a tiny pipeline but its networks.

    Args:
        folder: of the pipeline.
        kind: class of the pipeline.
        classes: network to its library and class.
    """
    import diffusers

    tiny, components = TINY[kind], dict(classes)
    scheduler: Any = getattr(diffusers, tiny.scheduler[0])(**tiny.scheduler[1])
    scheduler.save_pretrained(folder / "scheduler")
    components["scheduler"] = ["diffusers", tiny.scheduler[0]]
    for part, (write, tokenizer) in tiny.tokenizers.items():
        write(folder / part)
        components[part] = ["transformers", tokenizer]
    parameters = inspect.signature(getattr(diffusers, kind).__init__).parameters
    optional = {
        part: [None, None] for part in parameters if part in ("safety_checker", "feature_extractor", "image_encoder")
    }
    index = {"_class_name": kind, "_diffusers_version": diffusers.__version__, **optional, **components}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def noted(part: str, make: Make, classes: dict[str, Any]) -> Any:
    """A network, whose library and class are noted for the index."""
    network = make()
    classes[part] = class_of(network)
    return network


def class_of(network: Any) -> list[str]:
    """The library and the class of a network, as the index names them."""
    return [type(network).__module__.partition(".")[0], type(network).__name__]


def opened(network: torch.nn.Module) -> torch.nn.Module:
    """A network in which no parameter is zero: otherwise gates are closed, and blocks hand on what they are given."""
    for parameter in network.parameters():
        if not bool(parameter.any()) or bool((parameter == parameter.flatten()[0]).all()):
            parameter.data += 0.2 * torch.randn_like(parameter)
    return network
