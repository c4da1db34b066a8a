"""Settings of the instruments: each by name, with the published value as its default. Needs no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from riebench.util.errors import UserError, unknown

# Absolute, so that they mean the same wherever the next process stands.
Location = Annotated[Path, AfterValidator(lambda path: path.resolve())]
FolderOrRepository = Annotated[
    str,
    BeforeValidator(lambda name: str(name) if isinstance(name, Path) else name),
    AfterValidator(lambda name: str(Path(name).resolve()) if Path(name).is_dir() else name),
]


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelSettings(_Group):
    """The denoiser."""

    location: FolderOrRepository | None = Field(
        None, description="Local folder or hub id of the pipeline, instead of the model's own"
    )
    revision: str | None = Field(None, description="Commit of the hub id")
    family: Literal["traced"] | None = Field(
        None, description="Try a pipeline of an unknown class: a dry trace finds its layout, unproven"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Type of weights and activations")
    device: str = Field("auto", description="cpu, cuda, cuda:1, mps; auto takes the best there is")
    offload: Literal["none", "model", "sequential"] = Field("none", description="Keep weights on the CPU until used")
    size: int | None = Field(None, gt=0, description="Side of the pictures in pixels; the model's own unless given")
    guidance: float | None = Field(None, ge=0, description="Guidance scale; the model's own unless given")
    true_guidance: float | None = Field(
        None, ge=0, description="Guidance scale of a second call with the negative prompt, for FLUX.1"
    )
    negative_prompt: str | None = Field(
        None, description="Prompt of the unconditional half; the model's own unless given"
    )
    unconditional: Literal["leave", "subtract"] = Field(
        "leave", description="What an intervention does in the unconditional half of a guided batch"
    )
    replay: bool = Field(True, description="Whether edited runs take what the base run has computed already")


class SaeSettings(_Group):
    """Sparse autoencoders."""

    folder: FolderOrRepository | None = Field(
        None, description="Folder (or hub id) of SAE folders, named for their blocks"
    )
    k: int | None = Field(None, gt=0, description="Take the SAEs with this k, where the folder has several")
    features: int | None = Field(None, gt=0, description="Take the SAEs with as many features")
    name: str | None = Field(
        None, min_length=1, description="Take the SAEs whose folders have these words in their paths, as trainer_1"
    )


class MaskerSettings(_Group):
    """From phrases to grid masks (PROTOCOL: Masks)."""

    box_threshold: float | None = Field(None, ge=0, le=1, description="Least score of a box; the protocol's by default")
    short_side: int = Field(800, gt=0, description="Pictures are resized to this short side for detection, pixels")
    long_side: int = Field(1333, gt=0, description="The long side at most, pixels")
    detector: Location | None = Field(None, description="Folder of Grounding DINO's checkpoint and its text encoder")
    segmenter: Location | None = Field(None, description="Folder of SAM 2.1's checkpoint")
    cache: Location | None = Field(None, description="Folder of found masks; one in the user's cache unless given")
    blur_kernel: int | None = Field(None, gt=0, description="Side of the blur, pixels; 31 as published (15 on mini)")
    union: Literal["instances", "before"] = Field(
        "instances", description="Bring each instance to the grid alone, or their union"
    )
    fallback: Literal["largest", "touched"] | None = Field(
        None, description="The cells kept where nothing is left; the protocol's by default"
    )
    add_object: Literal["source", "both"] = Field(
        "source", description="Add object: the source mask stands for both, or each picture has its own"
    )
    delete_object: Literal["base", "both"] = Field(
        "base", description="Delete object: the base mask stands for both, or each picture has its own"
    )
    special_phrases: bool = Field(True, description="Whether #everything, background and ~ mean what they mean")


class ClipSettings(_Group):
    """The CLIP that scores."""

    model: str = Field("ViT-L-14", description="Name of an open_clip model")
    location: Location | None = Field(None, description="Its checkpoint, or a folder in open_clip's layout")
    quick_gelu: bool | None = Field(
        None, description="Whether it has the activation of OpenAI's weights; the protocol's by default"
    )


class LpipsSettings(_Group):
    """The LPIPS that scores."""

    net: Literal["alex", "vgg", "squeeze"] = Field("alex", description="Its trunk")
    location: Location | None = Field(None, description="torchvision's file of the trunk")
    squeeze: Location | None = Field(None, description="torchvision's SqueezeNet, for lpips_squeeze_outside")


class DinoSettings(_Group):
    """The vision transformer of structure_distance."""

    model: str = Field("vit_base_patch8_224.dino", description="Its name in timm")
    location: Location | None = Field(None, description="Its checkpoint")
    byte_range: bool = Field(
        False, description="Hand pictures over in 0..255, as PnPInversion does, not in 0..1 as DINO was trained"
    )


class Settings(_Group):
    """All settings, by group."""

    weights: Location | None = Field(None, description="Folder with the parts of real models")
    model: ModelSettings = ModelSettings()
    sae: SaeSettings = SaeSettings()
    masker: MaskerSettings = MaskerSettings()
    clip: ClipSettings = ClipSettings()
    lpips: LpipsSettings = LpipsSettings()
    dino: DinoSettings = DinoSettings()


def described() -> Iterator[tuple[str, Any]]:
    """Every setting by name with its field (default, description)."""
    for name, field in Settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, _Group):
            yield from ((f"{name}.{inner}", f) for inner, f in kind.model_fields.items())
        else:
            yield name, field


def choices(field: Any) -> str:
    """The accepted values of a setting, as text for people."""
    kinds = [kind for kind in (get_args(field.annotation) or (field.annotation,)) if kind is not type(None)]
    kinds = [get_args(kind)[0] if hasattr(kind, "__metadata__") else kind for kind in kinds]
    words = [
        "|".join(map(str, get_args(kind)))
        if get_args(kind)
        else getattr(kind, "__name__", str(kind))
        if isinstance(kind, type)
        else str(kind)
        for kind in kinds
    ]
    return "|".join(words)


def changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """The settings with some values replaced, by name as for :func:`parse_settings`.

    Raises:
        UserError: for an unknown name or a value that does not fit.
    """
    now = {name: value for name, value in chosen(settings).items() if value is not None}
    return parse_settings(now | _by_full_name(changes))


def chosen(settings: Settings) -> dict[str, Any]:
    """The settings that were given a value, by full name; also where the value is the default."""
    given = settings.model_dump(exclude_unset=True)
    flat = {f"{g}.{n}": v for g, group in given.items() if isinstance(group, dict) for n, v in group.items()}
    return flat | {name: value for name, value in given.items() if not isinstance(value, dict)}


def refuse_without_effect(
    settings: Settings, beginnings: Iterable[str], why: str, but: Collection[str] = (), same: Mapping[str, Any] = {}
) -> None:
    """Refuse settings that were given a value and cannot act.

    Args:
        settings: that were given.
        beginnings: of the full names of those that cannot act.
        why: they cannot, and what to do.
        but: full names of exceptions.
        same: full names to values that may be given, since they are what acts anyway.

    Raises:
        UserError: if there is such a setting.
    """
    for name, value in chosen(settings).items():
        if name.startswith(tuple(beginnings)) and name not in but and not (name in same and same[name] == value):
            raise UserError(f"the setting {name} has no effect here: {why}")


def _full_name(word: str) -> str:
    """The full name of a setting, for ``__`` in place of the dot or the last part of a setting of the model."""
    name, known = word.replace("__", "."), dict(described())
    return name if name in known or f"model.{name}" not in known else f"model.{name}"


def _by_full_name(values: Mapping[str, Any]) -> dict[str, Any]:
    """Full names to values, without those that are None.

    Raises:
        UserError: if a setting has two values, by names that mean the same.
    """
    named: dict[str, Any] = {}
    for word, value in values.items():
        name = _full_name(word)
        if value is not None and named.setdefault(name, value) != value:
            raise UserError(f"the setting {name} is given twice, as {named[name]} and as {value}; leave out one")
    return named


def parse_settings(values: Mapping[str, Any]) -> Settings:
    """Settings by name; None leaves one as it is.

    Args:
        values: full names (``masker.box_threshold``, or with ``__`` for the dot), or the last part of a setting of the
            model (``device``), to values or their text.

    Raises:
        UserError: for an unknown name or a value that does not fit.
    """
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        raise UserError(f"the settings are {values!r}; expected name to value, as {{'model.device': 'cpu'}}")
    known = dict(described())
    nested: dict[str, Any] = {}
    for name, value in _by_full_name(values).items():
        if name not in known:
            raise unknown("setting", name, known)
        group, _, field = name.rpartition(".")
        (nested.setdefault(group, {}) if group else nested)[field] = value
    try:
        return Settings.model_validate(nested)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise UserError(f"the setting {name} is {first['input']!r}: {first['msg']}") from None
