"""Names of models: entry points of the group ``riebench.models``, or ``module:attribute``. Needs no torch."""

from __future__ import annotations

import importlib
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from riebench.models.sites import Site
from riebench.spec.settings import Settings, parse_settings
from riebench.util.errors import UserError, unknown

if TYPE_CHECKING:
    from riebench.models.model import Model
    from riebench.pairs import Pair
    from riebench.sae import TopKSAE
    from riebench.weights import Part

GROUP = "riebench.models"
INDEX = "model_index.json"


@dataclass(frozen=True)
class ModelEntry(ABC):
    """A model by name: what is known of it without its weights, and how they are loaded. A family subclasses it.

    Attributes:
        name: as given to ``--model``.
        default_sites: the blocks that ``--block all`` stands for.
        steps: denoising steps unless told otherwise.
        most_steps: the most that its sampler takes.
        guidance: guidance scale unless told otherwise.
        pairs: its own pair file, if it has one.
        prompts: where prompts come from unless a user names a file, see :func:`riebench.sae.prompts.read_prompts`.
        blur_kernel: side of the blur that masks get before they go to a site's grid, pixels.
        parts: weights that must be found on this machine, the pipeline first; none if they come with a package.
        instruments: ``module:class`` of the masker and scorers that belong to it, see
            :class:`riebench.engine.instruments.OwnInstruments`.
        scorers: networks that single metrics need and that can judge its pictures, by the names of their parts.
        pipeline_class: name of its pipeline in a ``model_index.json``, so that a folder can be loaded by its path.
        pipeline_parameters: number of weights in the pipeline, for plans; 0 where it is small.
        row_bytes: memory of the activations of one row of a forward pass in float32, about.
        standin: ``module:function`` that writes random weights in its layout, see
            :func:`riebench.standin.write.write_standin`; none if empty.
    """

    name: str
    default_sites: tuple[str, ...]
    steps: int = 1
    most_steps: int = 1000
    guidance: float = 0.0
    pairs: Path | None = None
    prompts: str | None = None
    blur_kernel: int = 31
    parts: tuple[Part, ...] = ()
    instruments: str = "riebench.engine.published:PublishedInstruments"
    scorers: tuple[str, ...] = ("dino", "lpips-squeeze")
    pipeline_class: str = ""
    pipeline_parameters: float = 0.0
    row_bytes: float = 0.0
    standin: str = ""

    def check_settings(self, settings: Settings) -> None:  # noqa: B027 - most families have nothing to refuse
        """Refuse settings that this model does not have (UserError); any will do unless a family says otherwise."""

    @abstractmethod
    def sites(self, settings: Settings) -> Mapping[str, Site]:
        """Every site in the order in which they run, read from configurations alone."""

    def saes(self, settings: Settings) -> Mapping[str, Path]:
        """Site to the folder of its SAE; empty where there are none."""
        return {}

    @abstractmethod
    def load(self, settings: Settings) -> Model:
        """The model with its weights.

        Raises:
            UserError: if weights are missing or do not fit.
        """

    def wrap(self, pipeline: Any, settings: Settings) -> Model:
        """A pipeline that is loaded already, as a model of this name.

        Raises:
            UserError: if this family takes none.
        """
        raise UserError(f"{self.name} takes no loaded pipeline; leave out pipeline=")

    def check_pairs(self, pairs: Sequence[Pair]) -> None:  # noqa: B027 - most families have nothing to refuse
        """Refuse pairs that this model cannot judge (UserError); any will do unless a family says otherwise."""


@cache
def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def model_names() -> list[str]:
    """Every model that is installed under a name."""
    return sorted(_installed())


@cache
def entry_named(name: str) -> ModelEntry:
    """The entry of a model by its name or as ``package.module:attribute``, which is an entry or a function giving one.

    Raises:
        UserError: if there is no such model, or what is there is none.
    """
    points = _installed()
    if name not in points and ":" not in name:
        raise unknown("model", name, model_names())
    target = points[name].value if name in points else name
    module, _, attribute = target.partition(":")
    if name not in points and os.getcwd() not in sys.path:  # a stranger's file lies where one stands
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
        entry = found() if callable(found) else found
    except (Exception, SystemExit) as error:  # noqa: BLE001 - importing a stranger's file may raise anything
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"the model {name!r} cannot be loaded ({said}); expected package.module:function") from None
    if not isinstance(entry, ModelEntry):
        raise UserError(f"{target} is a {type(entry).__name__}, expected a riebench.models.ModelEntry")
    return entry


def load(
    model: str | Path, *, pipeline: Any = None, saes: Mapping[str, TopKSAE] | None = None, **settings: Any
) -> Model:
    """Load a model: no masker, no CLIP, no LPIPS.

    Args:
        model: a name (``mini``, ``sdxl-turbo``, ...), ``package.module:function``, or a folder in diffusers' layout.
        pipeline: a loaded pipeline that takes the place of the model's own weights.
        saes: site to SAE, in place of the model's own.
        settings: as ``riebench settings`` lists them: ``device="cuda"`` for ``model.device``, ``sae__folder="DIR"``
            for ``sae.folder``, ``weights="DIR"``.

    Raises:
        UserError: if there is no such model or site, weights are missing, or a setting is unknown.
    """
    entry, parsed = entry_and_settings(model, settings)
    loaded = entry.load(parsed) if pipeline is None else entry.wrap(pipeline, parsed)
    if saes is not None:
        for site in saes:
            if site not in loaded.sites:
                raise unknown("site", site, loaded.sites)
        loaded.saes = {site: sae.to(loaded.device) for site, sae in saes.items()}
    return loaded


def entry_and_settings(model: str | Path, given: Mapping[str, Any]) -> tuple[ModelEntry, Settings]:
    """The entry of a model by its name or its folder, and its settings; arguments and errors as of :func:`load`."""
    parsed = parse_settings(given)
    if str(model) not in model_names() and Path(model).is_dir():
        entry = _entry_of_folder(Path(model))
        parsed = parsed.model_copy(update={"model": parsed.model.model_copy(update={"location": str(model)})})
    else:
        entry = entry_named(str(model))
    entry.check_settings(parsed)
    return entry, parsed


def _entry_of_folder(folder: Path) -> ModelEntry:
    try:
        kind = json.loads((folder / INDEX).read_text())["_class_name"]
    except (OSError, ValueError, KeyError):
        raise UserError(f"{folder} has no {INDEX} that names a pipeline; give a folder in diffusers' layout") from None
    classes = set()
    for name in model_names():
        with suppress(UserError):  # a plug-in that is broken is no hindrance to others
            entry = entry_named(name)
            if entry.pipeline_class == kind and entry.parts:
                return entry
            classes |= {entry.pipeline_class} - {""}
    raise unknown("pipeline class", kind, sorted(classes))
