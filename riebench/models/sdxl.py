"""The family of SDXL: SDXL Turbo, SDXL base and models of the same layout. Importing it needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import lcm
from pathlib import Path
from typing import TYPE_CHECKING, Any

from riebench.models.diffusers_entry import PUBLISHED_VAE, DiffusersEntry, Text, levels_factor
from riebench.models.diffusers_model import DiffusersModel
from riebench.models.model import TEXT, Model
from riebench.models.sites import ATTENTION, CROSS, MLP, MLP_INPUT, NEURONS, OUTPUT, Site, block_of, block_sites
from riebench.sae.folders import find_saes, folder_names
from riebench.settings.settings import SaeSettings, Settings
from riebench.util.errors import UserError
from riebench.weights import HubFiles, Part, find_part, hub_snapshot, weights_root
from riebench.weights.parts import INSTRUMENTS

if TYPE_CHECKING:
    from torch import Tensor, nn

PUBLISHED_FOLDERS = {
    "down.2.1": "unet.down_blocks.2.attentions.1",
    "mid.0": "unet.mid_block.attentions.0",
    "up.0.0": "unet.up_blocks.0.attentions.0",
    "up.0.1": "unet.up_blocks.0.attentions.1",
}
"""Block to the folder of its published SAE, without the suffix that names the training's settings."""
FOUR = tuple(PUBLISHED_FOLDERS)
"""The four blocks of the published work, in the order in which they run (PROTOCOL.md, Blocks)."""
PAPER_FEATURES = len(FOUR) * 5120
"""Number of SAE features that the published k's choose from."""
PAPER_NEURONS = len(FOUR) * 10 * 5120
"""Number of neurons that the published k's choose from: ten layers of each of the four blocks."""
PUBLISHED_UNET: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": [320, 640, 1280],
    "layers_per_block": 2,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
}
"""The part of SDXL Turbo's U-Net configuration that sites depend on, for use without weights."""
MIDDLE = "UNetMidBlock2DCrossAttn"
"""The kind of a middle stage with a block that has sites; pruned U-Nets have none."""
GEGLU = 4  # a layer's neurons for each of its channels
PARTS = {
    f"/{ATTENTION}.": "attn1",
    f"/{CROSS}.": "attn2",
    f"/{MLP_INPUT}.": "ff",
    NEURONS: "ff.net.0",
    f"/{MLP}.": "ff",
}
"""What the names of a layer's sites have before its number, to the module inside the layer, as they run."""
PIPELINE_UNIT = 8
"""Diffusers' pipeline takes picture sizes that are multiples of this number of pixels."""
SAE_SUFFIX = "_k160_hidden5120_auxk256_bs4096_lr0.0001"
"""The suffix of RIEBench's choice among the published SAEs: k 160, 5120 features."""
PIPELINE_FILES = (
    "model_index.json",
    "scheduler/*.json",
    *(f"tokenizer{n}/*" for n in ("", "_2")),
    *(f"{part}/config.json" for part in ("text_encoder", "text_encoder_2", "unet", "vae")),
    *(f"{part}/model.safetensors" for part in ("text_encoder", "text_encoder_2")),
    *(f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae")),
)


TWO_CLIPS = Text(
    ("prompt_embeds", "", "pooled_prompt_embeds"),
    {"do_classifier_free_guidance": False},
    {TEXT: "text_encoder", "second text encoder": "text_encoder_2"},
    {"tokenizer": None, "tokenizer_2": None},
)


def module_path(block: str) -> str:
    """The path of a block in the U-Net: of ``down.2.1`` ``down_blocks.2.attentions.1``."""
    stage, *numbers = block.split(".")
    return f"mid_block.attentions.{numbers[0]}" if stage == "mid" else f"{stage}_blocks.{'.attentions.'.join(numbers)}"


def site_path(site: str) -> str:
    """The path of the module in the U-Net that puts out a site's values."""
    block, _, layer = site.partition("/")
    for part, inner in PARTS.items():
        if part in site:
            return f"{module_path(block)}.transformer_blocks.{layer.rpartition('.')[2]}.{inner}"
    return module_path(block)


def sites_of(unet: Mapping[str, Any], side: int) -> dict[str, Site]:
    """The sites of a U-Net in the order in which they run: of each block those of its layers, its update, its output.

    Args:
        unet: the U-Net's configuration.
        side: of the latents, cells.
    """
    widths, each = list(unet["block_out_channels"]), unet["layers_per_block"]
    depths = unet.get("transformer_layers_per_block", 1)
    depths = [depths] * len(widths) if isinstance(depths, int) else list(depths)
    upwards = unet.get("reverse_transformer_layers_per_block") or depths[::-1]
    last = len(widths) - 1
    stages = [
        (f"down.{i}", i, each, depths[i]) for i, kind in enumerate(unet["down_block_types"]) if "CrossAttn" in kind
    ]
    stages += [("mid", last, 1, depths[last])] * (dict(unet).get("mid_block_type", MIDDLE) == MIDDLE)
    ups = [i for i, kind in enumerate(unet["up_block_types"]) if "CrossAttn" in kind]
    stages += [(f"up.{i}", last - i, each + 1, upwards[i]) for i in ups]
    sites = {}
    for stage, level, count, depth in stages:
        cells = side
        for _ in range(level):  # a strided convolution with padding rounds up
            cells = -(-cells // 2)
        for number in range(count):
            block = f"{stage}.{number}"
            for layer in range(depth if isinstance(depth, int) else depth[number]):  # a pruned U-Net's differ
                for part in PARTS:
                    width = (GEGLU if part == NEURONS else 1) * widths[level]
                    sites[f"{block}{part}{layer}"] = Site(width, (cells, cells))
            sites |= dict.fromkeys((block, f"{block}{OUTPUT}"), Site(widths[level], (cells, cells)))
    return sites


@dataclass(frozen=True)
class SDXLEntry(DiffusersEntry):
    """A model of SDXL's shape by name."""

    default_sites: tuple[str, ...] = FOUR
    pipeline_class: str = "StableDiffusionXLPipeline"
    denoiser: str = "unet"
    published: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {"unet": PUBLISHED_UNET, "vae": PUBLISHED_VAE}
    )
    loading: Mapping[str, Any] = field(default_factory=lambda: {"add_watermarker": False})
    text: Text = TWO_CLIPS
    pipeline_parameters: float = 3.47e9  # U-Net 2.57, text encoders 0.82, VAE 0.08
    row_bytes: float = 0.9e9  # at 512 px

    def check_settings(self, settings: Settings) -> None:
        """Refuse settings of the unconditional half if the guidance is 1 or less.

        Raises:
            UserError: if there are such settings.
        """
        chosen, guidance = settings.model, self.scale(settings)
        needing = {
            "a negative prompt": chosen.negative_prompt is not None,
            "the setting model.unconditional=subtract": chosen.unconditional == "subtract",
        }
        for what, is_set in needing.items():
            if is_set and guidance <= 1:
                hint = f"and the guidance is {guidance:g}; give --set model.guidance=NUMBER"
                raise UserError(f"{what} needs a guidance above 1, {hint}")

    def sites_for(self, configs: Mapping[str, Mapping[str, Any]], size: int | None) -> Mapping[str, Site]:
        """See :class:`DiffusersEntry`."""
        unet, factor = configs["unet"], levels_factor(configs["vae"])
        return sites_of(unet, side_of(size, unet["sample_size"] * factor, factor) // factor)

    def size_text(self) -> str:
        """See :class:`DiffusersEntry`."""
        configs = self.configs(self.own_pipeline)
        factor = levels_factor(configs["vae"])
        return f"{factor * configs['unet']['sample_size']}; multiples of {lcm(factor, PIPELINE_UNIT)}"

    def saes(self, settings: Settings) -> Mapping[str, Path]:
        """The SAEs in ``sae.folder``, else the published ones with RIEBench's k and number of features."""
        chosen = settings.sae
        root = find_part(PUBLISHED_SAES, weights_root(settings)).path
        if chosen.folder is not None:
            root = Path(chosen.folder) if Path(chosen.folder).is_dir() else hub_snapshot(chosen.folder, None)
        if root is None:
            return {}
        if chosen == SaeSettings():
            return {block: root / f"{name}{SAE_SUFFIX}" / "final" for block, name in PUBLISHED_FOLDERS.items()}
        paths = {site: site_path(site) for site in self.sites(settings)}
        names = {site: folder_names(site, path, f"unet.{path}") for site, path in paths.items()}
        return find_saes(root, names, chosen)

    def model_of(self, pipeline: Any, settings: Settings, fingerprint: str) -> Model:
        """See :class:`DiffusersEntry`."""
        return SDXL(pipeline, self, settings, fingerprint)


def side_of(size: int | None, own: int, factor: int) -> int:
    """The side of the pictures, pixels.

    Args:
        size: the chosen one, pixels.
        own: the model's, pixels.
        factor: pixels on each side of a latent cell.

    Raises:
        UserError: if the pipeline takes no such size.
    """
    side, unit = size or own, lcm(factor, PIPELINE_UNIT)
    if side % unit:
        raise UserError(f"the picture size is {side}; expected a multiple of {unit} (the model's own: {own})")
    return side


def modules_before(unet: nn.Module, block: str) -> list[str]:
    """Paths of the modules that run before a block: the stages before its own, then ResNets and blocks of its stage."""
    stage, _, number = block.partition(".attentions.")
    stages = [f"down_blocks.{i}" for i in range(len(unet.down_blocks))]  # type: ignore[arg-type]
    stages += ["mid_block"] if unet.mid_block is not None else []
    stages += [f"up_blocks.{i}" for i in range(len(unet.up_blocks))]  # type: ignore[arg-type]
    within = [f"{stage}.resnets.{i}" for i in range(int(number) + 1)]
    within += [f"{stage}.attentions.{i}" for i in range(int(number))]
    return ["conv_in", *stages[: stages.index(stage)], *within]


class SDXL(DiffusersModel):
    """A pipeline of SDXL's shape.

    Args:
        pipeline: a loaded ``StableDiffusionXLPipeline``.
        entry: of the model.
        settings: with size, guidance, negative prompt, and the effect of an edit on the unconditional half.
        fingerprint: see :class:`Model`.

    Raises:
        UserError: if the size does not fit the model, or a setting is of an unconditional half that it lacks.
    """

    def __init__(self, pipeline: Any, entry: SDXLEntry, settings: Settings, fingerprint: str) -> None:
        chosen, config, factor = settings.model, pipeline.unet.config, pipeline.vae_scale_factor
        size = side_of(chosen.size, config.sample_size * factor, factor)
        self.guidance = entry.scale(settings)
        negative, unconditional = chosen.negative_prompt, chosen.unconditional
        halves = {"negative_prompt": negative is not None, "unconditional": unconditional == "subtract"}
        for name, is_set in halves.items():
            if is_set and config.time_cond_proj_dim is not None:
                wrong = "the U-Net takes the guidance as a number (time_cond_proj_dim), without an unconditional half"
                raise UserError(f"{wrong}; leave out the setting model.{name}")
        conditions: dict[str, str | float] = {"guidance": self.guidance, "unconditional": unconditional}
        if negative is not None:
            conditions["negative_prompt"] = negative
        sites = sites_of(config, size // factor)
        paths, unet = {site: site_path(site) for site in sites}, pipeline.unet
        before = {block: modules_before(unet, paths[block]) for block in block_sites(sites)}
        call = {"guidance_scale": self.guidance}
        super().__init__(pipeline, unet, entry, settings, fingerprint, sites, paths, before, size, conditions, call)
        # Diffusers' rule for an unconditional half in each batch; some U-Nets take the guidance as a number.
        self.guided = self.guidance > 1 and config.time_cond_proj_dim is None

    def is_input(self, site: str) -> bool:
        """See :class:`Model`."""
        return f"/{MLP_INPUT}." in site

    def read(self, site: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Tensor:
        """Output minus input of a block, in float32, or other values in the model's type; of the conditional half."""
        value = self.conditional(output[0] if isinstance(output, tuple) else output)
        if site == block_of(site):
            value = value.float() - self.conditional(args[0]).float()
        return value.flatten(2).transpose(1, 2) if value.ndim == 4 else value

    def add(self, site: str, output: Any, delta: Tensor) -> Any:
        """Add to the conditional half; take away from the unconditional one where that is set."""
        alone = not isinstance(output, tuple)
        value = output if alone else output[0]
        if value.ndim == 4:
            delta = delta.transpose(1, 2).unflatten(2, self.sites[site].grid)
        delta, changed = delta.to(value.dtype), value.clone()
        self.conditional(changed).add_(delta)
        if (other := self.unconditional_half(changed)) is not None:
            other.sub_(delta)
        return changed if alone else (changed, *output[1:])

    def unconditional_text(self) -> dict[str, Any]:
        """See :class:`DiffusersModel`; zeros without a negative prompt, if the pipeline is configured so."""
        text = super().unconditional_text()
        configured = getattr(self.pipeline.config, "force_zeros_for_empty_prompt", False)
        zeros = self.negative is None and configured
        return {name: value * 0 for name, value in text.items()} if zeros else text


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
_SAE_FOLDERS = tuple(f"{name}{SAE_SUFFIX}/final" for name in PUBLISHED_FOLDERS.values())
PUBLISHED_SAES = Part(
    "sae",
    "sdxl-turbo-saes",
    _SAE_FOLDERS,
    HubFiles("wendlerc/sdxl-turbo-saes", "main", tuple(f"{folder}/*" for folder in _SAE_FOLDERS)),
    210_000_000,
    ("torch",),
)
TURBO = SDXLEntry("sdxl-turbo", steps=4, standin="sdxl", parts=(_PARTS["sdxl-turbo"], PUBLISHED_SAES, *INSTRUMENTS))
# The paper does not state steps and guidance of the multi-step model; these are usual ones.
_BASE_PARTS = (_PARTS["sdxl-base"], PUBLISHED_SAES, *INSTRUMENTS)
_BASE = {"unet": PUBLISHED_UNET | {"sample_size": 128}, "vae": PUBLISHED_VAE}
BASE = SDXLEntry("sdxl-base", steps=25, guidance=5.0, standin="sdxl", parts=_BASE_PARTS, published=_BASE)
