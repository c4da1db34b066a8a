"""The base of loaded models on diffusers' pipelines: sampling, and results that are computed once.

Importing it needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache, partial
from inspect import signature
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

from riebench.models.arguments import edits_of_call
from riebench.models.devices import types_as_loaded
from riebench.models.diffusers_entry import DiffusersEntry, Text
from riebench.models.model import DECODER, DENOISER, Model
from riebench.models.replay import Recording, recording, replaying
from riebench.models.schedulers import MEND, check_scheduler, check_steps
from riebench.models.sites import Batch, Site, block_of
from riebench.settings.settings import Settings
from riebench.util.errors import PairError, UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SMALL = 50_000_000
"""A denoiser with fewer numbers than these is computed in one thread; mini's has five million."""
KEPT_TEXTS, KEPT_LATENTS, KEPT_STEPS = 64, 4, 16
KEPT_WITHIN = 8
"""Texts that are kept as a pipeline's call encodes them; Fibo's, of all layers, take 0.15 MB a token in 16 bits."""


class DiffusersModel(Model):
    """A pipeline of diffusers as a model.

    Sampling is the pipeline's own call. A prompt's text states are computed once. The modules before the first edited
    block are computed once for a captured run and its edited runs.

    Args:
        pipeline: the loaded pipeline.
        denoiser: the pipeline's network that holds the sites.
        entry: of the model.
        settings: with the setting ``model.replay``.
        fingerprint: see :class:`Model`.
        sites: see :class:`Model`.
        paths: site to the path of its module inside the denoiser.
        before: block to the paths of the modules that have run when the block begins; no path lies inside another.
        size: side of the pictures, pixels.
        conditions: settings of the family that can change the pictures; type and size are added.
        arguments: those of the pipeline's call that only this family has.

    Raises:
        UserError: see :func:`check_factor` and :func:`check_scheduler`.

    Attributes:
        unconditional: what an edit does in the unconditional half of a guided batch.
        negative: prompt of the unconditional half; None for the pipeline's own.
        kept: the attributes that a change of the pipeline leaves alone.
    """

    kept: ClassVar[tuple[str, ...]] = ("saes", "batch", "replay", "_turn", "_state")
    fixed: ClassVar[frozenset[str]] = Model.fixed | {
        *("pipeline", "denoiser", "settings", "dtype", "guidance", "unconditional", "negative"),
    }

    def __init__(
        self,
        pipeline: Any,
        denoiser: nn.Module,
        entry: DiffusersEntry,
        settings: Settings,
        fingerprint: str,
        sites: Mapping[str, Site],
        paths: Mapping[str, str],
        before: Mapping[str, Sequence[str]],
        size: int,
        conditions: Mapping[str, str | float],
        arguments: Mapping[str, Any],
    ) -> None:
        import torch

        from riebench.models.pipeline_state import runs_code_of_a_user

        self.pipeline, self.denoiser, self.settings = pipeline, denoiser, settings
        self.dtype: torch.dtype = denoiser.dtype  # type: ignore[assignment]
        common: dict[str, str | float] = {"dtype": str(self.dtype).removeprefix("torch."), "size": size}
        # With offloading the weights are on another device than the one that computes.
        device = torch.device(pipeline._execution_device)
        modules = {site: denoiser.get_submodule(path) for site, path in paths.items()}
        super().__init__(entry, fingerprint, sites, modules, device, size, {**common, **conditions})
        self.replay = settings.model.replay
        self.small = device.type == "cpu" and sum(value.numel() for value in denoiser.parameters()) < SMALL
        self.unconditional, self.negative = settings.model.unconditional, settings.model.negative_prompt
        self._replayable = not runs_code_of_a_user(denoiser)
        self.encode_text = lru_cache(KEPT_TEXTS)(self._encode_text)
        self.encode_within = lru_cache(KEPT_WITHIN)(encode_alone)
        self._before, self._arguments = before, arguments
        check_factor(pipeline, entry.pipeline_cells)
        check_scheduler(pipeline, self.set_timesteps)
        self._check_steps = lru_cache(KEPT_STEPS)(partial(check_steps, pipeline.scheduler, self.set_timesteps))
        self._canvas = entry.canvas and lru_cache(KEPT_LATENTS)(entry.canvas)
        self._recording: Recording | None = None
        self._finished: tuple[tuple[str, int, int], Tensor] | None = None
        pipeline.set_progress_bar_config(disable=True)

    def watched(self) -> Any:
        """See :class:`Model`; the pipeline."""
        return self.pipeline

    def state_fingerprint(self) -> str:
        """See :class:`Model`."""
        from riebench.models.pipeline_state import state_fingerprint

        return state_fingerprint(self.pipeline)

    def renew(self) -> None:
        """See :class:`Model`; what a user may set on the model stays."""
        assert isinstance(self.entry, DiffusersEntry)
        fresh = self.entry.checked_model(self.pipeline, self.settings, self.entry.name)
        vars(self).update({name: value for name, value in vars(fresh).items() if name not in self.kept})
        self.forget_saes()

    def networks(self) -> Mapping[str, tuple[Any, str]]:
        """See :class:`Model`."""
        encoders = {name: getattr(self.pipeline, part) for name, part in self.diffusers_entry.text.encoders.items()}
        texts = {name: (encoder, "forward") for name, encoder in encoders.items() if encoder is not None}
        return {DENOISER: (self.denoiser, "forward"), DECODER: (self.pipeline.vae, "decode"), **texts}

    def _encode_text(self, prompt: str, unconditional: bool = False) -> dict[str, Any]:
        """The arguments of the pipeline's call for a prompt: tensors of one row, or lists of one tensor.

        Args:
            prompt: to encode.
            unconditional: whether it is that of the unconditional half, which some pipelines encode in another way.

        Raises:
            PairError: if the prompt is longer than an encoder takes.
        """
        text = self.diffusers_entry.text
        if text.within:
            self._check_text(prompt, text)
            return {"prompt": [prompt]}
        if unconditional and text.negative:
            return self._encode("", text, negative_prompt=prompt, do_classifier_free_guidance=True)
        return {name: value for part in (text, *text.more) for name, value in self._encode(prompt, part).items()}

    def _encode(self, prompt: str, text: Text, **more: Any) -> dict[str, Any]:
        """The arguments that one call of ``encode_prompt`` gives; ``more`` are further arguments of it."""
        import torch

        arguments = self._check_text(prompt, text)
        values = self.pipeline.encode_prompt(prompt, device=self.device, **arguments | more)
        returned = text.negative if more else text.returned
        values = values if isinstance(values, tuple) else (values,)
        named = {name: v for name, v in zip(returned, values, strict=False) if name and v is not None}
        of_type = {n: v.to(self.dtype) for n, v in named.items() if torch.is_tensor(v) and v.is_floating_point()}
        return named | of_type

    def _check_text(self, prompt: str, text: Text) -> dict[str, Any]:
        """The arguments of ``encode_prompt`` for a prompt.

        Raises:
            PairError: if the prompt is longer than an encoder takes.
        """
        pipeline, called = self.pipeline, signature(self.pipeline.__call__).parameters
        arguments = {**text.arguments, **{name: called[name].default for name in text.as_called}}
        for name, most in text.tokenizers.items():
            own = getattr(pipeline, name)
            tokenizer = pipeline.tokenizer if own is None else own
            tokenizer = tokenizer if hasattr(tokenizer, "model_max_length") else tokenizer.tokenizer  # of a processor
            longest = min(most or tokenizer.model_max_length, tokenizer.model_max_length)
            if "max_sequence_length" in arguments and own is not None:
                most_of_all = min(arguments["max_sequence_length"], tokenizer.model_max_length)
                arguments["max_sequence_length"] = most_of_all
            self.check_length(tokenizer, prompt, longest, text.wrapped(pipeline, prompt) if text.wrapped else prompt)
        return arguments

    @property
    def diffusers_entry(self) -> DiffusersEntry:
        """The entry."""
        assert isinstance(self.entry, DiffusersEntry)
        return self.entry

    @property
    def halves(self) -> int:
        """Number of rows in the denoiser's batches for each picture: 2 with an unconditional half in each batch."""
        return 2 if self.guided else 1

    def conditional(self, value: Tensor) -> Tensor:
        """The rows of the prompts in a tensor of the denoiser, as a view: the last ones."""
        return value[len(value) // 2 :] if self.halves == 2 else value

    def unconditional_half(self, value: Tensor) -> Tensor | None:
        """The other rows, as a view, if edits are to be taken out of them."""
        subtract = self.halves == 2 and self.unconditional == "subtract"
        return value[: len(value) // 2] if subtract else None

    @contextmanager
    def keeping_nothing(self) -> Iterator[None]:
        """Encode each prompt at each use, and replay nothing."""
        self._finished = None
        kept = self.encode_text, self.encode_within, self.replay
        self.encode_text, self.encode_within, self.replay = self._encode_text, encode_alone, False  # type: ignore[assignment]
        try:
            yield
        finally:
            self.encode_text, self.encode_within, self.replay = kept

    def check_length(self, tokenizer: Any, prompt: str, most: int, wrapped: str | Sequence[str]) -> None:
        """Refuse a prompt with more tokens than a text encoder takes; a token of several vectors counts for each.

        Args:
            tokenizer: of the encoder.
            prompt: as the user gives it.
            most: number of tokens that the encoder takes.
            wrapped: the text that the tokenizer is given, the prompt inside a template; or its pieces.

        Raises:
            PairError: if the text has more tokens.
        """
        pieces = [wrapped] if isinstance(wrapped, str) else wrapped
        if hasattr(self.pipeline, "maybe_convert_prompt"):
            pieces = [self.pipeline.maybe_convert_prompt(piece, tokenizer) for piece in pieces]
        tokens = sum(len(tokenizer(piece, verbose=False).input_ids) for piece in pieces)
        if tokens > most:
            wrong = f"{tokens} tokens, the text encoder takes {most}"
            raise PairError(f"the prompt {prompt[:40]!r}... has {wrong}; shorten it", where="text")

    def set_timesteps(self, scheduler: Any, steps: int, device: torch.device) -> None:
        """Prepare a scheduler for a number of steps, as the pipeline's call does; it forgets all earlier steps."""
        scheduler.set_timesteps(steps, device=device)

    def unconditional_text(self) -> dict[str, Any]:
        """The text of the unconditional half, as of :meth:`_encode_text`: of the negative or the empty prompt."""
        if self.diffusers_entry.text.within and self.negative is None:
            return {}
        own_way = bool(self.diffusers_entry.text.negative)
        return self.encode_text(self.negative or "", True) if own_way else self.encode_text(self.negative or "")

    def latent_shape(self) -> tuple[int, ...]:
        """The shape of a picture's initial latents, ``[channels, side, side]`` unless the family says another."""
        side = self.size // self.pipeline.vae_scale_factor
        channels: int = self.denoiser.config.in_channels  # type: ignore[union-attr, assignment]
        return channels, side, side

    def packed(self, latents: Tensor) -> Tensor:
        """Initial latents ``[rows, channels, side, side]`` in the shape that the pipeline's call takes."""
        return latents

    def during_calls(self) -> dict[str, Any]:
        """The attributes that the pipeline has during its call in place of its own."""
        method = self.diffusers_entry.text.within
        return {method: partial(self._encode_within, getattr(self.pipeline, method))} if method else {}

    def _encode_within(self, method: Callable[..., Any], prompt: Sequence[str], *args: Any, **kwargs: Any) -> Any:
        """What a method of the pipeline returns for prompts, each of which is encoded alone, and once.

        Args:
            method: the pipeline's own.
            prompt: the prompts, as the method names them; prompts of one batch have texts of one length.
            args: further arguments of the method.
            kwargs: further arguments by name.
        """
        import torch
        from torch.utils._pytree import tree_map

        if any(isinstance(value, list) for value in (*args, *kwargs.values())):  # of each prompt, such as pictures
            return method(prompt, *args, **kwargs)
        rows = [self.encode_within(method, each, args, tuple(kwargs.items())) for each in prompt]
        return tree_map(lambda *v: torch.cat(v) if torch.is_tensor(v[0]) else v[0], *rows)

    def call(self, **arguments: Any) -> Any:
        """What the pipeline's own call returns: the pictures, and more."""
        attributes, held = self.during_calls(), vars(self.pipeline)
        own = {name: held[name] for name in attributes if name in held}
        held.update(attributes)
        try:
            return self.pipeline(**arguments, return_dict=False)
        finally:
            for name in attributes.keys() - own.keys():
                del held[name]
            held.update(own)

    def call_arguments(self, texts: Sequence[Mapping[str, Any]], steps: int, latents: Tensor) -> dict[str, Any]:
        """The arguments of the pipeline's call but for generators and callbacks.

        Args:
            texts: one a row, as of :meth:`_encode_text`.
            steps: denoising steps.
            latents: initial ones, ``[rows, channels, side, side]``.
        """
        guiding = [self.unconditional_text()] * len(texts) if self.guided else []
        return {
            **joined(texts, self.diffusers_entry.text.row_dimensions),
            **{
                f"negative_{name}": value
                for name, value in joined(guiding, self.diffusers_entry.text.row_dimensions).items()
            },
            "latents": self.packed(latents).to(self.device, self.dtype),
            "num_inference_steps": steps,
            "height": self.size,
            "width": self.size,
            "output_type": "pt",
            **self._arguments,
        }

    def sample(self, batch: Batch) -> Tensor:
        """See :class:`Model`; the pipeline's own call, from text states and latents."""
        import torch

        self._check_steps(batch.steps)
        texts = [self.encode_text(prompt) for prompt in batch.prompts]
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in batch.seeds]
        arguments = self.call_arguments(texts, batch.steps, self._initial_latents(batch.seeds, generators))
        vae_type = self.pipeline.vae.dtype
        try:
            with self._first_step(batch):
                callback = self._after_step(batch, generators)
                more = {} if callback is None else {"callback_on_step_end": callback}
                pixels: Tensor = self.call(**arguments, **more, generator=generators)[0][:, :3]  # without transparency
        except BaseException:
            # In float16 SDXL's pipeline decodes in float32 and casts back at the end; an error skips the cast.
            self.pipeline.vae.to(dtype=vae_type)
            raise
        if pixels.shape[-2:] != (self.size, self.size):
            wrong = f"the pipeline makes pictures of {list(pixels.shape[-2:])} pixels for {self.size}"
            raise UserError(f"{wrong}; give it an autoencoder of its own factor")
        return pixels

    def _initial_latents(self, seeds: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
        """Latents ``[rows, channels, side, side]`` in float32, so that a seed gives one picture in any type."""
        import numpy as np
        import torch

        if self._canvas is not None:
            return torch.from_numpy(np.stack([self._canvas(seed) for seed in seeds]))
        shape = (1, *self.latent_shape())
        return torch.cat([torch.randn(shape, generator=generator, dtype=torch.float32) for generator in generators])

    def _first_step(self, batch: Batch) -> AbstractContextManager[Any]:
        """Record the first step of a captured run, or replay it in an edited run, inside the ``with`` statement.

        The last row is recorded: it is in the last batch, however small batches are.
        """
        if not (self.replay and self._replayable):
            return nullcontext()
        rows = len(batch.prompts)
        starts = [(prompt, seed, batch.steps) for prompt, seed in zip(batch.prompts, batch.seeds, strict=True)]
        touched = {block_of(site) for edit in batch.edits for site in edit.changes}
        touched |= {block_of(site) for site in batch.capture}
        before = [self._before[block] for block in self.sites if block in touched]
        if before and not batch.edits:
            paths = list(dict.fromkeys(path for each in before for path in each))
            self._recording = Recording(starts[-1], paths)
            return recording(self.denoiser, self._recording, [half * rows + rows - 1 for half in range(self.halves)])
        kept = self._recording
        if kept is None or not before or set(starts) != {kept.start}:
            return nullcontext()
        # The recording may be of other blocks, or of a run that failed.
        complete = kept.outputs.keys() >= set(before[0])
        return replaying(self.denoiser, kept, before[0], rows) if complete else nullcontext()

    def finished(self, prompt: str, seed: int, steps: int) -> Tensor:
        """See :class:`Model`; the latents of the latest such run are kept."""
        import torch

        edits_of_call([prompt], [seed], steps, (), (), None, None)
        if self.diffusers_entry.no_start:
            why = self.diffusers_entry.no_start
            raise UserError(f"{self.entry.name} cannot begin with a finished picture: {why}")
        run = (str(prompt), int(seed), int(steps))
        with self._turn, torch.no_grad(), types_as_loaded(self.device):
            self._follow()
            if self._finished is None or self._finished[0] != run:
                latents: list[Tensor] = []
                with self._state:
                    self.sample(Batch([run[0]], [run[1]], run[2], finished=latents))
                self._finished = run, latents[0]
            return self._finished[1].clone()

    def _after_step(self, batch: Batch, generators: list[torch.Generator]) -> Callable[..., dict[str, Tensor]] | None:
        """The pipeline's callback that inserts the latents of ``batch.begin`` and keeps those for ``batch.finished``.

        Args:
            batch: that is generated; None is returned if it has neither.
            generators: one a row, for the noise on the inserted latents.
        """
        if batch.begin is None and batch.finished is None:
            return None

        def after(pipeline: Any, step: int, time: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            if batch.finished is not None and step + 1 == batch.steps:
                batch.finished.append(tensors["latents"])
            if batch.begin is not None and step + 1 == batch.begin[1]:
                return {"latents": self._noised(*batch.begin, tensors["latents"], generators)}
            return {}

        return after

    def _noised(self, start: Tensor, first: int, latents: Tensor, generators: list[torch.Generator]) -> Tensor:
        """Finished latents with the noise of a step; the scheduler begins there, without memory of earlier steps.

        Args:
            start: the finished latents ``[rows, ...]``.
            first: the step.
            latents: those that are replaced, ``[rows, ...]``.
            generators: one a row.
        """
        from diffusers.utils.torch_utils import randn_tensor

        scheduler, noise = (
            self.pipeline.scheduler,
            randn_tensor(latents.shape, generators, latents.device, latents.dtype),
        )
        self.set_timesteps(scheduler, len(scheduler.timesteps), latents.device)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        times, start = scheduler.timesteps[first].expand(len(latents)), start.to(latents.dtype)
        if hasattr(scheduler, "scale_noise"):  # schedulers of flow matching
            noised: Tensor = scheduler.scale_noise(start, times, noise)
        elif hasattr(scheduler, "add_noise"):
            noised = scheduler.add_noise(start, noise, times)
        else:
            wrong = (
                f"the scheduler {type(scheduler).__name__} cannot begin from a finished picture: it has no add_noise"
            )
            raise UserError(f"{wrong}; {MEND}")
        return noised


def encode_alone(
    method: Callable[..., Any], prompt: str, args: tuple[Any, ...], kwargs: tuple[tuple[str, Any], ...]
) -> Any:
    """What a method of a pipeline returns for one prompt; the further arguments can be hashed."""
    return method([prompt], *args, **dict(kwargs))


def joined(texts: Sequence[Mapping[str, Any]], dimensions: Mapping[str, int]) -> dict[str, Any]:
    """The texts of several rows together: tensors ``[rows, ...]``, or lists with an element for each row.

    Args:
        texts: one a row.
        dimensions: name of a tensor to the dimension of its rows, where it is not the first.
    """
    import torch

    names = texts[0] if texts else ()
    rows = {name: [text[name] for text in texts] for name in names}
    return {
        n: [*chain.from_iterable(v)] if isinstance(v[0], list) else torch.cat(v, dimensions.get(n, 0))
        for n, v in rows.items()
    }


def check_factor(pipeline: Any, cells: int = 1) -> None:
    """Refuse a pipeline whose autoencoder makes another number of pixels of a latent cell than the pipeline takes.

    Args:
        pipeline: a loaded pipeline.
        cells: of the autoencoder on each side of what the pipeline counts with.

    Raises:
        UserError: if the numbers differ.
    """
    levels = getattr(pipeline.vae.config, "block_out_channels", None)
    if not levels:
        return
    factor = 2 ** (len(levels) - 1)
    expected = getattr(pipeline, "vae_scale_factor", getattr(pipeline, "vae_scale_factor_spatial", factor))
    if expected != factor * cells:
        wrong = f"{type(pipeline.vae).__name__} makes {factor} pixels of the side of a latent cell"
        raise UserError(f"{wrong}, and the pipeline was made for {expected}; make the pipeline anew, with vae=")
