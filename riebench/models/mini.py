"""The embedded models: ``mini`` of SDXL's layout and ``mini-flux`` of FLUX's, small, trained on a drawn world.

Their weights come with the package. Importing this file needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from riebench.mini.layout import canvas_of_seed
from riebench.models.devices import pick_device
from riebench.models.diffusers_entry import PUBLISHED_VAE, DiffusersEntry
from riebench.models.flux import FLUX, PUBLISHED_TRANSFORMER, SCHNELL_TOKENS, flux_text
from riebench.models.model import Model
from riebench.models.sdxl import SDXLEntry
from riebench.models.tokens import TokenEntry
from riebench.pairs import Pair
from riebench.sae.folders import find_saes
from riebench.settings.settings import SaeSettings, Settings
from riebench.util.errors import UserError
from riebench.util.files import fingerprint as files_fingerprint

ROOM = Path(__file__).parents[1] / "mini"
WEIGHTS, FLUX_WEIGHTS, PAIRS = ROOM / "weights", ROOM / "flux-weights", ROOM / "pairs.json"
ENTANGLED = ROOM / "entangled.json"
WORLD: dict[str, Any] = {
    "canvas": canvas_of_seed,
    "pairs": PAIRS,
    "pair_sets": {"entangled": ENTANGLED},
    "prompts": "grammar",
    "blur_kernel": 15,  # published: 31 px for grid cells of 32 px; mini's cells have 16 px
    "instruments": "mini",
    "scorers": (),  # no DINO and no SqueezeNet is trained on such drawings
    "pipeline_parameters": 0.0,
    "row_bytes": 0.0,
}
"""Fields of the entries that the models of the drawn world share."""
SETTINGS = (
    *("model.device", "model.dtype", "model.replay", "sae."),
    *("masker.blur_kernel", "masker.union", "masker.fallback"),
    *("masker.add_object", "masker.delete_object", "masker.special_phrases"),
)
"""The beginnings of the names of the settings that these models have."""


class DrawnEntry(DiffusersEntry):
    """A model of the drawn world by name; among the bases of a class it goes before the family's entry.

    One folder holds the weights: ``pipeline``, and ``sae`` with a folder for each of the default sites.
    """

    light: ClassVar[bool] = True
    own_pipeline: Path

    def saes(self, settings: Settings) -> Mapping[str, Path]:
        """The SAEs in ``sae.folder``, else those of the package, as far as ``sae.k`` and the like choose them."""
        if settings.sae.folder is not None:
            return super().saes(settings)
        folder = self.own_pipeline.parent / "sae"
        if settings.sae == SaeSettings():
            return {site: folder / site for site in self.default_sites}
        return find_saes(folder, {site: (site,) for site in self.default_sites}, settings.sae)

    def check_settings(self, settings: Settings) -> None:
        """Refuse settings of weights that come with the package.

        Raises:
            UserError: if there are such settings, or the weights are missing.
        """
        chosen = settings.model_dump(exclude_defaults=True)
        names = [f"{group}.{name}" for group, value in chosen.items() if isinstance(value, dict) for name in value]
        names += [name for name, value in chosen.items() if not isinstance(value, dict)]
        for name in names:
            if not name.startswith(SETTINGS):
                raise UserError(
                    f"the setting {name} is not for {self.name}: its parts come with the package; leave it out"
                )
        if not (self.own_pipeline / "model_index.json").exists():
            hint = "reinstall riebench or train them (scripts/train_mini.py)"
            raise UserError(f"the weights of {self.name} are not in {self.own_pipeline}; {hint}")

    def load(self, settings: Settings) -> Model:
        """See :class:`ModelEntry`; the default device is the CPU."""
        import torch

        from riebench.models.diffusers_entry import open_pipeline

        folder, device, saes = self.own_pipeline, settings.model.device, self.saes(settings)
        fingerprint = files_fingerprint([path for path in folder.rglob("*") if path.is_file()], folder)
        pipeline = open_pipeline(self, folder, settings, pick_device("cpu" if device == "auto" else device))
        pipeline.vae.disable_slicing()
        for part in (getattr(pipeline, self.denoiser), pipeline.vae):
            part.to(memory_format=torch.channels_last)
        model = self.model_of(pipeline, settings, f"{self.name}-{fingerprint}")
        model.saes = saes
        return model

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """See :class:`ModelEntry`: prompts are of the drawn world's grammar."""
        from riebench.mini.grammar import PromptError, parse

        for number, prompt in enumerate(prompts, 1):
            try:
                parse(prompt)
            except PromptError as error:
                wrong = f"{self.name} cannot draw prompt {number}: {error}"
                raise UserError(f"{wrong}; give prompts of the drawn world, or another --model") from None

    def check_pairs(self, pairs: Sequence[Pair]) -> None:
        """See :class:`ModelEntry`: prompts are of the drawn world and ask for the change of one attribute."""
        from riebench.mini.grammar import PromptError, asked_attribute, parse

        for pair in pairs:
            try:
                changed = parse(pair.original_prompt).differences(parse(pair.editing_prompt))
            except PromptError as error:
                wrong = f"{self.name} cannot draw pair {pair.id!r}: {error}"
                raise UserError(f"{wrong}; give pairs of the drawn world with --pairs") from None
            try:
                asked_attribute(pair.original_prompt, pair.editing_prompt)
            except PromptError:
                wrong = f"pair {pair.id!r} changes {list(changed)}"
                ask = "a pair for {} changes one attribute, or marks the asked one in square brackets"
                raise UserError(f"{wrong}; {ask.format(self.name)}") from None


class MiniEntry(DrawnEntry, SDXLEntry):
    """Mini by name."""


class MiniFluxEntry(DrawnEntry, TokenEntry):
    """Mini's FLUX by name."""


MINI = MiniEntry("mini", own_pipeline=WEIGHTS / "pipeline", **WORLD)
MINI_FLUX = MiniFluxEntry(
    "mini-flux",
    own_pipeline=FLUX_WEIGHTS / "pipeline",
    published={"transformer": PUBLISHED_TRANSFORMER, "vae": PUBLISHED_VAE},
    text=flux_text(SCHNELL_TOKENS),
    arguments={"guidance_scale": 0.0},
    **FLUX | WORLD | {"default_sites": ("double.1", "double.2", "single.0", "single.1"), "size": 128},
)
