"""Stable Diffusion 1 and 2, LCM and Kolors: SDXL's code, one text encoder. Importing it needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from riebench.models.component_config import json_object
from riebench.models.diffusers_entry import PUBLISHED_VAE, Text, hub
from riebench.models.sdxl import FOUR, SDXLEntry
from riebench.models.sdxl import PUBLISHED_UNET as SDXL_UNET
from riebench.settings.settings import Settings
from riebench.util.errors import UserError

PUBLISHED_UNET: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
"""The part of the published U-Net's configuration that sites depend on, for use without weights."""


ONE_CLIP = Text(("prompt_embeds",), {"num_images_per_prompt": 1, "do_classifier_free_guidance": False})


@dataclass(frozen=True)
class SDEntry(SDXLEntry):
    """A model of Stable Diffusion's shape by name; its safety checker, which blackens pictures, is not loaded."""

    default_sites: tuple[str, ...] = ("mid.0",)
    pipeline_class: str = "StableDiffusionPipeline"
    published: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {"unet": PUBLISHED_UNET, "vae": PUBLISHED_VAE}
    )
    loading: Mapping[str, Any] = field(
        default_factory=lambda: {"safety_checker": None, "requires_safety_checker": False}
    )
    text: Text = ONE_CLIP

    def is_of(self, folder: Path) -> bool:
        """See :class:`ModelEntry`; a distilled model has a scheduler of trailing timesteps."""
        try:
            config = json_object(folder / "scheduler" / "scheduler_config.json")
        except UserError:
            return super().is_of(folder)
        return (config.get("timestep_spacing") == "trailing") == (self.guidance <= 1)

    @property
    def embeds_guidance(self) -> bool:
        """Whether the U-Net takes the guidance as a number, as LCM's does."""
        return self.pipeline_class.startswith("Latent")

    def passes_a_step(self, settings: Settings) -> int:
        """See :class:`ModelEntry`; 1 too if the guidance is embedded."""
        return 1 if self.embeds_guidance else super().passes_a_step(settings)

    def guidance_text(self) -> str:
        """See :class:`DiffusersEntry`."""
        return f"embedded, {self.guidance:g}" if self.embeds_guidance else super().guidance_text()

    def saes(self, settings: Settings) -> Mapping[str, Path]:
        """The SAEs in ``sae.folder``; empty without that setting."""
        return {} if settings.sae.folder is None else super().saes(settings)


SD15 = SDEntry(
    **hub("sd1.5", "stable-diffusion-v1-5/stable-diffusion-v1-5", 0.86e9, 0.12e9 + 0.08e9), steps=50, guidance=7.5
)
SD_TURBO = SDEntry(**hub("sd-turbo", "stabilityai/sd-turbo", 0.87e9, 0.34e9 + 0.08e9))
LCM = SDEntry(
    **hub("lcm", "SimianLuo/LCM_Dreamshaper_v7", 0.86e9, 0.12e9 + 0.08e9),
    pipeline_class="LatentConsistencyModelPipeline",
    steps=4,
    guidance=8.5,
    no_start="the last step's picture is not made of the latents that its callback gives",
)
KOLORS = SDEntry(
    **hub("kolors", "Kwai-Kolors/Kolors-diffusers", 2.58e9, 6.24e9 + 0.08e9),
    pipeline_class="KolorsPipeline",
    default_sites=FOUR,
    published={"unet": SDXL_UNET | {"sample_size": 128}, "vae": PUBLISHED_VAE},
    loading={},
    steps=50,
    guidance=5.0,
    text=Text(
        ("prompt_embeds", "", "pooled_prompt_embeds"),
        {"do_classifier_free_guidance": False},
        tokenizers={"tokenizer": 256},
    ),
)
