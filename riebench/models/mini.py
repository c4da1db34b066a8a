"""The embedded model ``mini``: SDXL's shape, small, trained on a drawn world. Its weights come with the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from riebench.models.model import Model, pick_device
from riebench.models.sdxl import SDXLEntry
from riebench.pairs import Pair
from riebench.spec.settings import Settings
from riebench.util.errors import UserError
from riebench.util.files import fingerprint as files_fingerprint

ROOM = Path(__file__).parents[1] / "mini"
WEIGHTS, PAIRS = ROOM / "weights", ROOM / "pairs.json"
PIPELINE, SAES = WEIGHTS / "pipeline", WEIGHTS / "sae"
SETTINGS = (
    *("model.device", "model.dtype", "model.replay", "sae."),
    *("masker.blur_kernel", "masker.union", "masker.fallback"),
    *("masker.add_object", "masker.delete_object", "masker.special_phrases"),
)
"""The settings that mini has, by how their names begin."""


@dataclass(frozen=True)
class MiniEntry(SDXLEntry):
    """Mini by name."""

    own_pipeline: Path | None = PIPELINE
    own_saes: Path | None = SAES
    pairs: Path | None = PAIRS
    prompts: str | None = "grammar"
    blur_kernel: int = 15  # the published 31 px belong to grid cells of 32 px; these are of 16 px
    instruments: str = "riebench.mini.drawn_instruments:MiniInstruments"
    pipeline_parameters: float = 0.0
    row_bytes: float = 0.0

    def check_settings(self, settings: Settings) -> None:
        """Refuse settings that mini does not have."""
        chosen = settings.model_dump(exclude_defaults=True)
        names = [f"{group}.{name}" for group, value in chosen.items() if isinstance(value, dict) for name in value]
        for name in names:
            if not name.startswith(SETTINGS):
                raise UserError(f"the setting {name} is not for mini, whose parts come with it; leave it out")
        if not (PIPELINE / "model_index.json").exists():
            raise UserError(
                f"the weights of mini are not in {PIPELINE}; reinstall riebench or train them (scripts/train_mini.py)"
            )

    def load(self, settings: Settings) -> Model:
        """The pipeline; initial latents are the layout canvas of the seed, and the CPU is the default device."""
        import torch

        from riebench.mini.layout import canvas_of_seed
        from riebench.models.diffusers_model import open_pipeline
        from riebench.models.sdxl import SDXL

        fingerprint = files_fingerprint([path for path in PIPELINE.rglob("*") if path.is_file()], PIPELINE)
        device = settings.model.device
        pipeline = open_pipeline(self, PIPELINE, settings, pick_device("cpu" if device == "auto" else device))
        pipeline.vae.disable_slicing()
        for part in (pipeline.unet, pipeline.vae):
            part.to(memory_format=torch.channels_last)
        model = SDXL(pipeline, self, settings, f"mini-{fingerprint}", canvas_of_seed)
        model.saes = self.saes(settings)
        return model

    def check_pairs(self, pairs: Sequence[Pair]) -> None:
        """Refuse pairs whose prompts are not of the drawn world or do not differ in exactly one attribute."""
        from riebench.mini.grammar import PromptError, parse

        for pair in pairs:
            try:
                changed = parse(pair.original_prompt).differences(parse(pair.editing_prompt))
            except PromptError as error:
                raise UserError(f"pair {pair.id!r} is not for mini: {error}; use pairs of the drawn world") from None
            if len(changed) != 1:
                raise UserError(f"pair {pair.id!r} changes {list(changed)}; a pair for mini changes one attribute")


MINI = MiniEntry("mini")
