"""Generate with an SDXL-shaped pipeline, each row of a batch with its own prompt, seed and edit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from riebench.errors import PairError
from riebench.lens import Activations, Edit, Lens

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Run:
    """One finished generation: the picture ``[height, width, 3]`` and, if asked for, what its blocks did."""

    image: Image
    activations: Activations | None = None


class Denoiser:
    """A pipeline that is told prompts and seeds, and nothing of methods or metrics.

    Args:
        pipeline: a loaded ``StableDiffusionXLPipeline``.
        initial_latents: seed to latents ``[channels, height, width]`` of unit scale, for models whose
            canvas is not plain noise; None lets the pipeline draw them from the seed.
        fingerprint: names the weights in records.
        batch: rows in one forward pass at most.
    """

    def __init__(
        self,
        pipeline: Any,
        fingerprint: str,
        initial_latents: Callable[[int], NDArray[np.float32]] | None = None,
        batch: int = 8,
    ) -> None:
        self.pipeline = pipeline
        self.fingerprint = fingerprint
        self.initial_latents = initial_latents
        self.batch = batch
        self.lens = Lens(pipeline.unet)
        self.device = pipeline.unet.device
        self._texts: dict[str, tuple[Tensor, Tensor]] = {}
        side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
        # Original size, crop corner and target size, which SDXL is conditioned on.
        self._time_ids = torch.tensor([[side, side, 0, 0, side, side]], dtype=pipeline.unet.dtype, device=self.device)
        pipeline.set_progress_bar_config(disable=True)

    def grid(self, block: str) -> tuple[int, int]:
        """Height and width of a block's feature map at the model's own picture size."""
        unet = self.pipeline.unet
        path = self.lens.blocks[block].path.split(".")
        stages = len(unet.config.down_block_types)
        level = {"down_blocks": lambda: int(path[1]), "mid_block": lambda: stages - 1}.get(
            path[0], lambda: stages - 1 - int(path[1])
        )()
        side = unet.config.sample_size // 2**level
        return side, side

    def encode_text(self, prompt: str) -> tuple[Tensor, Tensor]:
        """Text states ``[1, tokens, width]`` and pooled text ``[1, width]`` of a prompt, kept for its next use."""
        if prompt not in self._texts:
            states, _, pooled, _ = self.pipeline.encode_prompt(
                prompt, device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
            self._texts[prompt] = (states, pooled)
        return self._texts[prompt]

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        steps: int,
        edits: Sequence[Edit] | None = None,
        capture: Sequence[str] = (),
        neurons: bool = False,
    ) -> list[Run]:
        """Generate one picture for each prompt and seed, in batches.

        Args:
            prompts: one a row.
            seeds: one a row; initial latents and the sampler's noise depend on nothing else.
            steps: denoising steps.
            edits: what to add in each row; None adds nothing.
            capture: blocks to capture.
            neurons: whether to capture the neurons of these blocks too.
        """
        runs: list[Run] = []
        for start in range(0, len(prompts), self.batch):
            rows = slice(start, start + self.batch)
            part = edits[rows] if edits is not None else None
            runs += self._batch(prompts[rows], seeds[rows], steps, part, capture, neurons)
        return runs

    def _batch(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        steps: int,
        edits: Sequence[Edit] | None,
        capture: Sequence[str],
        neurons: bool,
    ) -> list[Run]:
        editing: AbstractContextManager[None] = self.lens.editing(edits) if edits is not None else nullcontext()
        capturing: AbstractContextManager[list[Activations]] = (
            self.lens.capture(capture, neurons) if capture else nullcontext([])
        )
        # The capture is entered last, so that it sees a block's output with what was added to it.
        with editing, capturing as activations:
            latents = self._denoise(prompts, seeds, steps)
        images = self.decode(latents)
        return [Run(image, activations[i] if capture else None) for i, image in enumerate(images)]

    def _denoise(self, prompts: Sequence[str], seeds: Sequence[int], steps: int) -> Tensor:
        """Latents ``[n, channels, height, width]``, as the pipeline's own call makes them without guidance."""
        unet, scheduler = self.pipeline.unet, self.pipeline.scheduler
        texts = [self.encode_text(prompt) for prompt in prompts]
        states, pooled = (torch.cat(parts) for parts in zip(*texts, strict=True))
        added = {"text_embeds": pooled, "time_ids": self._time_ids.repeat(len(prompts), 1)}
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        scheduler.set_timesteps(steps, device=self.device)
        latents = self._initial(seeds, generators) * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            scaled = scheduler.scale_model_input(latents, t)
            predicted = unet(scaled, t, encoder_hidden_states=states, added_cond_kwargs=added, return_dict=False)[0]
            latents = scheduler.step(predicted, t, latents, generator=generators, return_dict=False)[0]
        return latents

    def _initial(self, seeds: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
        unet = self.pipeline.unet
        if self.initial_latents is not None:
            drawn = torch.from_numpy(np.stack([self.initial_latents(seed) for seed in seeds]))
        else:
            shape = (1, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
            drawn = torch.cat([torch.randn(shape, generator=generator, dtype=unet.dtype) for generator in generators])
        return drawn.to(self.device, unet.dtype)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Image:
        """Latents ``[n, channels, height, width]`` to pictures ``[n, height, width, 3]``.

        Raises:
            PairError: if a picture is not finite.
        """
        vae = self.pipeline.vae
        pixels = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        if not bool(torch.isfinite(pixels).all()):
            raise PairError("the picture has values that are not finite", where="model")
        pixels = (pixels.float() / 2 + 0.5).clamp(0, 1) * 255
        return pixels.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
