"""The family of SDXL: SDXL Turbo, SDXL base and their like. Importing it needs no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import lru_cache
from math import lcm
from pathlib import Path
from typing import TYPE_CHECKING, Any

from riebench.models.entries import ModelEntry
from riebench.models.model import GIVEN, Batch, Model, pick_device, weights_fingerprint
from riebench.models.sites import NEURONS, Site
from riebench.sae.folders import find_saes
from riebench.spec.settings import SaeSettings, Settings
from riebench.util.errors import PairError, UserError
from riebench.util.files import fingerprint
from riebench.weights import HubFiles, Part, find_part, hub_snapshot, is_standin, weights_root
from riebench.weights.parts import INSTRUMENTS

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from riebench.models.replay import Recording

FOUR = ("down.2.1", "mid.0", "up.0.0", "up.0.1")
"""The blocks that matter, in the order in which they run (PROTOCOL.md, Blocks)."""
PAPER_FEATURES = len(FOUR) * 5120
"""SAE features that the published k's were chosen from."""
PAPER_NEURONS = len(FOUR) * 10 * 5120
"""Neurons that the published k's were chosen from: ten layers of each of the four blocks."""
PUBLISHED_UNET: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": [320, 640, 1280],
    "layers_per_block": 2,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
}
"""As much of SDXL Turbo's U-Net as its sites depend on, for plans without weights."""
PUBLISHED_VAE: dict[str, Any] = {"block_out_channels": [128, 256, 512, 512]}
GEGLU = 4  # a layer's neurons for each of its channels
KEPT_TEXTS, KEPT_LATENTS = 64, 4
PIPELINE_UNIT = 8
"""Diffusers' pipeline takes sizes that are multiples of this, whatever the autoencoder's factor."""
COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
UNET_WEIGHTS = "unet/diffusion_pytorch_model{}.safetensors"
SAE_SUFFIX = "_k160_hidden5120_auxk256_bs4096_lr0.0001"
"""RIEBench's choice among the published SAEs: k 160, 5120 features."""
PIPELINE_FILES = (
    "model_index.json",
    "scheduler/*.json",
    *(f"tokenizer{n}/*" for n in ("", "_2")),
    *(f"{part}/config.json" for part in ("text_encoder", "text_encoder_2", "unet", "vae")),
    *(f"{part}/model.safetensors" for part in ("text_encoder", "text_encoder_2")),
    *(f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae")),
)


def module_path(block: str) -> str:
    """``down.2.1`` to ``down_blocks.2.attentions.1``, ``mid.0`` to ``mid_block.attentions.0``, inside the U-Net."""
    stage, *numbers = block.split(".")
    return f"mid_block.attentions.{numbers[0]}" if stage == "mid" else f"{stage}_blocks.{'.attentions.'.join(numbers)}"


def sites_of(unet: Mapping[str, Any], side: int) -> dict[str, Site]:
    """Every site of a U-Net in the order in which they run: the neurons of a block's layers, then its update.

    Args:
        unet: its configuration.
        side: of the latents.
    """
    widths, each = list(unet["block_out_channels"]), unet["layers_per_block"]
    depths = unet["transformer_layers_per_block"]
    depths = [depths] * len(widths) if isinstance(depths, int) else list(depths)
    last = len(widths) - 1
    stages = [(f"down.{i}", i, each) for i, kind in enumerate(unet["down_block_types"]) if "CrossAttn" in kind]
    stages.append(("mid", last, 1))
    stages += [(f"up.{i}", last - i, each + 1) for i, kind in enumerate(unet["up_block_types"]) if "CrossAttn" in kind]
    found = {}
    for stage, level, count in stages:
        cells = side
        for _ in range(level):  # a strided convolution with padding rounds up
            cells = -(-cells // 2)
        for block in (f"{stage}.{number}" for number in range(count)):
            for layer in range(depths[level]):
                found[f"{block}{NEURONS}{layer}"] = Site(GEGLU * widths[level], (cells, cells))
            found[block] = Site(widths[level], (cells, cells))
    return found


@dataclass(frozen=True)
class SDXLEntry(ModelEntry):
    """A model of SDXL's shape by name.

    Attributes:
        own_pipeline: folder of a pipeline that comes with a package.
        own_saes: folder with its SAEs, named for their sites.
    """

    own_pipeline: Path | None = None
    own_saes: Path | None = None
    default_sites: tuple[str, ...] = FOUR
    pipeline_class: str = "StableDiffusionXLPipeline"
    pipeline_parameters: float = 3.47e9  # U-Net 2.57, text encoders 0.82, VAE 0.08
    row_bytes: float = 0.9e9  # at 512 px

    def folder(self, settings: Settings) -> Path | None:
        """Where the pipeline is on this machine; None if it is nowhere."""
        if self.own_pipeline is not None:
            return self.own_pipeline
        location = settings.model.location
        if location is not None:
            return Path(location) if Path(location).is_dir() else hub_snapshot(location, settings.model.revision)
        return find_part(self.parts[0], weights_root(settings)).path

    def sites(self, settings: Settings) -> Mapping[str, Site]:
        """See :class:`ModelEntry`; of SDXL's published shape where there are no weights."""
        return configured_sites(self.folder(settings), settings.model.size)

    def saes(self, settings: Settings) -> Mapping[str, Path]:
        """Those of ``sae.folder``, else the model's own, else the published ones with RIEBench's k and size."""
        wanted = settings.sae
        if self.own_saes is not None and wanted.folder is None:
            return {site: self.own_saes / site for site in self.default_sites}
        root = find_part(PUBLISHED_SAES, weights_root(settings)).path
        if wanted.folder is not None:
            root = Path(wanted.folder) if Path(wanted.folder).is_dir() else hub_snapshot(wanted.folder, None)
        if root is None:
            return {}
        if wanted == SaeSettings():
            return {block: root / f"unet.{module_path(block)}{SAE_SUFFIX}" / "final" for block in FOUR}
        every = [block for block in self.sites(settings) if NEURONS not in block]
        names = {block: (block, module_path(block), f"unet.{module_path(block)}") for block in every}
        return find_saes(root, names, wanted)

    def load(self, settings: Settings) -> Model:
        """The pipeline from its folder, or from the hub's cache for a hub id."""
        folder = self.folder(settings)
        if folder is None:
            hint = f"see 'riebench doctor --model {self.name}'"
            raise UserError(f"the weights of {self.name} are not on this machine; {hint}")
        files = [f for c in COMPONENTS if (folder / c).is_dir() for f in (folder / c).rglob("*") if f.is_file()]
        mark = "standin-" if is_standin(weights_root(settings)) else ""
        pipeline = load_pipeline(folder, settings, pick_device(settings.model.device))
        model = SDXL(pipeline, self, settings, f"{mark}{self.name}-{fingerprint(files, folder)}")
        model.saes = self.saes(settings)
        return model

    def wrap(self, pipeline: Any, settings: Settings) -> Model:
        """A pipeline that is loaded already, as a model of this name with no SAEs."""
        return SDXL(pipeline, self, settings, f"{GIVEN}{pipeline_fingerprint(pipeline)}")


def pipeline_fingerprint(pipeline: Any) -> str:
    """A short hash of all that a loaded pipeline generates with: weights of its parts, and how it samples."""
    import torch

    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    weights = sorted((name, weights_fingerprint(part)) for name, part in parts.items())
    sampler = {name: value for name, value in pipeline.scheduler.config.items() if not name.startswith("_")}
    facts = [weights, type(pipeline.scheduler).__name__, sorted(sampler.items())]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def configured_sites(folder: Path | None, size: int | None) -> dict[str, Site]:
    """The sites of the pipeline in a folder, or of SDXL's published shape; for a picture size, or the model's own."""
    configs = [PUBLISHED_UNET, PUBLISHED_VAE]
    for number, part in enumerate(("unet", "vae")):
        with suppress(OSError, ValueError, TypeError):
            configs[number] = json.loads((folder / part / "config.json").read_text())  # type: ignore[operator]
    unet, vae = configs
    factor = 2 ** (len(vae["block_out_channels"]) - 1)  # pixels to each cell of the latents
    return sites_of(unet, (size or unet["sample_size"] * factor) // factor)


class SDXL(Model):
    """A pipeline of SDXL's shape.

    Sampling is the pipeline's own call. A prompt's text states are computed once; so is what an edited run has in
    common with the latest captured run (see :mod:`riebench.models.replay`).

    Args:
        pipeline: a loaded ``StableDiffusionXLPipeline``.
        entry: of the model.
        settings: size, guidance and what an edit does in the unconditional half.
        fingerprint: names the weights in records.
        latents: seed to initial latents ``[channels, height, width]`` of unit scale, for models whose canvas is not
            plain noise.

    Raises:
        UserError: if the size does not fit the model.
    """

    def __init__(
        self,
        pipeline: Any,
        entry: ModelEntry,
        settings: Settings,
        fingerprint: str,
        latents: Callable[[int], NDArray[np.float32]] | None = None,
    ) -> None:
        import torch

        chosen, config, factor = settings.model, pipeline.unet.config, pipeline.vae_scale_factor
        own = config.sample_size * factor
        size = own if chosen.size is None else chosen.size
        unit = lcm(factor, PIPELINE_UNIT)
        if size % unit:
            raise UserError(f"the picture size is {size}; expected a multiple of {unit} (the model's own: {own})")
        self.pipeline, self.dtype = pipeline, pipeline.unet.dtype
        self.guidance = entry.guidance if chosen.guidance is None else chosen.guidance
        self.guided = self.guidance > 1  # a batch then holds an unconditional half (diffusers' rule)
        self.unconditional, self.replay = chosen.unconditional, chosen.replay
        conditions = {
            "dtype": str(self.dtype).removeprefix("torch."),
            "size": size,
            "guidance": self.guidance,
            "unconditional": self.unconditional,
        }
        sites = sites_of(config, size // factor)
        paths = {site: (module_path(site.partition("/")[0]), site.partition(NEURONS)[2]) for site in sites}
        self._blocks = {site: path for site, (path, _) in paths.items()}
        self._paths = {s: f"{p}.transformer_blocks.{n}.ff.net.0" if n else p for s, (p, n) in paths.items()}
        # With offloading the weights lie elsewhere than where they are used.
        device = torch.device(pipeline._execution_device)
        super().__init__(entry, fingerprint, sites, device, size, conditions)
        self.encode_text = lru_cache(KEPT_TEXTS)(self._encode_text)
        self._canvas = latents and lru_cache(KEPT_LATENTS)(latents)
        self._recording: Recording | None = None
        pipeline.set_progress_bar_config(disable=True)

    def module(self, site: str) -> nn.Module:
        """The transformer block, or ``ff.net.0`` of one of its layers."""
        module: nn.Module = self.pipeline.unet.get_submodule(self._paths[site])
        return module

    def read(self, site: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Tensor:
        """Output minus input of a block, in float32, or neurons in the model's type; of the conditional half."""
        if NEURONS in site:
            return self._conditional(output)
        before, after = (self._conditional(value).float() for value in (args[0], output[0]))
        return (after - before).flatten(2).transpose(1, 2)

    def add(self, site: str, output: Any, delta: Tensor) -> Any:
        """Add to the conditional half; take away from the unconditional one where that is set."""
        value = output if NEURONS in site else output[0]
        if value.ndim == 4:
            delta = delta.transpose(1, 2).unflatten(2, self.sites[site].grid)
        delta, changed = delta.to(value.dtype), value.clone()
        self._conditional(changed).add_(delta)
        if self.guided and self.unconditional == "subtract":
            changed[: len(delta)] -= delta
        return changed if NEURONS in site else (changed, *output[1:])

    def _conditional(self, value: Tensor) -> Tensor:
        return value[len(value) // 2 :] if self.guided else value

    def sample(self, batch: Batch) -> NDArray[np.uint8]:
        """The pipeline's own call, from text states and latents."""
        import torch

        states, pooled = (torch.cat(part) for part in zip(*map(self.encode_text, batch.prompts), strict=True))
        no_states, no_pooled = self._no_text(len(batch.prompts)) if self.guided else (None, None)
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in batch.seeds]
        latents = self._latents(batch.seeds, generators)
        with self._first_step(batch):
            pixels = self.pipeline(
                prompt_embeds=states,
                pooled_prompt_embeds=pooled,
                negative_prompt_embeds=no_states,
                negative_pooled_prompt_embeds=no_pooled,
                latents=latents,
                generator=generators,
                num_inference_steps=batch.steps,
                guidance_scale=self.guidance,
                height=self.size,
                width=self.size,
                output_type="pt",
            ).images
        if not bool(pixels.isfinite().all()):
            raise PairError("the picture has values that are not finite", where="model")
        picture: NDArray[np.uint8] = pixels.float().mul_(255).round_().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return picture

    def _encode_text(self, prompt: str) -> tuple[Tensor, Tensor]:
        """Text states ``[1, tokens, width]`` and pooled text ``[1, width]`` of a prompt.

        Raises:
            PairError: if the prompt is longer than an encoder takes.
        """
        import torch

        pipeline = self.pipeline
        both = (pipeline.tokenizer, pipeline.text_encoder), (pipeline.tokenizer_2, pipeline.text_encoder_2)
        found = [encoder(self._tokens(tokenizer, prompt), output_hidden_states=True) for tokenizer, encoder in both]
        return torch.cat([output.hidden_states[-2] for output in found], -1), found[1].text_embeds

    def _tokens(self, tokenizer: Any, prompt: str) -> Tensor:
        """A prompt's tokens ``[1, tokens]``, padded to what the encoder takes."""
        most = tokenizer.model_max_length
        tokens: Tensor = tokenizer(prompt, padding="max_length", return_tensors="pt", verbose=False).input_ids
        if tokens.shape[1] > most:
            wrong = f"{tokens.shape[1]} tokens, the text encoder takes {most}"
            raise PairError(f"the prompt {prompt[:40]!r}... has {wrong}; shorten it", where="text")
        return tokens.to(self.device)

    def _no_text(self, rows: int) -> tuple[Tensor, Tensor]:
        """What stands for the prompt in the unconditional half, as the pipeline itself chooses it."""
        states, pooled = self.encode_text("")
        if self.pipeline.config.force_zeros_for_empty_prompt:
            states, pooled = states * 0, pooled * 0
        return states.expand(rows, -1, -1), pooled.expand(rows, -1)

    def _latents(self, seeds: Any, generators: list[torch.Generator]) -> Tensor:
        import numpy as np
        import torch

        if self._canvas is not None:
            drawn = torch.from_numpy(np.stack([self._canvas(seed) for seed in seeds]))
        else:
            # Drawn in float32 whatever the model's type, so that a seed means the same picture in each.
            side = self.size // self.pipeline.vae_scale_factor
            shape = (1, self.pipeline.unet.config.in_channels, side, side)
            drawn = torch.cat([torch.randn(shape, generator=generator) for generator in generators])
        return drawn.to(self.device, self.dtype)

    def _first_step(self, batch: Batch) -> AbstractContextManager[Any]:
        """Keep what the last row of a captured run computes before its blocks, or let edits start from that.

        The last row, because it is in the last batch, however small batches are.
        """
        from riebench.models.replay import Recording, modules_before, recording, replaying

        if not self.replay:
            return nullcontext()
        unet, rows = self.pipeline.unet, len(batch.prompts)
        starts = [(prompt, seed, batch.steps) for prompt, seed in zip(batch.prompts, batch.seeds, strict=True)]
        touched = {site for edit in batch.edits for site in edit.changes}.union(batch.capture)
        blocks = list(dict.fromkeys(self._blocks[site] for site in self.sites if site in touched))
        if blocks and not batch.edits:
            self._recording = Recording(starts[-1], blocks)
            return recording(unet, self._recording, [rows - 1, 2 * rows - 1] if self.guided else [rows - 1])
        kept = self._recording
        if kept is None or not blocks or set(starts) != {kept.start}:
            return nullcontext()
        # A recording may be of other blocks, or of a run that broke off.
        complete = kept.outputs.keys() >= set(modules_before(unet, blocks[0]))
        return replaying(unet, kept, blocks[0], rows) if complete else nullcontext()


def load_pipeline(folder: Path, settings: Settings, device: torch.device) -> Any:
    """A ``StableDiffusionXLPipeline`` on its device, from safetensors alone.

    Half-precision files (``.fp16.safetensors``) are taken where there are no others.

    Raises:
        UserError: if the folder cannot be read, or offloading is asked for without a GPU.
    """
    import diffusers.utils.logging
    import torch
    import transformers.utils.logging
    from diffusers import StableDiffusionXLPipeline

    # Bars of the loaders would cover up the run's own.
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    chosen = settings.model
    dtype = getattr(torch, chosen.dtype)
    if chosen.offload != "none" and device.type == "cpu":
        raise UserError(f"offload={chosen.offload} needs a GPU to load weights onto; leave it out on the CPU")

    class OnDevice(StableDiffusionXLPipeline):
        _execution_device = device  # else diffusers looks for it in every module, several times a call

    half_only = not (folder / UNET_WEIGHTS.format("")).exists() and (folder / UNET_WEIGHTS.format(".fp16")).exists()
    try:
        pipeline = OnDevice.from_pretrained(
            folder,
            dtype=dtype,
            variant="fp16" if half_only else None,
            use_safetensors=True,
            local_files_only=True,
            add_watermarker=False,
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"the pipeline in {folder} cannot be loaded: {reason}") from None
    pipeline.vae.enable_slicing()  # decoding a batch at once takes more memory than all the rest
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
        part.eval().requires_grad_(False)
    if chosen.offload == "none":
        pipeline.to(device)
    elif chosen.offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.enable_sequential_cpu_offload(device=device)
    return pipeline


_NEEDS = ("model_index.json", "unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "scheduler")
_PIPELINES = {
    "sdxl-turbo": HubFiles("stabilityai/sdxl-turbo", "71153311d3dbb46851df1931d3ca6e939de83304", PIPELINE_FILES),
    "sdxl-base": HubFiles(
        "stabilityai/stable-diffusion-xl-base-1.0", "462165984030d82259a11f4367a4eed129e94a7b", PIPELINE_FILES
    ),
}
_PARTS = {
    name: Part("model", name, _NEEDS, location, int(13.9e9), ("diffusers", "transformers"))
    for name, location in _PIPELINES.items()
}
_SAE_FOLDERS = tuple(f"unet.{module_path(block)}{SAE_SUFFIX}/final" for block in FOUR)
PUBLISHED_SAES = Part(
    "sae",
    "sdxl-turbo-saes",
    _SAE_FOLDERS,
    HubFiles("wendlerc/sdxl-turbo-saes", "main", tuple(f"{folder}/*" for folder in _SAE_FOLDERS)),
    210_000_000,
    ("torch",),
)
TURBO = SDXLEntry("sdxl-turbo", steps=4, parts=(_PARTS["sdxl-turbo"], PUBLISHED_SAES, *INSTRUMENTS))
# The paper leaves steps and guidance of the multi-step model open; these are usual ones.
BASE = SDXLEntry("sdxl-base", steps=25, guidance=5.0, parts=(_PARTS["sdxl-base"], PUBLISHED_SAES, *INSTRUMENTS))
