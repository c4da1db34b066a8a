"""The base of entries on diffusers' pipelines: find a pipeline's folder, load it, and hash it.

Importing it needs no torch.
"""

from __future__ import annotations

import gc
import json
import logging
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from riebench.models.component_config import ADVICE, ComponentConfig
from riebench.models.devices import USER_WEIGHTS, pick_device
from riebench.models.model import TEXT, Model, ModelEntry
from riebench.models.sites import Site, block_of
from riebench.settings.settings import Settings
from riebench.util.errors import UserError
from riebench.util.files import files_under, fingerprint
from riebench.util.lean_imports import lean_imports
from riebench.weights import HubFiles, Part, find_part, hub_snapshot, is_standin, weights_root
from riebench.weights.parts import INSTRUMENTS

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

log = logging.getLogger(__name__)
INDEX, CONFIG = "model_index.json", "config.json"
"""The files that name a pipeline's components and its settings, and the settings of a component."""
SDXL_AND_FLUX = (
    "unet",
    "transformer",
    "vae",
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
    "scheduler",
)
"""The components of SDXL and FLUX.1. They are hashed without the index, as in the records of earlier versions."""
USUAL_SETTINGS = {"force_zeros_for_empty_prompt": True}
"""The settings in the index of the published SDXL."""
PUBLISHED_VAE: dict[str, Any] = {"block_out_channels": [128, 256, 512, 512]}
"""The part of the configuration of SDXL's and FLUX.1's autoencoders that sites depend on, for use without weights."""

PIPELINE_FILES = (
    *("model_index.json", "*/*.json", "*/*.txt", "*/*.model", "*/*.jinja"),
    *(f"*/{name}{shard}.safetensors" for name in ("model", "diffusion_pytorch_model") for shard in ("", "-0*")),
)
"""Patterns of the files of a pipeline on the hub, without other variants of its weights."""


@dataclass(frozen=True)
class Text:
    """How a pipeline encodes a prompt.

    Attributes:
        returned: what its ``encode_prompt`` returns, as names of arguments of its call; empty for what is not used.
        arguments: of ``encode_prompt`` beside the prompt and the device.
        encoders: name of a text encoder, as the bench prints it, to the pipeline's component.
        tokenizers: component to the largest number of tokens; None for the tokenizer's own, which is never exceeded.
            In place of a component that a pipeline lacks stands its ``tokenizer``.
        wrapped: returns the text that the tokenizer is given for a prompt, or its pieces; None for the prompt itself.
        as_called: names of further arguments of ``encode_prompt``: those that the pipeline's call has by default.
        negative: what ``encode_prompt`` returns with guidance, if it encodes a negative prompt in a way of its own;
            named as the prompt's own, and empty for what is not of the negative prompt.
        more: further calls of ``encode_prompt``, for other encoders.
        row_dimensions: name of a returned tensor to the dimension of its rows, where it is not the first.
        within: the method by which the pipeline's call encodes a list of prompts, if the call takes prompts alone; the
            method returns tensors that have a row for each prompt. Empty if the call takes what is encoded.
    """

    returned: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    encoders: Mapping[str, str] = field(default_factory=lambda: {TEXT: "text_encoder"})
    tokenizers: Mapping[str, int | None] = field(default_factory=lambda: {"tokenizer": None})
    wrapped: Callable[[Any, str], str | Sequence[str]] | None = None
    as_called: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    more: tuple[Text, ...] = ()
    row_dimensions: Mapping[str, int] = field(default_factory=dict)
    within: str = ""


@dataclass(frozen=True)
class DiffusersEntry(ModelEntry):
    """A pipeline of diffusers by name.

    Attributes:
        own_pipeline: folder of a pipeline that comes with a package; None if the pipeline is among ``parts``.
        canvas: a function of the seed that returns initial latents ``[channels, height, width]``; None for
            Gaussian noise.
        denoiser: name of the pipeline's component that holds the sites.
        published: component to the part of its published configuration that sites depend on, for use without weights.
        loading: further arguments of the pipeline's ``from_pretrained``.
        text: how the pipeline encodes a prompt.
        denoiser_parameters: number of the denoiser's weights.
        no_start: why a run cannot begin with a finished picture; empty if it can.
    """

    own_pipeline: Path | None = None
    canvas: Callable[[int], NDArray[np.float32]] | None = None
    denoiser: str = ""
    published: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    loading: Mapping[str, Any] = field(default_factory=dict)
    text: Text = field(default_factory=Text)
    denoiser_parameters: float = 0.0
    no_start: str = ""

    @property
    def pipeline_cells(self) -> int:
        """The autoencoder's cells on each side of what the pipeline counts as one."""
        return 1

    def folder(self, settings: Settings) -> Path | None:
        """The folder of the pipeline on this machine; None if it is missing."""
        if self.own_pipeline is not None:
            return self.own_pipeline
        location = settings.model.location
        if location is not None:
            refuse_single_file(location, self.pipeline_class)
            return Path(location) if Path(location).is_dir() else hub_snapshot(location, settings.model.revision)
        return find_part(self.parts[0], weights_root(settings)).path

    def sites(self, settings: Settings) -> Mapping[str, Site]:
        """See :class:`ModelEntry`; those of the published shape if the pipeline is missing.

        Raises:
            UserError: if the pipeline is of another class, or its configurations are none of this model's.
        """
        folder = self.folder(settings)
        if folder is not None:
            refuse_other_class(self, folder)
        return self.sites_in(folder, settings.model.size)

    def sites_in(self, folder: Path | None, size: int | None) -> Mapping[str, Site]:
        """The sites by the configurations in a pipeline's folder; by the published ones without a folder.

        Raises:
            UserError: if the configurations cannot be read, or are none of this model's.
        """
        configs = self.configs(folder)
        try:
            sites = self.sites_for(configs, size)
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            wrong = f"the configurations of {', '.join(configs)} in {folder} are none of {self.name}: {error}"
            raise UserError(f"{wrong}; {ADVICE}") from None
        if not sites or not all(site.width for site in sites.values()):
            raise UserError(f"the configuration of the {self.denoiser} in {folder} has no blocks; {ADVICE}")
        return sites

    def configs(self, folder: Path | None) -> Mapping[str, Mapping[str, Any]]:
        """Component to its configuration: in a pipeline's folder, or the published one without a folder.

        Raises:
            UserError: if there is no configuration.
        """
        if folder is None:
            return self.published
        return {name: ComponentConfig(folder / name / CONFIG, own) for name, own in self.published.items()}

    def kinds_of_sites(self) -> tuple[list[str], list[str]]:
        """The kinds of blocks, as ``double`` of ``double.18``, and of sites in them, as ``mlp``."""
        sites = self.sites_in(self.own_pipeline, None)
        inside = (site.partition("/")[2].partition(".")[0] for site in sites if site != block_of(site))
        return list(dict.fromkeys(site.partition(".")[0] for site in sites)), list(dict.fromkeys(inside))

    def size_text(self) -> str:
        """One line on the size of pictures: the published model's own, and the number that others are multiples of."""
        return ""

    def check_index(self, index: Mapping[str, Any]) -> None:
        """Refuse a pipeline whose own settings are those of another model; see :func:`pipeline_index`.

        Raises:
            UserError: if they are.
        """

    def guidance_text(self) -> str:
        """One line on the guidance: how the pipeline is guided, and the default scale."""
        return f"rows, {self.guidance:g}"

    @abstractmethod
    def sites_for(self, configs: Mapping[str, Mapping[str, Any]], size: int | None) -> Mapping[str, Site]:
        """The sites of a pipeline.

        Args:
            configs: component to its configuration.
            size: side of the pictures, pixels; None for the model's own.
        """

    @abstractmethod
    def model_of(self, pipeline: Any, settings: Settings, fingerprint: str) -> Model:
        """A model around a loaded pipeline."""

    def load(self, settings: Settings) -> Model:
        """See :class:`ModelEntry`; a location that is not a folder is looked up in the hub's cache."""
        folder = self.folder(settings)
        if folder is None:
            hint = f"see 'riebench doctor --model {self.name}'"
            raise UserError(f"the weights of {self.name} are not on this machine; {hint}")
        if settings.model.size is not None:
            self.sites(settings)  # refuse a bad size, and a bad folder of SAEs, before the large pipeline is loaded
        saes = self.saes(settings)
        pipeline = open_pipeline(self, folder, settings, pick_device(settings.model.device))
        model = self.model_of(pipeline, settings, self.fingerprint_of(folder, settings))
        model.saes = saes
        return model

    def fingerprint_of(self, folder: Path, settings: Settings) -> str:
        """The fingerprint of a model with the weights in a folder."""
        mark = "standin-" if is_standin(weights_root(settings)) or is_standin(folder.parent) else ""
        return f"{mark}{self.name}-{folder_fingerprint(folder)}"

    def wrap(self, pipeline: Any, settings: Settings) -> Model:
        """See :class:`ModelEntry`; the model has no SAEs.

        Raises:
            UserError: if the pipeline is of another class, whose batches may have other rows; see
                :meth:`checked_model`.
        """
        import diffusers

        if not isinstance(pipeline, getattr(diffusers, self.pipeline_class)):
            raise UserError(f"pipeline= is a {type(pipeline).__name__}; {self.name} takes a {self.pipeline_class}")
        return self.checked_model(pipeline, settings)

    def checked_model(self, pipeline: Any, settings: Settings, fingerprint: str | None = None) -> Model:
        """A model around a pipeline that a user has made or changed.

        Args:
            pipeline: a loaded pipeline.
            settings: of the model.
            fingerprint: of the model; a hash of the pipeline's state unless given.

        Raises:
            UserError: if the network that holds the sites has another layout, is compiled, leaves passes out, or
                computes in another type than the autoencoder; if the weights cannot be hashed.
        """
        from riebench.models.pipeline_state import refuse_mixed_types, refuse_unfollowed, state_fingerprint

        denoiser = getattr(pipeline, self.denoiser)
        refuse_unfollowed(denoiser, self.denoiser)
        try:
            refuse_mixed_types(pipeline, self.denoiser)
            fingerprint = fingerprint or f"{USER_WEIGHTS}{state_fingerprint(pipeline)}"
            return self.model_of(pipeline, settings, fingerprint)
        except (AttributeError, KeyError, TypeError) as error:
            wrong = (
                f"the {self.denoiser} of the pipeline, a {type(denoiser).__name__}, has not the layout of {self.name}"
            )
            raise UserError(f"{wrong}: {error}") from None


def levels_factor(vae: Mapping[str, Any]) -> int:
    """Pixels on each side of a latent cell of an ``AutoencoderKL``."""
    return int(2 ** (len(vae["block_out_channels"]) - 1))


def hub(name: str, repository: str, denoiser: float, others: float, gated: bool = False) -> dict[str, Any]:
    """The fields of an entry whose pipeline is on the hub, of weights of two bytes each.

    Args:
        name: of the entry.
        repository: on the hub.
        denoiser: number of its weights.
        others: number of the weights of text encoders and autoencoder.
        gated: whether the licence must be accepted.
    """
    source = HubFiles(repository, "main", PIPELINE_FILES, gated=gated)
    part = Part(
        "model", name, ("model_index.json",), source, int(2 * (denoiser + others)), ("diffusers", "transformers")
    )
    # Activations: FLUX.1's at 1024 px.
    facts = {"denoiser_parameters": denoiser, "pipeline_parameters": denoiser + others, "row_bytes": 1.6e9}
    return {"name": name, "parts": (part, *INSTRUMENTS), "standin": "tiny", **facts}


def refuse_single_file(location: str | Path, pipeline_class: str) -> None:
    """Refuse a file in place of a pipeline's folder.

    Raises:
        UserError: if the location is a file; it says how a folder is made of a checkpoint.
    """
    if Path(location).is_file():
        load = f"from diffusers import {pipeline_class} as P; P.from_single_file('{location}')"
        make = f"python -c \"{load}.save_pretrained('FOLDER')\""
        raise UserError(f"{location} is one file, expected a folder in diffusers' layout; make one with {make}")


def class_in(folder: Path) -> str:
    """The class of the pipeline in a folder.

    Raises:
        UserError: if its index names none.
    """
    try:
        return str(pipeline_index(folder)["_class_name"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder} has no {INDEX} that names a pipeline; give a folder in diffusers' layout") from None


def pipeline_index(folder: Path) -> dict[str, Any]:
    """The index of a pipeline's folder: setting to its value, and component to its library and class."""
    index: dict[str, Any] = json.loads((folder / INDEX).read_text())
    return index


def folder_fingerprint(folder: Path) -> str:
    """A hash of all components in a pipeline's folder, 16 hexadecimal digits: weights, configurations, tokenizers.

    The index is hashed too, unless all components have names of SDXL's or FLUX.1's and all settings are usual ones.

    Args:
        folder: in diffusers' layout, with an index.
    """
    index = pipeline_index(folder)
    components = {name for name, value in index.items() if isinstance(value, list)}
    settings = {name: index[name] for name in index.keys() - components if not name.startswith("_")}
    unusual = {name: value for name, value in settings.items() if value not in (None, USUAL_SETTINGS.get(name))}
    folders = [folder / name for name in components.union(SDXL_AND_FLUX) if (folder / name).is_dir()]
    files = [file for component in folders for file in files_under(component)]
    with_index = unusual or any(component.name not in SDXL_AND_FLUX for component in folders)
    return fingerprint([*files, folder / INDEX] if with_index else files, folder)


def refuse_other_class(entry: DiffusersEntry, folder: Path) -> None:
    """Refuse a folder with a pipeline of another class or another model than an entry's.

    Raises:
        UserError: if it is another one, or the folder has no index that names its class.
    """
    if not (folder / INDEX).is_file():
        for file in sorted(folder.glob("*.safetensors")):
            refuse_single_file(file, entry.pipeline_class)
    kind = class_in(folder)
    if kind != entry.pipeline_class:
        wrong = f"{folder / INDEX} names a {kind}, and {entry.name} takes a {entry.pipeline_class}"
        raise UserError(f"{wrong}; give another folder, or its own model with --model {folder}")
    entry.check_index(pipeline_index(folder))


_opened: WeakSet[Any] = WeakSet()
"""The pipelines that this program has opened and that are in memory."""


def open_pipeline(entry: DiffusersEntry, folder: Path, settings: Settings, device: torch.device) -> Any:
    """Load a pipeline from safetensors onto its device.

    Files of a variant, as half-precision ones (``.fp16.safetensors``), are loaded for each component that has no
    others; if the denoiser has no others, for all components that have such files.

    Args:
        entry: of the model.
        folder: of the pipeline.
        settings: with the type of the weights and offloading.
        device: that computes.

    Raises:
        UserError: if the folder cannot be read, or offloading is set without a GPU.
    """
    import torch

    chosen = settings.model
    if chosen.offload != "none" and device.type == "cpu":
        raise UserError(f"offload={chosen.offload} needs a GPU to load weights onto; leave it out on the CPU")
    refuse_other_class(entry, folder)
    how = {"dtype": getattr(torch, chosen.dtype), "use_safetensors": True, "local_files_only": True}
    of_denoiser = variant_of(folder / entry.denoiser)
    if _opened and not entry.light:
        gc.collect()  # those that nothing uses any more refer to themselves, and there may be no room for another
    try:
        with lean_imports():
            others = {} if of_denoiser else components_of_variants(folder, how)
            pipeline = pipeline_on(entry, device).from_pretrained(
                folder, variant=of_denoiser, **others, **how, **entry.loading
            )
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"the pipeline in {folder} cannot be loaded: {reason}") from None
    _opened.add(pipeline)
    return prepared(pipeline, chosen.offload, device)


def variant_of(component: Path) -> str | None:
    """The variant of a component's weights, as ``fp16`` of ``model.fp16.safetensors``; None if it has plain ones.

    Raises:
        UserError: if it has several variants and no plain weights.
    """
    stems = [path.name.removesuffix(".safetensors") for path in component.glob("*.safetensors")]
    # Of model.fp16-00001-of-00002.safetensors too.
    variants = {stem.partition(".")[2].partition("-")[0] for stem in stems}
    if "" in variants or not variants:
        return None
    if len(variants) > 1:
        wrong = f"{component} has weights of the variants {', '.join(sorted(variants))} and no plain ones"
        raise UserError(f"{wrong}; leave one, or rename its files, as model.safetensors")
    return variants.pop()


def components_of_variants(folder: Path, how: Mapping[str, Any]) -> dict[str, Any]:
    """The loaded components of a pipeline's folder that have only weights of a variant, by name.

    Args:
        folder: of the pipeline.
        how: further arguments of ``from_pretrained``.
    """
    index = pipeline_index(folder)
    loaded = {}
    for name, kind in index.items():
        variant = variant_of(folder / name) if isinstance(kind, list) and (folder / name).is_dir() else None
        if variant is not None:
            component = getattr(import_module(kind[0]), kind[1])
            log.info("%s is loaded from its weights of the variant %s; it has no others", name, variant)
            loaded[name] = component.from_pretrained(folder / name, variant=variant, **how)
    return loaded


def pipeline_on(entry: DiffusersEntry, device: torch.device) -> Any:
    """The class of an entry's pipeline, without progress bars, for a device."""
    import diffusers
    import diffusers.utils.logging
    import transformers.utils.logging

    # The loaders' bars would overwrite the run's own.
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    # In float16 SDXL's pipeline casts its autoencoder at every call, with a warning each time.
    logging.getLogger("diffusers.models.modeling_utils").setLevel(logging.ERROR)
    # Pipelines warn at each call of sizes that they round and of texts without a mask; both are checked before.
    logging.getLogger("diffusers.pipelines").setLevel(logging.ERROR)
    logging.getLogger("diffusers.guiders").setLevel(logging.ERROR)  # they say that they are experimental
    warnings.filterwarnings("ignore", "`upcast_vae`", FutureWarning)
    # Otherwise diffusers searches every module for the device, several times a call.
    # A pipeline that is saved writes the name of its class.
    return type(entry.pipeline_class, (getattr(diffusers, entry.pipeline_class),), {"_execution_device": device})


def prepared(pipeline: Any, offload: str, device: torch.device) -> Any:
    """Prepare a pipeline for sampling: no gradients, decoding one picture at a time, weights on their device.

    Args:
        pipeline: is changed in place.
        offload: see :class:`riebench.settings.settings.ModelSettings`.
        device: that computes.
    """
    import torch

    pipeline.vae.enable_slicing()  # decoding a batch at once takes more memory than all the rest
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    if offload == "none":
        pipeline.to(device, silence_dtype_warnings=True)
    elif offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.enable_sequential_cpu_offload(device=device)
    return pipeline
