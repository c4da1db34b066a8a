"""FLUX.1-schnell and FLUX.1-dev. Importing it needs no torch.

A double block has separate streams of text and picture; a single block joins them inside, text first.
"""

from __future__ import annotations

from typing import Any

from riebench.models.diffusers_entry import PUBLISHED_VAE, Text
from riebench.models.model import TEXT
from riebench.models.tokens import Blocks, Inner, TokenEntry, parts_of
from riebench.weights import HubFiles, Part
from riebench.weights.parts import INSTRUMENTS

PUBLISHED_TRANSFORMER: dict[str, Any] = {
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "guidance_embeds": False,
}
"""The part of the published transformer's configuration that sites depend on, for use without weights."""
PACKED = 2  # cells of the latents on each side of a token
FLUX: dict[str, Any] = {
    "pipeline_class": "FluxPipeline",
    "size": 512,  # RIEBench's
    "default_sites": ("double.18",),  # where the paper has its SAE
    "blocks": (
        Blocks(
            "double",
            "transformer_blocks",
            "num_layers",
            parts_of("ff.net.0", Inner("attn", element=0), mlp="ff"),
            output=1,
            text="encoder_hidden_states",
        ),
        Blocks(
            "single",
            "single_transformer_blocks",
            "num_single_layers",
            parts_of(Inner("act_mlp", place="last")),
            output=1,
            text="encoder_hidden_states",
        ),
    ),
    "patch": PACKED,
    "packs": True,
    "true_guidance": True,
    "denoiser_parameters": 11.89e9,
    "pipeline_parameters": 16.86e9,  # transformer 11.89, T5 4.76, CLIP 0.12, VAE 0.08
    "row_bytes": 0.4e9,  # at 512 px, as measured on the CPU with published widths
}
"""The fields that models of FLUX.1's layout share."""
SCHNELL_TOKENS = 256
_NEEDS = (
    *("model_index.json", "transformer", "vae", "text_encoder", "text_encoder_2"),
    *("tokenizer", "tokenizer_2", "scheduler"),
)
_FILES = (
    "model_index.json",
    "scheduler/*.json",
    *(f"tokenizer{n}/*" for n in ("", "_2")),
    *(f"{part}/config.json" for part in ("text_encoder", "text_encoder_2", "transformer", "vae")),
    *(f"{part}/model*.safetensors*" for part in ("text_encoder", "text_encoder_2")),
    *(f"{part}/diffusion_pytorch_model*.safetensors*" for part in ("transformer", "vae")),
)


def flux_text(tokens: int) -> Text:
    """The text of FLUX.1: T5's states, and CLIP's pooled vector of the first tokens that CLIP takes.

    Args:
        tokens: number of T5's tokens, with padding.
    """
    encoders = {TEXT: "text_encoder_2", "pooled text encoder": "text_encoder"}
    return Text(
        ("prompt_embeds", "pooled_prompt_embeds"),
        {"prompt_2": None, "max_sequence_length": tokens},
        encoders,
        {"tokenizer_2": tokens},
    )


def flux_parts(name: str, repository: str) -> tuple[Part, ...]:
    """The parts of a FLUX.1 on the hub, with the instruments."""
    source = HubFiles(repository, "main", _FILES, gated=True)
    size = int(33.7e9)  # 16.86 G weights of two bytes
    return Part("model", name, _NEEDS, source, size, ("diffusers", "transformers")), *INSTRUMENTS


SCHNELL = TokenEntry(
    "flux-schnell",
    **FLUX,
    steps=4,
    published={"transformer": PUBLISHED_TRANSFORMER, "vae": PUBLISHED_VAE},
    text=flux_text(SCHNELL_TOKENS),
    arguments={"guidance_scale": 0.0},
    expected={"guidance_embeds": False},
    standin="flux",
    parts=flux_parts("flux-schnell", "black-forest-labs/FLUX.1-schnell"),
)
DEV = TokenEntry(
    "flux-dev",
    **FLUX,
    steps=28,
    guidance=3.5,
    guidance_kind="embedded",
    published={"transformer": PUBLISHED_TRANSFORMER | {"guidance_embeds": True}, "vae": PUBLISHED_VAE},
    text=flux_text(512),
    expected={"guidance_embeds": True},
    standin="flux",
    parts=flux_parts("flux-dev", "black-forest-labs/FLUX.1-dev"),
)
