"""What the families on diffusers' pipelines share: where a pipeline lies, how it is loaded, what is computed once.

Importing it needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from riebench.models.model import GIVEN, Batch, Model, ModelEntry, pick_device, weights_fingerprint
from riebench.models.sites import Site
from riebench.settings.settings import Settings
from riebench.util.errors import PairError, UserError
from riebench.util.files import fingerprint
from riebench.weights import find_part, hub_snapshot, is_standin, weights_root

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from riebench.models.replay import Recording

COMPONENTS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
"""Folders of a pipeline whose files its fingerprint names."""
PUBLISHED_VAE: dict[str, Any] = {"block_out_channels": [128, 256, 512, 512]}
"""As much of the autoencoders of SDXL and of FLUX.1 as sites depend on, for plans without weights."""
KEPT_TEXTS, KEPT_LATENTS = 64, 4


@dataclass(frozen=True)
class DiffusersEntry(ModelEntry):
    """A pipeline of diffusers by name.

    Attributes:
        own_pipeline: folder of a pipeline that comes with a package.
        canvas: seed to initial latents ``[channels, height, width]`` of unit scale, if they are not plain noise.
        denoiser: name of the pipeline's part that holds the sites.
        published: part to as much of its published configuration as sites depend on, for plans without weights.
        loading: what else the pipeline is loaded with.
    """

    own_pipeline: Path | None = None
    canvas: Callable[[int], NDArray[np.float32]] | None = None
    denoiser: ClassVar[str]
    published: ClassVar[Mapping[str, Mapping[str, Any]]]
    loading: ClassVar[Mapping[str, Any]] = {}

    def folder(self, settings: Settings) -> Path | None:
        """Where the pipeline is on this machine; None if it is nowhere."""
        if self.own_pipeline is not None:
            return self.own_pipeline
        location = settings.model.location
        if location is not None:
            return Path(location) if Path(location).is_dir() else hub_snapshot(location, settings.model.revision)
        return find_part(self.parts[0], weights_root(settings)).path

    def sites(self, settings: Settings) -> Mapping[str, Site]:
        """See :class:`ModelEntry`; of the published shape where there are no weights."""
        folder = self.folder(settings)
        configs = {part: part_config(folder, part, known) for part, known in self.published.items()}
        return self.sites_for(configs, settings.model.size)

    @abstractmethod
    def sites_for(self, configs: Mapping[str, Mapping[str, Any]], size: int | None) -> Mapping[str, Site]:
        """The sites of a pipeline, from the configurations of its parts, for a picture size or the model's own."""

    @abstractmethod
    def model_of(self, pipeline: Any, settings: Settings, fingerprint: str) -> Model:
        """A loaded pipeline as a model."""

    def load(self, settings: Settings) -> Model:
        """The pipeline from its folder, or from the hub's cache for a hub id."""
        folder = self.folder(settings)
        if folder is None:
            hint = f"see 'riebench doctor --model {self.name}'"
            raise UserError(f"the weights of {self.name} are not on this machine; {hint}")
        files = [f for c in COMPONENTS if (folder / c).is_dir() for f in (folder / c).rglob("*") if f.is_file()]
        mark = "standin-" if is_standin(weights_root(settings)) else ""
        pipeline = open_pipeline(self, folder, settings, pick_device(settings.model.device))
        model = self.model_of(pipeline, settings, f"{mark}{self.name}-{fingerprint(files, folder)}")
        model.saes = self.saes(settings)
        return model

    def wrap(self, pipeline: Any, settings: Settings) -> Model:
        """A pipeline that is loaded already, as a model of this name with no SAEs."""
        return self.model_of(pipeline, settings, f"{GIVEN}{pipeline_fingerprint(pipeline)}")


def pipeline_fingerprint(pipeline: Any) -> str:
    """A short hash of all that a loaded pipeline generates with: weights of its parts, and how it samples."""
    import torch

    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    weights = sorted((name, weights_fingerprint(part)) for name, part in parts.items())
    sampler = {name: value for name, value in pipeline.scheduler.config.items() if not name.startswith("_")}
    facts = [weights, type(pipeline.scheduler).__name__, sorted(sampler.items())]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def part_config(folder: Path | None, part: str, published: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of a pipeline's part; as published where the folder has none that can be read."""
    try:
        found: Mapping[str, Any] = json.loads((folder / part / "config.json").read_text())  # type: ignore[operator]
    except (OSError, ValueError, TypeError):
        return published
    return found


class DiffusersModel(Model):
    """A pipeline of diffusers as a model.

    Sampling is the pipeline's own call. A prompt's text states are computed once; so is what an edited run has in
    common with the latest captured run (see :mod:`riebench.models.replay`).

    Args:
        pipeline: the loaded pipeline.
        denoiser: the network of it that holds the sites.
        entry: of the model.
        settings: whether anything is replayed.
        fingerprint: names the weights in records.
        sites: every site by name, in the order in which they run.
        paths: site to the path of its module inside the denoiser.
        before: block to the paths of the modules that have done their work when it begins, none inside another.
        size: side of the pictures, pixels.
        conditions: settings of the family that can change what is generated; type and size are added.
    """

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
    ) -> None:
        import torch

        self.pipeline, self.denoiser = pipeline, denoiser
        self.dtype: torch.dtype = denoiser.dtype  # type: ignore[assignment]
        common: dict[str, str | float] = {"dtype": str(self.dtype).removeprefix("torch."), "size": size}
        # With offloading the weights lie elsewhere than where they are used.
        device = torch.device(pipeline._execution_device)
        modules = {site: denoiser.get_submodule(path) for site, path in paths.items()}
        super().__init__(entry, fingerprint, sites, modules, device, size, {**common, **conditions})
        self.replay = settings.model.replay
        self.encode_text = lru_cache(KEPT_TEXTS)(self._encode_text)
        self._before = before
        self._canvas = entry.canvas and lru_cache(KEPT_LATENTS)(entry.canvas)
        self._recording: Recording | None = None
        self._finished: tuple[tuple[str, int, int], Tensor] | None = None
        pipeline.set_progress_bar_config(disable=True)

    @abstractmethod
    def _encode_text(self, prompt: str) -> tuple[Tensor, Tensor]:
        """Text states ``[1, tokens, width]`` and pooled text ``[1, width]`` of a prompt.

        Raises:
            PairError: if the prompt is longer than an encoder takes.
        """

    @contextmanager
    def keeping_nothing(self) -> Iterator[None]:
        """Encode each prompt whenever it is used, and replay nothing."""
        self._finished = None
        kept = self.encode_text, self.replay
        self.encode_text, self.replay = self._encode_text, False  # type: ignore[assignment]
        try:
            yield
        finally:
            self.encode_text, self.replay = kept

    def tokens(self, tokenizer: Any, prompt: str, most: int) -> Tensor:
        """A prompt's tokens ``[1, tokens]``, padded to the most that its encoder takes.

        Raises:
            PairError: if there are more.
        """
        tokens: Tensor = tokenizer(
            prompt, padding="max_length", max_length=most, return_tensors="pt", verbose=False
        ).input_ids
        if tokens.shape[1] > most:
            wrong = f"{tokens.shape[1]} tokens, the text encoder takes {most}"
            raise PairError(f"the prompt {prompt[:40]!r}... has {wrong}; shorten it", where="text")
        return tokens.to(self.device)

    def drawn_latents(
        self, seeds: Sequence[int], generators: Sequence[torch.Generator], channels: int, side: int
    ) -> Tensor:
        """Initial latents ``[rows, channels, side, side]`` in float32, so that a seed means one picture in any type."""
        import numpy as np
        import torch

        if self._canvas is not None:
            return torch.from_numpy(np.stack([self._canvas(seed) for seed in seeds]))
        return torch.cat([torch.randn((1, channels, side, side), generator=generator) for generator in generators])

    def first_step(self, batch: Batch, halves: int = 1) -> AbstractContextManager[Any]:
        """Keep what the last row of a captured run computes before its blocks, or let edits start from that.

        The last row, because it is in the last batch, however small batches are.

        Args:
            batch: what is generated inside the ``with`` statement.
            halves: 2 if it has an unconditional half.
        """
        from riebench.models.replay import Recording, recording, replaying

        if not self.replay:
            return nullcontext()
        rows = len(batch.prompts)
        starts = [(prompt, seed, batch.steps) for prompt, seed in zip(batch.prompts, batch.seeds, strict=True)]
        touched = {site.partition("/")[0] for edit in batch.edits for site in edit.changes}
        touched |= {site.partition("/")[0] for site in batch.capture}
        before = [self._before[block] for block in self.sites if block in touched]
        if before and not batch.edits:
            paths = list(dict.fromkeys(path for each in before for path in each))
            self._recording = Recording(starts[-1], paths)
            return recording(self.denoiser, self._recording, [half * rows + rows - 1 for half in range(halves)])
        kept = self._recording
        if kept is None or not before or set(starts) != {kept.start}:
            return nullcontext()
        # A recording may be of other blocks, or of a run that broke off.
        complete = kept.outputs.keys() >= set(before[0])
        return replaying(self.denoiser, kept, before[0], rows) if complete else nullcontext()

    def finished(self, prompt: str, seed: int, steps: int) -> Tensor:
        """Finished latents ``[1, ...]`` as the pipeline has them; kept of the latest such run."""
        run = (prompt, seed, steps)
        if self._finished is None or self._finished[0] != run:
            found: list[Tensor] = []
            self.sample(Batch([prompt], [seed], steps, finished=found))
            self._finished = run, found[0]
        return self._finished[1]

    def after_step(self, batch: Batch, generators: list[torch.Generator]) -> Callable[..., dict[str, Tensor]] | None:
        """The pipeline's callback, which puts in the latents that a batch begins with, or hands out finished ones.

        Args:
            batch: what is generated.
            generators: of its rows, from which the noise is drawn.
        """
        if batch.begin is None and batch.finished is None:
            return None
        from diffusers.utils.torch_utils import randn_tensor

        def after(pipeline: Any, step: int, time: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            latents, scheduler = tensors["latents"], pipeline.scheduler
            if batch.finished is not None and step + 1 == batch.steps:
                batch.finished.append(latents)
            if batch.begin is not None and step + 1 == batch.begin[1]:
                noise = randn_tensor(latents.shape, generators, latents.device, latents.dtype)
                times = scheduler.timesteps[step + 1].expand(len(latents))
                start = batch.begin[0].to(latents.dtype)
                # Flow matching has a name of its own for it.
                if hasattr(scheduler, "scale_noise"):
                    return {"latents": scheduler.scale_noise(start, times, noise)}
                return {"latents": scheduler.add_noise(start, noise, times)}
            return {}

        return after


def open_pipeline(entry: DiffusersEntry, folder: Path, settings: Settings, device: torch.device) -> Any:
    """A pipeline on its device, from safetensors alone.

    Half-precision files (``.fp16.safetensors``) are taken where the denoiser has no others.

    Args:
        entry: of the model.
        folder: where it lies.
        settings: type of the weights and offloading.
        device: where it is to compute.

    Raises:
        UserError: if the folder cannot be read, or offloading is asked for without a GPU.
    """
    import torch

    chosen = settings.model
    if chosen.offload != "none" and device.type == "cpu":
        raise UserError(f"offload={chosen.offload} needs a GPU to load weights onto; leave it out on the CPU")
    files = [path.name for path in (folder / entry.denoiser).glob("*.safetensors")]
    try:
        pipeline = pipeline_on(entry, device).from_pretrained(
            folder,
            dtype=getattr(torch, chosen.dtype),
            variant="fp16" if files and all(".fp16" in name for name in files) else None,
            use_safetensors=True,
            local_files_only=True,
            **entry.loading,
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"the pipeline in {folder} cannot be loaded: {reason}") from None
    return prepared(pipeline, chosen.offload, device)


def pipeline_on(entry: DiffusersEntry, device: torch.device) -> Any:
    """The class of an entry's pipeline, quiet and for a device."""
    import diffusers
    import diffusers.utils.logging
    import transformers.utils.logging

    # Bars of the loaders would cover up the run's own.
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    # In float16 SDXL's pipeline casts its autoencoder at every call, and warns of it each time.
    logging.getLogger("diffusers.models.modeling_utils").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "`upcast_vae`", FutureWarning)
    # Else diffusers looks for the device in every module, several times a call.
    return type("OnDevice", (getattr(diffusers, entry.pipeline_class),), {"_execution_device": device})


def prepared(pipeline: Any, offload: str, device: torch.device) -> Any:
    """A pipeline ready to be sampled from: without gradients, decoding one picture at a time, its weights in place.

    Args:
        pipeline: is changed in place.
        offload: see :class:`riebench.settings.settings.ModelSettings`.
        device: where it is to compute.
    """
    import torch

    pipeline.vae.enable_slicing()  # decoding a batch at once takes more memory than all the rest
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    if offload == "none":
        pipeline.to(device, silence_dtype_warnings=True)
    elif offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.enable_sequential_cpu_offload(device=device)
    return pipeline
