"""Stage: a small FLUX on mini's latents, by plain regression on (prompt, canvas) -> picture.

At sigma the sampler holds ``sigma * canvas + (1 - sigma) * picture so far``; the velocity is canvas minus picture. Text
comes in through the blocks alone. A step of 16 samples takes 0.8 s of one core (20 samples a second); at width 96 it is
0.5 s, at width 192 1.6 s, and a second thread gains nothing. So 2,800 steps of two processes, 90,000 samples, take
forty minutes on two free cores; the error at the first step was .31 after 300, .09 after 2,000 and .053 at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn
from transformers import CLIPTokenizer, T5Config, T5EncoderModel

from riebench.mini.layout import LATENT_CHANNELS, LATENT_SIZE
from riebench.models.flux import PACKED, SCHNELL

from . import tokens
from .data import Scenes
from .loop import Job, run
from .unet import STEPS, TEXT_WIDTH, build_text, draw_batch, draw_off, encode_scenes, object_weight

DOUBLE, SINGLE = 3, 4
HEADS, HEAD = 4, 32
AXES = (8, 12, 12)  # of a head's width: nothing, row, column
GRID = LATENT_SIZE // PACKED
BLOCKS = (*(f"double.{i}" for i in range(DOUBLE)), *(f"single.{i}" for i in range(SINGLE)))
EVENLY_OFF = dict.fromkeys(BLOCKS, 0.02)  # share of training steps in which a block adds nothing


def build_transformer(double: int = DOUBLE, single: int = SINGLE, heads: int = HEADS) -> FluxTransformer2DModel:
    """FLUX's topology at a small size; blocks begin by handing on what they are given."""
    network = FluxTransformer2DModel(
        in_channels=LATENT_CHANNELS * PACKED**2,
        num_layers=double,
        num_single_layers=single,
        attention_head_dim=HEAD,
        num_attention_heads=heads,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=False,
        axes_dims_rope=AXES,
    )
    for part in modulations(network):
        nn.init.zeros_(part.weight)
        nn.init.zeros_(part.bias)
    return network


def modulations(network: FluxTransformer2DModel) -> list[nn.Linear]:
    """The layers that turn the timestep into shifts, scales and gates, and the last one: all begin at zero."""
    return [part for name, part in network.named_modules() if name.endswith(".linear")] + [network.proj_out]


def close_the_pooled_way(network: FluxTransformer2DModel) -> None:
    """Hold at zero what the pooled text adds to the timestep, so that text comes in through the blocks alone."""
    for parameter in network.time_text_embed.text_embedder.parameters():
        parameter.data.zero_()
        parameter.requires_grad_(False)


def build_t5(vocabulary: int) -> T5EncoderModel:
    """A text encoder of mini's width."""
    return T5EncoderModel(
        T5Config(
            vocab_size=vocabulary,
            d_model=TEXT_WIDTH,
            d_kv=TEXT_WIDTH // 4,
            d_ff=2 * TEXT_WIDTH,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
        )
    )


def build_flow_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """As schnell's: sigmas 1, 0.75, 0.5 and 0.25 at four steps."""
    return FlowMatchEulerDiscreteScheduler(shift=1.0)


def pack(latents: Tensor) -> Tensor:
    """Latents ``[n, 4, 32, 32]`` as tokens ``[n, 256, 16]``."""
    return FluxPipeline._pack_latents(latents, len(latents), LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)


def unpack(values: Tensor) -> Tensor:
    """Tokens ``[n, 256, 16]`` as latents ``[n, 4, 32, 32]``."""
    return FluxPipeline._unpack_latents(values, LATENT_SIZE, LATENT_SIZE, 1)


class FluxDenoiser(nn.Module):
    """Transformer and text encoder as one module."""

    def __init__(self, transformer: FluxTransformer2DModel, vocabulary: int) -> None:
        super().__init__()
        self.transformer = transformer
        self.text_encoder_2 = build_t5(vocabulary)
        close_the_pooled_way(transformer)

    def forward(self, latents: Tensor, sigma: Tensor, ids: Tensor) -> Tensor:
        """The velocity ``[n, 4, 32, 32]``, noise minus picture, of latents at ``sigma`` ``[n]`` for prompts' tokens."""
        velocity = self.transformer(
            hidden_states=pack(latents),
            encoder_hidden_states=self.text_encoder_2(ids)[0],
            pooled_projections=torch.zeros(len(ids), TEXT_WIDTH),
            timestep=sigma,
            img_ids=FluxPipeline._prepare_latent_image_ids(1, GRID, GRID, latents.device, latents.dtype),
            txt_ids=torch.zeros(ids.shape[1], 3),
            return_dict=False,
        )[0]
        return unpack(velocity)


@contextmanager
def handing_on(transformer: FluxTransformer2DModel, blocks: Iterable[str]) -> Iterator[None]:
    """Inside the ``with`` statement some blocks leave the picture's tokens as they are; text still passes through."""

    def hand_on(module: nn.Module, args: Any, kwargs: dict[str, Tensor], output: tuple[Tensor, Tensor]) -> Any:
        return output[0], kwargs["hidden_states"]

    with ExitStack() as hooks:
        for block in blocks:
            module = transformer.get_submodule(SCHNELL.place(block)[1].path)
            hooks.callback(module.register_forward_hook(hand_on, with_kwargs=True).remove)
        yield


def pipeline_of(model: FluxDenoiser, autoencoder: AutoencoderKL, scale: float, clip: CLIPTokenizer) -> FluxPipeline:
    """The trained parts as a pipeline. CLIP's pooled vector has no effect; its encoder is small and random."""
    autoencoder.register_to_config(scaling_factor=scale, shift_factor=0.0)
    return FluxPipeline(
        scheduler=build_flow_scheduler(),
        vae=autoencoder,
        text_encoder=build_text(len(clip), clip.eos_token_id, projection=False),
        tokenizer=clip,
        text_encoder_2=model.text_encoder_2,
        tokenizer_2=tokens.t5(),
        transformer=model.transformer,
    )


def stage(rank: int, world: int, folder: Path, steps: int, count: int = 24_000) -> None:
    """Train transformer and text encoder from random weights."""
    scale = encode_scenes(folder, rank, world, count)
    latents, data, tokenizer = np.load(folder / "latents.npy", mmap_mode="r"), Scenes(folder), tokens.t5()
    torch.manual_seed(0)
    model = FluxDenoiser(build_transformer(), len(tokenizer))
    scheduler = build_flow_scheduler()
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / STEPS, STEPS))
    sigmas = scheduler.sigmas[:STEPS]

    def loss(rng: np.random.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
        x0, mixed, canvas, prompts, at = draw_batch(data, latents, scale, rng)
        ids = tokenizer(prompts, padding="max_length", max_length=tokens.LENGTH, return_tensors="pt").input_ids
        sigma = sigmas[at].view(-1, 1, 1, 1)
        x = sigma * canvas + (1 - sigma) * mixed
        with handing_on(model.transformer, draw_off(EVENLY_OFF, rng)):
            velocity = model(x, sigma.flatten(), ids)
        error = (x - sigma * velocity - x0).square()
        # The error in the velocity counts at the later steps, where the picture itself is almost there already.
        each = (error * object_weight(canvas) / sigma.clamp(min=0.5) ** 2).mean((1, 2, 3))
        first = torch.from_numpy(at == 0)
        plain = error.mean((1, 2, 3)).detach()
        figures = {"loss": each.mean().item(), "x0": plain[first].mean().item() if first.any() else 0.0}
        return each.mean(), figures

    by_adam = [p for part in modulations(model.transformer) for p in part.parameters()]
    by_adam += [*model.transformer.time_text_embed.parameters(), model.text_encoder_2.shared.weight]
    job = Job("flux", model, loss, steps, adam=2e-3, muon=0.008, ema=0.995, embeddings=by_adam)
    run(job, folder, rank, world)
