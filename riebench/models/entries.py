"""Models by name: their entries, and how one is loaded. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from riebench.models.arguments import check_saes
from riebench.models.diffusers_entry import class_in, refuse_single_file
from riebench.models.model import ModelEntry
from riebench.records.code import remember_code
from riebench.settings.settings import Settings, parse_settings, refuse_without_effect
from riebench.util.errors import UserError, unknown
from riebench.util.plugins import Registry
from riebench.weights import HubFiles, hub_snapshot

if TYPE_CHECKING:
    from riebench.models.model import Model

HUB_ID = r"[\w.-]+/[\w.-]+"
"""The form of a repository's name on the hub."""
CHECKPOINTS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
"""The endings of files of weights."""
REFUSED = {
    "StableCascadePriorPipeline": "it makes no picture, but the embedding that its decoder begins with",
    "StableCascadeDecoderPipeline": "it begins with its prior's embedding, and its blocks run several times a step",
    "StableCascadeCombinedPipeline": "it is two pipelines in a row, with two denoisers",
    "OmniGenPipeline": "its call takes no embeddings, and its guidance cannot be switched off",
    "Ideogram4Pipeline": "it has two denoisers, and its call takes no embeddings",
    "DreamLitePipeline": "its call takes neither embeddings nor latents",
    "DreamLiteMobilePipeline": "its call takes neither embeddings nor latents",
    "GlmImagePipeline": "it begins with tokens that a second model draws, of all rows from the first one's seed",
    "PRXPixelPipeline": "it has no latents",
}
"""Classes of pipelines that are refused, with the reason."""
PERTURBED = "PAG", "its batches have a perturbed part beside those of the usual guidance"
"""What the names of all classes with perturbed-attention guidance hold, and the reason why they are refused."""


FAMILIES = {
    "flux-dev": "riebench.models.flux:DEV",
    "sd1.5": "riebench.models.sd:SD15",
    "sd-turbo": "riebench.models.sd:SD_TURBO",
    "lcm": "riebench.models.sd:LCM",
    "sd3.5-medium": "riebench.models.token_families:SD3",
    "pixart-alpha": "riebench.models.token_families:PIXART_ALPHA",
    "pixart-sigma": "riebench.models.token_families:PIXART_SIGMA",
    "sana": "riebench.models.token_families:SANA",
    "z-image-turbo": "riebench.models.token_families:Z_IMAGE",
    "qwen-image": "riebench.models.token_families:QWEN_IMAGE",
    "lumina2": "riebench.models.token_families:LUMINA2",
    "auraflow": "riebench.models.token_families:AURA_FLOW",
    "chroma": "riebench.models.token_families:CHROMA",
    "cogview4": "riebench.models.token_families:COGVIEW4",
    "flux2-dev": "riebench.models.token_families:FLUX2_DEV",
    "flux2-klein": "riebench.models.token_families:FLUX2_KLEIN",
    "flux2-klein-distilled": "riebench.models.token_families:FLUX2_KLEIN_DISTILLED",
    "ovis-image": "riebench.models.token_families:OVIS",
    "hunyuandit": "riebench.models.token_families:HUNYUAN_DIT",
    "kolors": "riebench.models.sd:KOLORS",
    "hunyuanimage": "riebench.models.newer_families:HUNYUAN_IMAGE",
    "hunyuanimage-distilled": "riebench.models.newer_families:HUNYUAN_IMAGE_DISTILLED",
    "sana-sprint": "riebench.models.newer_families:SANA_SPRINT",
    "qwen-image-2.1": "riebench.models.newer_families:QWEN_IMAGE_21",
    "hidream-i1": "riebench.models.newer_families:HIDREAM",
    "kandinsky5-lite": "riebench.models.newer_families:KANDINSKY5",
    "longcat-image": "riebench.models.newer_families:LONGCAT",
    "prx": "riebench.models.newer_families:PRX",
    "fibo": "riebench.models.newer_families:FIBO",
    "fibo2": "riebench.models.newer_families:FIBO2",
    "krea2": "riebench.models.newer_families:KREA2",
    "krea2-turbo": "riebench.models.newer_families:KREA2_TURBO",
    "ernie-image": "riebench.models.newer_families:ERNIE_IMAGE",
    "nucleus-image": "riebench.models.newer_families:NUCLEUS",
}
"""Name of a model to the place of its entry, beside those that are entry points."""
INSTRUMENTS = ("masker.", "clip.", "lpips.", "dino.")
"""The beginnings of the names of settings that no model has."""
OF_LOADING = ("weights", *(f"model.{name}" for name in ("location", "revision", "dtype", "device", "offload")))
"""Settings of how weights are loaded."""
TRACED = "traced"
"""The name of the model that is a pipeline of any class with a transformer."""
MODELS = Registry("model", ModelEntry, own=FAMILIES | {TRACED: "riebench.models.traced:TRACED"})
"""Every model; entry points are those of the group ``riebench.models``."""


def model_names() -> list[str]:
    """Every model that is installed under a name."""
    return MODELS.names()


@cache
def entry_named(name: str) -> ModelEntry:
    """The entry of a model by its name, as ``package.module:name`` or as ``my_file.py:name``.

    The object is a :class:`ModelEntry`, or a function without arguments that returns one.

    Raises:
        UserError: if there is no such model, or the object is none.
    """
    entry = MODELS.find(name)
    remember_code(type(entry))
    return entry


def pair_file_named(location: str | Path) -> Path:
    """The pair file at a path, or a model's set by its name, as ``mini:entangled``.

    Raises:
        UserError: if the model has no such set.
    """
    model, _, name = str(location).partition(":")
    if not name or Path(location).exists() or model not in model_names():
        return Path(location)
    sets = entry_named(model).pair_sets
    if name not in sets:
        raise unknown("set of pairs", str(location), [f"{model}:{known}" for known in sets] or ["none"])
    return sets[name]


def load(model: str | Path, *, pipeline: Any = None, saes: Mapping[str, Any] | None = None, **settings: Any) -> Model:
    """Load a model: no masker, no CLIP, no LPIPS.

    Args:
        model: a name (``mini``, ``sdxl-turbo``, ...), ``package.module:name``, ``my_file.py:name``, a folder in
            diffusers' layout, or the name of a repository in the hub's cache, ``owner/name``.
        pipeline: a loaded pipeline, used instead of the model's own weights.
        saes: site to SAE, used instead of the model's own: the folder of one, one of riebench's, or any object with
            ``encode`` (vectors ``[m, d]`` to codes ``[m, n]``) and ``decode``, as an SAE of SAELens.
        settings: by name, as ``riebench settings`` lists them: ``device="cuda"`` for ``model.device``,
            ``sae__folder="DIR"`` for ``sae.folder``, ``weights="DIR"``.

    Raises:
        UserError: if there is no such model or site, weights are missing, an SAE cannot be used, or a setting is
            unknown or cannot act.
    """
    entry, parsed = entry_and_settings(model, settings)
    no_instruments = "riebench.load loads no masker and no scorers; give it to riebench.run in settings="
    refuse_without_effect(parsed, INSTRUMENTS, no_instruments)
    if pipeline is not None:
        of_pipeline = "it is of weights that are loaded, and pipeline= is loaded already; leave it out"
        refuse_without_effect(parsed, OF_LOADING, of_pipeline)
    if pipeline is not None or saes is not None:
        refuse_without_effect(
            parsed, ("sae.",), "a pipeline that is handed in has the SAEs of saes= alone; leave it out"
        )
    if saes is not None:
        check_saes(saes)
    loaded = entry.load(parsed) if pipeline is None else entry.wrap(pipeline, parsed)
    if saes is not None:
        loaded.saes, loaded.saes_given = saes, True
        for site in saes:
            loaded.sae(site)  # refuses one that does not fit
    return loaded


def entry_and_settings(model: str | Path, settings: Mapping[str, Any]) -> tuple[ModelEntry, Settings]:
    """The entry of a model by its name or its folder, and its settings; arguments and errors as of :func:`load`."""
    name, parsed = named_model(model, parse_settings(settings))
    entry = entry_named(name)
    entry.check_settings(parsed)
    return entry, parsed


def named_model(model: str | Path, settings: Settings) -> tuple[str, Settings]:
    """The name of a model, and the settings with the folder of its pipeline if the model was named by that.

    A name as ``owner/name`` is of a repository in the hub's cache; nothing is downloaded. With the setting
    ``model.family`` the class of the pipeline does not matter.

    Raises:
        UserError: if the folder holds no pipeline of a known class, the cache does not hold the repository, or
            ``model.family`` is set for a name.
    """
    if not isinstance(model, str | Path) or not str(model):
        raise UserError(f"the model is {model!r}; expected a name, as 'mini', or a folder in diffusers' layout")
    folder, name, family = Path(model), None, settings.model.family
    is_name = str(model) in model_names()
    if not is_name and not folder.is_dir():
        if folder.suffix in CHECKPOINTS and folder.is_file():
            refuse_single_file(model, "StableDiffusionXLPipeline")
        is_name = folder.suffix == ".py" or folder.exists() or not re.fullmatch(HUB_ID, str(model))
        if not is_name:
            folder = hub_snapshot(str(model), settings.model.revision)
            name = _name_of_repository(str(model))
    if is_name:
        if family not in (None, str(model)):
            raise UserError(f"the setting model.family is for the folder of a pipeline, and {model} is none; give one")
        return str(model), settings
    name = family or name or _name_of_folder(folder)
    located = settings.model.model_copy(update={"location": str(folder.resolve())})
    return name, settings.model_copy(update={"model": located})


def _entries() -> Iterator[tuple[str, ModelEntry]]:
    """Every model's name and entry, but for broken plug-ins."""
    for name in model_names():
        with suppress(UserError):
            yield name, entry_named(name)


def _name_of_repository(repository: str) -> str | None:
    """The name of the entry whose weights a repository of the hub has; None if there is none."""
    for name, entry in _entries():
        source = entry.parts[0].source if entry.parts else None
        if isinstance(source, HubFiles) and source.repo == repository:
            return name
    return None


def _name_of_folder(folder: Path) -> str:
    """The name of the entry that a pipeline's folder is loaded by: of its class, and of its denoiser's kind."""
    kind = class_in(folder)
    reason = PERTURBED[1] if PERTURBED[0] in kind else REFUSED.get(kind)
    if reason:
        raise UserError(f"{folder} is a {kind}, which is not run: {reason}")
    entries = list(_entries())
    fitting = [(name, entry) for name, entry in entries if entry.pipeline_class == kind and entry.parts]
    if not fitting:
        classes = ", ".join(sorted({entry.pipeline_class for _, entry in entries} - {""}))
        wrong = f"{folder} is of the unknown pipeline class {kind!r}; known: {classes}"
        raise UserError(f"{wrong}; a pipeline with a transformer can be tried with --set model.family={TRACED}")
    return next((name for name, entry in fitting if entry.is_of(folder)), fitting[0][0])
