"""Names of models: entry points of the group ``riebench.models``, or ``module:attribute``. Needs no torch."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from riebench.models.model import ModelEntry
from riebench.settings.settings import Settings, parse_settings
from riebench.util.errors import UserError, unknown

if TYPE_CHECKING:
    from riebench.models.model import Model
    from riebench.sae.topk import TopKSAE

GROUP = "riebench.models"
INDEX = "model_index.json"


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
