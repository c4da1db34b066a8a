"""The embedded models: ``mini`` of SDXL's shape and ``mini-flux`` of FLUX's, small, trained on a drawn world.

Their weights come with the package. Importing it needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from riebench.mini.layout import canvas_of_seed
from riebench.models.devices import pick_device
from riebench.models.diffusers_entry import DiffusersEntry
from riebench.models.flux import FluxEntry
from riebench.models.model import Model
from riebench.models.sdxl import SDXLEntry
from riebench.pairs import Pair
from riebench.settings.settings import Settings
from riebench.util.errors import UserError
from riebench.util.files import fingerprint as files_fingerprint

ROOM = Path(__file__).parents[1] / "mini"
WEIGHTS, FLUX_WEIGHTS, PAIRS = ROOM / "weights", ROOM / "flux-weights", ROOM / "pairs.json"
WORLD: dict[str, Any] = {
    "canvas": canvas_of_seed,
    "pairs": PAIRS,
    "prompts": "grammar",
    "blur_kernel": 15,  # the published 31 px belong to grid cells of 32 px; these are of 16 px
    "instruments": "mini",
    "scorers": (),  # no DINO and no SqueezeNet has seen such drawings, and none of this world is trained
    "pipeline_parameters": 0.0,
    "row_bytes": 0.0,
}
"""What the models of the drawn world have in common."""
SETTINGS = (
    *("model.device", "model.dtype", "model.replay", "sae."),
    *("masker.blur_kernel", "masker.union", "masker.fallback"),
    *("masker.add_object", "masker.delete_object", "masker.special_phrases"),
)
"""The settings that they have, by how their names begin."""


class DrawnEntry(DiffusersEntry):
    """A model of the drawn world by name; stands before its family among the bases.

    Its weights lie in one folder: ``pipeline``, and ``sae`` with a folder for each of its default sites.
    """

    own_pipeline: Path

    def saes(self, settings: Settings) -> Mapping[str, Path]:
        """Those of ``sae.folder``, else its own."""
        if settings.sae.folder is not None:
            return super().saes(settings)
        return {site: self.own_pipeline.parent / "sae" / site for site in self.default_sites}

    def check_settings(self, settings: Settings) -> None:
        """Refuse settings that it does not have."""
        chosen = settings.model_dump(exclude_defaults=True)
        names = [f"{group}.{name}" for group, value in chosen.items() if isinstance(value, dict) for name in value]
        for name in names:
            if not name.startswith(SETTINGS):
                raise UserError(f"the setting {name} is not for {self.name}, whose parts come with it; leave it out")
        if not (self.own_pipeline / "model_index.json").exists():
            hint = "reinstall riebench or train them (scripts/train_mini.py)"
            raise UserError(f"the weights of {self.name} are not in {self.own_pipeline}; {hint}")

    def load(self, settings: Settings) -> Model:
        """The pipeline; the CPU is the default device."""
        import torch

        from riebench.models.diffusers_entry import open_pipeline

        folder, device = self.own_pipeline, settings.model.device
        fingerprint = files_fingerprint([path for path in folder.rglob("*") if path.is_file()], folder)
        pipeline = open_pipeline(self, folder, settings, pick_device("cpu" if device == "auto" else device))
        pipeline.vae.disable_slicing()
        for part in (getattr(pipeline, self.denoiser), pipeline.vae):
            part.to(memory_format=torch.channels_last)
        model = self.model_of(pipeline, settings, f"{self.name}-{fingerprint}")
        model.saes = self.saes(settings)
        return model

    def check_pairs(self, pairs: Sequence[Pair]) -> None:
        """Refuse pairs whose prompts are not of the drawn world or do not differ in exactly one attribute."""
        from riebench.mini.grammar import PromptError, parse

        for pair in pairs:
            try:
                changed = parse(pair.original_prompt).differences(parse(pair.editing_prompt))
            except PromptError as error:
                wrong = f"pair {pair.id!r} is not for {self.name}: {error}"
                raise UserError(f"{wrong}; use pairs of the drawn world") from None
            if len(changed) != 1:
                wrong = f"pair {pair.id!r} changes {list(changed)}"
                raise UserError(f"{wrong}; a pair for {self.name} changes one attribute")


class MiniEntry(DrawnEntry, SDXLEntry):
    """Mini by name."""


class MiniFluxEntry(DrawnEntry, FluxEntry):
    """Mini's FLUX by name."""


MINI = MiniEntry("mini", own_pipeline=WEIGHTS / "pipeline", **WORLD)
MINI_FLUX = MiniFluxEntry(
    "mini-flux",
    default_sites=("double.1", "double.2", "single.0", "single.1"),
    steps=1,
    size=128,
    own_pipeline=FLUX_WEIGHTS / "pipeline",
    **WORLD,
)
