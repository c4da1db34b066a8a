"""Stage 2: the U-Net and its two text encoders, by plain regression on (prompt, canvas) -> picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import EulerAncestralDiscreteScheduler, UNet2DConditionModel
from numpy.lib.format import open_memmap
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from riebench.mini.grammar import random_prompt
from riebench.mini.layout import canvas_of_seed
from riebench.models.sdxl import FOUR, module_path

from . import tokens, vae
from .data import Scenes
from .loop import Job, run

BATCH = 16
WIDTHS = (24, 48, 96)
TEXT_WIDTH = 64
STEPS = 4
STEP_SHARES = (0.76, 0.10, 0.08, 0.06)  # of the samples, for each step of a four-step run
EVENLY_OFF = dict.fromkeys(FOUR, 0.025)  # share of training steps in which a block adds nothing
# Left to itself mid.0 adds next to nothing; with down.2.1 off now and then it has to.
BALANCING_OFF = {"down.2.1": 0.3, "up.0.0": 0.05, "up.0.1": 0.05}


def build_scheduler() -> EulerAncestralDiscreteScheduler:
    """Sigmas 1.67, 0.87, 0.43 and 0.15 at four trailing steps, so that the layout survives the added noise."""
    return EulerAncestralDiscreteScheduler(
        num_train_timesteps=1000,
        beta_start=2e-5,
        beta_end=0.004,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )


def build_text(vocabulary: int, end: int, projection: bool) -> CLIPTextModel | CLIPTextModelWithProjection:
    """A text encoder of width 64; SDXL reads the output of the layer before the last."""
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokens.LENGTH,
        bos_token_id=end - 1,
        eos_token_id=end,
        pad_token_id=end,
    )
    return CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)


def build_unet() -> UNet2DConditionModel:
    """SDXL's topology at a small size."""
    time_dim = 16
    return UNet2DConditionModel(
        sample_size=32,
        block_out_channels=WIDTHS,
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=(1, 2, 4),
        cross_attention_dim=2 * TEXT_WIDTH,
        norm_num_groups=8,
        addition_embed_type="text_time",
        addition_time_embed_dim=time_dim,
        projection_class_embeddings_input_dim=TEXT_WIDTH + 6 * time_dim,
        use_linear_projection=True,
    )


def close_other_ways(unet: UNet2DConditionModel) -> None:
    """Hold at zero every way of the text into the U-Net but the four blocks that the benchmark edits."""
    for name, module in unet.named_modules():
        if name.endswith("attn2") and not name.startswith(tuple(map(module_path, FOUR))):
            for p in module.to_out.parameters():
                p.data.zero_()
                p.requires_grad_(False)
            # What is multiplied by zero need not be computed.
            module.forward = lambda states, *args, **kwargs: torch.zeros_like(states)
    columns = unet.add_embedding.linear_1.weight
    columns.data[:, :TEXT_WIDTH] = 0
    columns.register_hook(lambda grad: torch.cat([torch.zeros_like(grad[:, :TEXT_WIDTH]), grad[:, TEXT_WIDTH:]], 1))


@contextmanager
def adding_nothing(unet: UNet2DConditionModel, blocks: Iterable[str]) -> Iterator[None]:
    """Inside the ``with`` statement some blocks hand on what they are given; gradients flow through that."""

    def hand_on(module: nn.Module, args: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0], *output[1:])

    with ExitStack() as hooks:
        for block in blocks:
            hooks.callback(unet.get_submodule(module_path(block)).register_forward_hook(hand_on).remove)
        yield


class Denoiser(nn.Module):
    """U-Net and text encoders as one module."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        end = tokenizer.eos_token_id
        self.unet = build_unet()
        self.text_encoder = build_text(len(tokenizer), end, projection=False)
        self.text_encoder_2 = build_text(len(tokenizer), end, projection=True)
        close_other_ways(self.unet)

    def forward(self, sample: Tensor, timestep: Tensor, ids: Tensor) -> Tensor:
        states = [e(ids, output_hidden_states=True).hidden_states[-2] for e in (self.text_encoder, self.text_encoder_2)]
        n = len(ids)
        added = {
            "text_embeds": torch.zeros(n, TEXT_WIDTH),
            "time_ids": torch.tensor([[128.0, 128, 0, 0, 128, 128]]).repeat(n, 1),
        }
        return self.unet(sample, timestep, torch.cat(states, -1), added_cond_kwargs=added).sample


def encode_scenes(folder: Path, rank: int, world: int, count: int) -> float:
    """Cache the latents of the first ``count`` scenes in ``latents.npy``; returns the factor to unit variance."""
    path, data = folder / "latents.npy", Scenes(folder)
    scale_path = folder / "latent_scale.pt"
    if not scale_path.exists():
        if rank == 0:
            open_memmap(path, mode="w+", dtype=np.float16, shape=(count, 4, 32, 32)).flush()
        if world > 1:
            torch.distributed.barrier()
        latents = open_memmap(path, mode="r+")
        model = vae.build().to(memory_format=torch.channels_last).eval()
        model.load_state_dict(torch.load(folder / "vae.weights", weights_only=True))
        with torch.no_grad():
            for start in range(rank * 40, count, world * 40):
                indices = np.arange(start, min(start + 40, count))
                pictures = data.pictures(indices).contiguous(memory_format=torch.channels_last)
                latents[indices] = model.encode(pictures).latent_dist.mean.numpy()
                if rank == 0 and start % 4000 == 0:
                    print(f"latents  {start}/{count}", flush=True)
        latents.flush()
        if world > 1:
            torch.distributed.barrier()
        if rank == 0:
            sample = np.load(path, mmap_mode="r")[:4000].astype(np.float32)
            torch.save(torch.tensor(1 / sample.std()), scale_path)
        if world > 1:
            torch.distributed.barrier()
    return float(torch.load(scale_path, weights_only=True))


def noisy_input(x0: Tensor, mixed: Tensor, canvas: Tensor, sigmas: Tensor, step: int) -> Tensor:
    """What the ancestral sampler holds before a step, if it had predicted ``mixed`` at each step before.

    Shapes ``[n, 4, 32, 32]``; the step's own target is ``x0``.
    """
    x = sigmas[0] * canvas
    for now, then in pairwise(sigmas[: step + 1]):
        up = (then**2 * (now**2 - then**2) / now**2).sqrt()
        down = (then**2 - up**2).sqrt()
        x = x + (x - mixed) / now * (down - now) + up * torch.randn_like(x)
    return x


class Drawn(NamedTuple):
    """Training samples, latents ``[n, 4, 32, 32]`` of unit variance.

    Attributes:
        x0: the true ones.
        mixed: an imperfect picture so far, on which the later steps learn to listen to the prompt still.
        canvas: the initial ones.
        prompts: one each.
        at: the step of a four-step run ``[n]``.
    """

    x0: Tensor
    mixed: Tensor
    canvas: Tensor
    prompts: list[str]
    at: np.ndarray


def draw_batch(data: Scenes, latents: np.ndarray, scale: float, rng: np.random.Generator) -> Drawn:
    """Draw training samples; seeds torch, too."""
    torch.manual_seed(int(rng.integers(2**31)))
    chosen = np.sort(rng.integers(len(latents), size=BATCH))
    x0 = torch.from_numpy(latents[chosen].astype(np.float32)) * scale
    canvas = torch.from_numpy(np.stack([canvas_of_seed(int(data.seeds[i])) for i in chosen]))
    canvas = canvas + torch.randn_like(canvas) * torch.tensor([0.05, 0.05, 0.05, 0.5]).view(1, 4, 1, 1)
    prompts = [random_prompt(data.scenes[i], rng) for i in chosen]
    share = torch.from_numpy(rng.uniform(0, 0.5, (BATCH, 1, 1, 1)).astype(np.float32)) * (
        torch.rand(BATCH, 1, 1, 1) < 0.5
    )
    mixed = x0 + share * (x0.roll(1, 0) - x0)
    return Drawn(x0, mixed, canvas, prompts, rng.choice(STEPS, size=BATCH, p=STEP_SHARES))


def draw_off(shares: Mapping[str, float], rng: np.random.Generator) -> list[str]:
    """The block that is off in a training step, if any: the shares part the unit interval, and the rest is "none"."""
    draw, off = rng.random(), []
    for block, share in shares.items():
        if 0 <= draw < share:
            off = [block]
        draw -= share
    return off


def object_weight(canvas: Tensor) -> Tensor:
    """Weight ``[n, 1, 32, 32]`` of the error in each cell: the object counts more than the background."""
    return 0.5 + canvas[:, :1].clamp(0, 2) * 0.6


def stage(rank: int, world: int, folder: Path, steps: int) -> None:
    """Train U-Net and text encoders from random weights."""
    fit(rank, world, folder, steps, "unet", None, EVENLY_OFF, muon=0.008, adam=3e-3)


def balance_stage(rank: int, world: int, folder: Path, steps: int) -> None:
    """Go on from the trained weights, gently, until each of the four blocks has its share of the work."""
    fit(rank, world, folder, steps, "balance", folder / "unet.weights", BALANCING_OFF, muon=0.003, adam=1e-3)


def fit(
    rank: int,
    world: int,
    folder: Path,
    steps: int,
    name: str,
    start: Path | None,
    off_shares: dict[str, float],
    muon: float,
    adam: float,
    count: int = 24_000,
) -> None:
    """Train on (prompt, canvas) -> latents; ``off_shares`` says how often which block adds nothing."""
    tokenizer = tokens.write(folder / "tokenizer") if rank == 0 else None
    if world > 1:
        torch.distributed.barrier()
    tokenizer = tokenizer or CLIPTokenizer.from_pretrained(folder / "tokenizer")
    scale = encode_scenes(folder, rank, world, count)
    latents = np.load(folder / "latents.npy", mmap_mode="r")
    data = Scenes(folder)
    torch.manual_seed(0)
    model = Denoiser(tokenizer)
    if start is not None:
        model.load_state_dict(torch.load(start, weights_only=True))
    model.unet.to(memory_format=torch.channels_last)
    scheduler = build_scheduler()
    scheduler.set_timesteps(STEPS)
    sigmas, timesteps = scheduler.sigmas[:STEPS].float(), scheduler.timesteps
    print("sigmas", sigmas.tolist(), "timesteps", timesteps.tolist(), "latent scale", scale, flush=True)

    def loss(rng: np.random.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
        x0, mixed, canvas, prompts, at = draw_batch(data, latents, scale, rng)
        ids = tokenizer(prompts, padding="max_length", max_length=tokens.LENGTH, return_tensors="pt").input_ids
        x = torch.cat(
            [noisy_input(x0[i : i + 1], mixed[i : i + 1], canvas[i : i + 1], sigmas, s) for i, s in enumerate(at)]
        )
        sigma = sigmas[at].view(-1, 1, 1, 1)
        root = (sigma**2 + 1).sqrt()
        with adding_nothing(model.unet, draw_off(off_shares, rng)):
            v = model((x / root).contiguous(memory_format=torch.channels_last), timesteps[at], ids)
        error = (x / root**2 - v * sigma / root - x0).square()
        # The error in v counts at the later steps, where the picture itself is almost there already.
        each = (error * object_weight(canvas) * (root / sigma).clamp(max=2.0) ** 2).mean((1, 2, 3))
        first = torch.from_numpy(at == 0)
        plain = error.mean((1, 2, 3)).detach()
        figures = {"loss": each.mean().item(), "x0": plain[first].mean().item() if first.any() else 0.0}
        return each.mean(), figures

    embeddings = [p for n, p in model.named_parameters() if "embedding" in n and "text_encoder" in n]
    job = Job(name, model, loss, steps, adam=adam, muon=muon, ema=0.995, embeddings=embeddings)
    run(job, folder, rank, world)
