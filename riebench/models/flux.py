"""The family of FLUX.1-schnell: a transformer whose positions are tokens. Importing it needs no torch.

A double block has separate streams of text and picture; a single block joins them, text first. The values of a site are
of the picture's tokens alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from riebench.models.diffusers_entry import PUBLISHED_VAE, DiffusersEntry
from riebench.models.diffusers_model import DiffusersModel
from riebench.models.model import DECODER, DENOISER, TEXT, Model
from riebench.models.sites import NEURONS, Site
from riebench.sae.folders import find_saes
from riebench.settings.settings import Settings
from riebench.util.errors import UserError
from riebench.weights import HubFiles, Part, hub_snapshot
from riebench.weights.parts import INSTRUMENTS

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PUBLISHED_TRANSFORMER: dict[str, Any] = {
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "guidance_embeds": False,
}
"""The part of the published transformer's configuration that sites depend on, for use without weights."""
PACKED = 2  # cells of the latents on each side of a token
MLP = 4  # a block's neurons for each of its channels
TEXT_TOKENS = 256
"""Number of T5's tokens, with padding; fewer if the tokenizer takes fewer."""
MODULES = {"double": ("transformer_blocks", "ff.net.0"), "single": ("single_transformer_blocks", "act_mlp")}
"""Kind of block to its list in the transformer, and to the path of its neurons' module inside a block."""


def module_in_transformer(site: str) -> str:
    """The path of a site's module in the transformer: ``double.18`` is ``transformer_blocks.18``."""
    block, _, neurons = site.partition(NEURONS)
    kind, _, number = block.partition(".")
    blocks, inside = MODULES[kind]
    return f"{blocks}.{number}.{inside}" if neurons else f"{blocks}.{number}"


def sites_of_transformer(transformer: Mapping[str, Any], vae: Mapping[str, Any], size: int) -> dict[str, Site]:
    """The sites of a transformer in the order in which they run: of each block its neurons, then its update.

    Args:
        transformer: the transformer's configuration.
        vae: the autoencoder's configuration.
        size: side of the pictures, pixels.

    Raises:
        UserError: if the size does not fit the model, or the transformer takes a guidance scale.
    """
    if transformer["guidance_embeds"]:
        raise UserError(
            "the transformer takes a guidance scale, as FLUX.1-dev does; give a model of FLUX.1-schnell's kind"
        )
    unit = PACKED * 2 ** (len(vae["block_out_channels"]) - 1)
    if size % unit:
        raise UserError(f"the picture size is {size}; expected a multiple of {unit}")
    width, grid = transformer["attention_head_dim"] * transformer["num_attention_heads"], (size // unit, size // unit)
    counts = {"double": transformer["num_layers"], "single": transformer["num_single_layers"]}
    sites = {}
    for block in [f"{kind}.{number}" for kind, count in counts.items() for number in range(count)]:
        sites[f"{block}{NEURONS}0"] = Site(MLP * width, grid)
        sites[block] = Site(width, grid)
    return sites


@dataclass(frozen=True)
class FluxEntry(DiffusersEntry):
    """A model of FLUX.1-schnell's shape by name.

    Attributes:
        size: default side of the pictures, pixels; the configurations name none.
    """

    size: int = 512  # RIEBench's
    default_sites: tuple[str, ...] = ("double.18",)  # where the paper has its SAE
    steps: int = 4
    pipeline_class: str = "FluxPipeline"
    denoiser: ClassVar[str] = "transformer"
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {"transformer": PUBLISHED_TRANSFORMER, "vae": PUBLISHED_VAE}
    pipeline_parameters: float = 16.86e9  # transformer 11.89, T5 4.76, CLIP 0.12, VAE 0.08
    row_bytes: float = 0.4e9  # at 512 px, as measured on the CPU with published widths

    def check_settings(self, settings: Settings) -> None:
        """Refuse settings of guidance.

        Raises:
            UserError: if there are such settings.
        """
        chosen = settings.model.model_dump(exclude_defaults=True)
        for name in ("guidance", "negative_prompt", "unconditional"):
            if name in chosen:
                raise UserError(f"{self.name} is not guided and has no setting model.{name}; leave it out")

    def sites_for(self, configs: Mapping[str, Mapping[str, Any]], size: int | None) -> Mapping[str, Site]:
        """See :class:`DiffusersEntry`.

        Raises:
            UserError: see :func:`sites_of_transformer`.
        """
        return sites_of_transformer(configs["transformer"], configs["vae"], size or self.size)

    def saes(self, settings: Settings) -> Mapping[str, Path]:
        """The SAEs in ``sae.folder``, in folders that are named after sites or modules; empty without that setting."""
        folder = settings.sae.folder
        if folder is None:
            return {}
        blocks = [site for site in self.sites(settings) if NEURONS not in site]
        names = {block: (block, module_in_transformer(block)) for block in blocks}
        return find_saes(Path(folder) if Path(folder).is_dir() else hub_snapshot(folder, None), names, settings.sae)

    def model_of(self, pipeline: Any, settings: Settings, fingerprint: str) -> Model:
        """See :class:`DiffusersEntry`."""
        return Flux(pipeline, self, settings, fingerprint)


class Flux(DiffusersModel):
    """A pipeline of FLUX.1-schnell's shape.

    Args:
        pipeline: a loaded ``FluxPipeline``.
        entry: of the model.
        settings: with size and replay.
        fingerprint: see :class:`Model`.

    Raises:
        UserError: see :func:`sites_of_transformer`.
    """

    packing: ClassVar[int] = PACKED

    def __init__(self, pipeline: Any, entry: FluxEntry, settings: Settings, fingerprint: str) -> None:
        size = settings.model.size or entry.size
        sites = sites_of_transformer(pipeline.transformer.config, pipeline.vae.config, size)
        paths = {site: module_in_transformer(site) for site in sites}
        self.text_tokens = min(TEXT_TOKENS, pipeline.tokenizer_2.model_max_length)
        blocks = [site for site in sites if NEURONS not in site]
        before = {block: [paths[earlier] for earlier in blocks[:number]] for number, block in enumerate(blocks)}
        denoiser = pipeline.transformer
        call = {"guidance_scale": 0.0, "max_sequence_length": self.text_tokens}
        super().__init__(pipeline, denoiser, entry, settings, fingerprint, sites, paths, before, size, {}, call)

    def networks(self) -> Mapping[str, tuple[Any, str]]:
        """See :class:`Model`."""
        pipeline = self.pipeline
        return {
            DENOISER: (pipeline.transformer, "forward"),
            DECODER: (pipeline.vae, "decode"),
            TEXT: (pipeline.text_encoder_2, "forward"),
            "pooled text encoder": (pipeline.text_encoder, "forward"),
        }

    def read(self, site: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Tensor:
        """Output minus input of a block in float32, or neurons in the model's type; of the picture's tokens."""
        if NEURONS in site:
            values: Tensor = output[:, -self.sites[site].positions :]
            return values
        before, after = kwargs["hidden_states"], output[1]
        return after.float() - before.float()

    def add(self, site: str, output: Any, delta: Tensor) -> Any:
        """Add to the picture's tokens, which come last where text and picture are joined."""
        if NEURONS not in site:
            text, picture = output
            return text, picture + delta.to(picture.dtype)
        changed = output.clone()
        changed[:, -self.sites[site].positions :] += delta.to(output.dtype)
        return changed

    def packed(self, latents: Tensor) -> Tensor:
        """Tokens ``[rows, positions, channels * 4]``: each holds two by two cells of the latents."""
        tokens: Tensor = self.pipeline._pack_latents(latents, *latents.shape)
        return tokens

    def set_timesteps(self, scheduler: Any, steps: int, device: torch.device) -> None:
        """See :class:`DiffusersModel`; the pipeline's sigmas, with the shift that belongs to the size."""
        import numpy as np
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift, retrieve_timesteps

        config, positions = scheduler.config, next(iter(self.sites.values())).positions
        usual = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}
        shift = calculate_shift(positions, *(config.get(name, value) for name, value in usual.items()))
        sigmas: Any = None if config.get("use_flow_sigmas") else np.linspace(1.0, 1 / steps, steps)
        retrieve_timesteps(scheduler, steps, device, sigmas=sigmas, mu=shift)

    def _encode_text(self, prompt: str) -> tuple[Tensor, Tensor]:
        """See :class:`DiffusersModel`: T5's states, and CLIP's pooled vector of the first tokens that CLIP takes."""
        self.check_length(self.pipeline.tokenizer_2, prompt, self.text_tokens)
        states, pooled, _ = self.pipeline.encode_prompt(
            prompt, None, device=self.device, max_sequence_length=self.text_tokens
        )
        return states.to(self.dtype), pooled.to(self.dtype)


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
SCHNELL = FluxEntry(
    "flux-schnell",
    standin="flux",
    parts=(
        Part(
            "model",
            "flux-schnell",
            _NEEDS,
            HubFiles("black-forest-labs/FLUX.1-schnell", "main", _FILES, gated=True),
            int(33.7e9),  # 16.86 G weights of two bytes
            ("diffusers", "transformers"),
        ),
        *INSTRUMENTS,
    ),
)
