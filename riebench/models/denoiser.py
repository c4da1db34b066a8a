"""Generate with an SDXL-shaped pipeline, each row of a batch with its own prompt, seed and edit."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from riebench.util.batches import in_batches
from riebench.util.errors import PairError, UserError
from riebench.lens import Activations, Edit, Lens
from riebench.lens.replay import Recorded, recording, replaying
from riebench.util.recent import Recent

Image = NDArray[np.uint8]
KEPT_TEXTS = 64
KEPT_LATENTS = 4
Unconditional = Literal["leave", "subtract"]


@dataclass(frozen=True)
class Run:
    """One finished generation: the picture ``[height, width, 3]`` and, if asked for, what happened inside.

    Attributes:
        image: the picture.
        activations: what its blocks did.
        recorded: what its first step can spare the runs that begin as it did.
    """

    image: Image
    activations: Activations | None = None
    recorded: Recorded | None = None


class Denoiser:
    """A pipeline that is told prompts and seeds, and nothing of methods or metrics.

    Args:
        pipeline: a loaded ``StableDiffusionXLPipeline``.
        fingerprint: names the weights in records.
        initial_latents: seed to latents ``[channels, height, width]`` of unit scale, for models whose
            canvas is not plain noise; None lets the pipeline draw them from the seed.
        batch: rows in one forward pass at most; halved when memory runs out.
        guidance: guidance scale; at 1 or below there is no unconditional half.
        size: side of the pictures, pixels; None for the model's own.
        unconditional: what an intervention does in the unconditional half: nothing, or the same with the
            opposite sign (the paper's option for guided models).

    Raises:
        UserError: if the side does not fit the model.
    """

    def __init__(
        self,
        pipeline: Any,
        fingerprint: str,
        initial_latents: Callable[[int], NDArray[np.float32]] | None = None,
        batch: int = 8,
        guidance: float = 0.0,
        size: int | None = None,
        unconditional: Unconditional = "leave",
    ) -> None:
        self.pipeline = pipeline
        self.fingerprint = fingerprint
        self.initial_latents = initial_latents
        self.batch = batch
        self.guidance = guidance
        self.unconditional = unconditional
        self.lens = Lens(pipeline.unet)
        # With offloading the weights lie elsewhere than where they are used.
        self.device = torch.device(pipeline._execution_device)
        self._drawn: Recent[int, NDArray[np.float32]] = Recent(KEPT_LATENTS)
        self.kept_texts: Recent[str, tuple[Tensor, Tensor]] = Recent(KEPT_TEXTS)
        own = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
        self.size = own if size is None else size
        if self.size < pipeline.vae_scale_factor or self.size % pipeline.vae_scale_factor:
            factor = pipeline.vae_scale_factor
            raise UserError(f"the picture size is {size}; expected a multiple of {factor} (the model's own: {own})")
        self._side = self.size // pipeline.vae_scale_factor
        # Original size, crop corner and target size, which SDXL is conditioned on.
        conditions = [[self.size, self.size, 0, 0, self.size, self.size]]
        # Asking a network for its type walks through all its modules; these do not change.
        self._dtype, self._vae_dtype = pipeline.unet.dtype, pipeline.vae.dtype
        self._time_ids = torch.tensor(conditions, dtype=self._dtype, device=self.device)
        pipeline.set_progress_bar_config(disable=True)

    @property
    def guided(self) -> bool:
        """Whether a batch holds an unconditional half (diffusers' rule)."""
        return self.guidance > 1

    def grid(self, block: str) -> tuple[int, int]:
        """Height and width of a block's feature map at this picture size."""
        unet = self.pipeline.unet
        path = self.lens.blocks[block].path.split(".")
        stages = len(unet.config.down_block_types)
        level = {"down_blocks": lambda: int(path[1]), "mid_block": lambda: stages - 1}.get(
            path[0], lambda: stages - 1 - int(path[1])
        )()
        side = self._side
        for _ in range(level):  # a strided convolution with padding rounds up
            side = -(-side // 2)
        return side, side

    def encode_text(self, prompt: str) -> tuple[Tensor, Tensor]:
        """Text states ``[1, tokens, width]`` and pooled text ``[1, width]`` of a prompt; the latest are kept.

        Raises:
            PairError: if the prompt is longer than a text encoder takes.
        """
        return self.kept_texts.get(prompt, lambda: self._encode_text(prompt))

    def _encode_text(self, prompt: str) -> tuple[Tensor, Tensor]:
        self._check_length(prompt)
        states, _, pooled, _ = self.pipeline.encode_prompt(
            prompt, device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return states, pooled

    def _check_length(self, prompt: str) -> None:
        """Refuse a prompt that the pipeline would cut off (of SDXL: after 77 tokens, its start and end included)."""
        for tokenizer in (self.pipeline.tokenizer, self.pipeline.tokenizer_2):
            tokens, most = len(tokenizer(prompt, verbose=False).input_ids), tokenizer.model_max_length
            if tokens > most:
                said = f"{tokens} tokens, the text encoder takes {most}"
                raise PairError(f"the prompt {prompt[:40]!r}... has {said}; shorten it", where="text")

    def _no_text(self) -> tuple[Tensor, Tensor]:
        """What stands for the prompt in the unconditional half, as the pipeline's own call has it."""
        states, pooled = self.encode_text("")
        if self.pipeline.config.force_zeros_for_empty_prompt:
            return torch.zeros_like(states), torch.zeros_like(pooled)
        return states, pooled

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        steps: int,
        edits: Sequence[Edit] | None = None,
        capture: Sequence[str] = (),
        neurons: bool = False,
        record: Sequence[str] = (),
        replay: Recorded | None = None,
    ) -> list[Run]:
        """Generate one picture for each prompt and seed, in batches.

        Args:
            prompts: one a row.
            seeds: one a row; initial latents and the sampler's noise depend on nothing else.
            steps: denoising steps.
            edits: what to add in each row; None adds nothing.
            capture: blocks to capture.
            neurons: whether to capture the neurons of these blocks too.
            record: blocks with which later edits may begin; what the first step computes before them in the FIRST
                row is kept in its run.
            replay: a run's recording. Batches whose rows all begin as that run did (prompt, seed, steps) and that
                have edits take its outputs up to their first edited block instead of computing them.
        """

        def work(rows: slice) -> list[Run]:
            part = edits[rows] if edits is not None else None
            kept = Recorded(prompts[0], seeds[0], steps, record) if record and rows.start == 0 else None
            return self._batch(prompts[rows], seeds[rows], steps, part, capture, neurons, kept, replay)

        return in_batches(self, len(prompts), work)

    def _batch(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        steps: int,
        edits: Sequence[Edit] | None,
        capture: Sequence[str],
        neurons: bool,
        kept: Recorded | None,
        replay: Recorded | None,
    ) -> list[Run]:
        first_step: AbstractContextManager[None] = nullcontext()
        if kept is not None:
            first_step = recording(self.pipeline.unet, kept, [0, len(prompts)] if self.guided else [0])
        elif replay is not None and edits is not None and replay.fits(prompts, seeds, steps):
            first_step = self._replaying(replay, edits, capture)
        if edits is not None and self.guided:
            edits = [self._unconditional_edit(edit) for edit in edits] + list(edits)
        editing: AbstractContextManager[None] = self.lens.editing(edits) if edits is not None else nullcontext()
        capturing: AbstractContextManager[list[Activations]] = (
            self.lens.capture(capture, neurons) if capture else nullcontext([])
        )
        # The capture is entered last, so that it sees a block's output with what was added to it.
        with editing, capturing as activations:
            latents = self._denoise(prompts, seeds, steps, first_step)
        images = self.decode(latents)
        conditional = activations[-len(prompts) :]  # the second half of a guided batch
        runs = [Run(image, conditional[i] if capture else None) for i, image in enumerate(images)]
        return [replace(runs[0], recorded=kept), *runs[1:]]

    def _replaying(
        self, replay: Recorded, edits: Sequence[Edit], capture: Sequence[str]
    ) -> AbstractContextManager[None]:
        """Replay up to the first block that must really run, if that is recorded; else compute everything."""
        places = {*capture, *(place.block for edit in edits for place in edit.additions)}
        first = next((block for block in self.lens.blocks if block in places), None)
        if first is None or first not in replay.blocks:
            return nullcontext()
        return replaying(self.pipeline.unet, replay, first, len(edits))

    def _unconditional_edit(self, edit: Edit) -> Edit:
        return Edit(edit.additions, -edit.strength) if self.unconditional == "subtract" else Edit({})

    def _denoise(
        self, prompts: Sequence[str], seeds: Sequence[int], steps: int, first_step: AbstractContextManager[None]
    ) -> Tensor:
        """Latents ``[n, channels, height, width]``, as the pipeline's own call makes them."""
        unet, scheduler = self.pipeline.unet, self.pipeline.scheduler
        texts = [self.encode_text(prompt) for prompt in prompts]
        if self.guided:
            texts = [self._no_text()] * len(prompts) + texts
        states, pooled = (torch.cat(parts) for parts in zip(*texts, strict=True))
        added = {"text_embeds": pooled, "time_ids": self._time_ids.repeat(len(texts), 1)}
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        scheduler.set_timesteps(steps, device=self.device)
        latents = self._initial(seeds, generators) * scheduler.init_noise_sigma
        for number, t in enumerate(scheduler.timesteps):
            rows = torch.cat([latents, latents]) if self.guided else latents
            scaled = scheduler.scale_model_input(rows, t)
            with first_step if number == 0 else nullcontext():
                predicted = unet(scaled, t, encoder_hidden_states=states, added_cond_kwargs=added, return_dict=False)[0]
            if self.guided:
                without, with_text = predicted.chunk(2)
                predicted = without + self.guidance * (with_text - without)
            latents = self._step(predicted, t, latents, generators).to(self._dtype)
        return latents

    def _step(self, predicted: Tensor, t: Tensor, latents: Tensor, generators: list[torch.Generator]) -> Tensor:
        """One step of the sampler; only some samplers draw noise."""
        step = self.pipeline.scheduler.step
        kind = type(self.pipeline.scheduler)
        noise = {"generator": generators} if _draws_noise(kind) else {}  # type: ignore[arg-type]
        done: Tensor = step(predicted, t, latents, return_dict=False, **noise)[0]
        return done

    def _initial(self, seeds: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
        unet = self.pipeline.unet
        if self.initial_latents is not None:
            draw = self.initial_latents
            drawn = torch.from_numpy(np.stack([self._drawn.get(seed, partial(draw, seed)) for seed in seeds]))
        else:
            # Drawn in float32 whatever the model's type, so that a seed means the same picture in each.
            shape = (1, unet.config.in_channels, self._side, self._side)
            drawn = torch.cat([torch.randn(shape, generator=generator) for generator in generators])
        return drawn.to(self.device, self._dtype)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Image:
        """Latents ``[n, channels, height, width]`` to pictures ``[n, height, width, 3]``.

        Raises:
            PairError: if a picture is not finite.
        """
        vae = self.pipeline.vae
        # The VAE of SDXL overflows in float16; it then runs in float32 (see `riebench.models.sdxl`).
        pixels = vae.decode(latents.to(self._vae_dtype) / vae.config.scaling_factor, return_dict=False)[0]
        if not bool(torch.isfinite(pixels).all()):
            raise PairError("the picture has values that are not finite", where="model")
        pixels = (pixels.float() / 2 + 0.5).clamp(0, 1) * 255
        return pixels.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


@cache
def _draws_noise(scheduler: type[Any]) -> bool:
    """Whether a sampler's steps take a generator."""
    return "generator" in inspect.signature(scheduler.step).parameters
