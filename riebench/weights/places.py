"""Find the parts of a model on this machine."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from riebench.settings.settings import Settings
from riebench.util.errors import UserError
from riebench.weights.parts import SCORERS, HubFiles, Part

ROOT = "RIEBENCH_WEIGHTS"
STANDIN = "standin.json"


def default_root() -> Path:
    """The weights folder: ``$RIEBENCH_WEIGHTS``, or ``riebench/weights`` in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get(ROOT) or cache / "riebench" / "weights")


@dataclass(frozen=True)
class LocatedPart:
    """A part with its folder on this machine.

    Attributes:
        part: the part.
        path: its folder; None if the part is missing.
        missing: files that the part's folder lacks.
    """

    part: Part
    path: Path | None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Weights:
    """The folders of a model's parts.

    Attributes:
        model: name of the model.
        root: the weights folder.
        folders: name of a part to its folder.
    """

    model: str
    root: Path
    folders: Mapping[str, Path] = field(default_factory=dict)

    @property
    def standin(self) -> bool:
        """Whether the weights are random, made by ``riebench standin``."""
        return is_standin(self.root)


def weights_root(settings: Settings) -> Path:
    """The weights folder of a run."""
    return settings.weights or default_root()


def is_standin(root: Path) -> bool:
    """Whether the weights in a folder are random, made by ``riebench standin``."""
    return (root / STANDIN).is_file()


def find_part(part: Part, root: Path, named: Path | None = None) -> LocatedPart:
    """Find a part: in the folder that the settings name, else under the weights folder, else in the hub's cache.

    Args:
        part: to find.
        root: the weights folder.
        named: the folder that the settings name; then no other is searched.
    """
    folder = named or root / part.folder
    missing = tuple(name for name in part.needs if not (folder / name).exists())
    if not missing:
        return LocatedPart(part, folder)
    if named is None and isinstance(part.source, HubFiles):
        cached = _in_hub_cache(part.source)
        if cached is not None and all((cached / name).exists() for name in part.needs):
            return LocatedPart(part, cached)
    return LocatedPart(part, None, missing)


def _in_hub_cache(source: HubFiles) -> Path | None:
    try:
        return hub_snapshot(source.repo, source.revision)
    except UserError:
        return None


def hub_snapshot(repo: str, revision: str | None) -> Path:
    """The folder of a repository in the hub's cache; nothing is downloaded.

    Raises:
        UserError: if the cache does not hold the repository.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except HFValidationError:
        raise UserError(f"{repo!r} is no folder, and no repository of the hub can have that name; give one") from None
    except (LocalEntryNotFoundError, OSError, ValueError):
        at = f" --revision {revision}" if revision else ""
        raise UserError(
            f"{repo!r} is neither a folder nor in the hub's cache; download it with 'hf download {repo}{at}'"
        ) from None


def named_folders(settings: Settings) -> dict[str, Path]:
    """Name of a part to the folder that the settings name."""
    masker, model = settings.masker, settings.model.location
    folders = {
        "detector": masker.detector,
        "text-encoder": masker.detector and masker.detector / "bert-base-uncased",
        "segmenter": masker.segmenter,
        "model": Path(model) if model and Path(model).is_dir() else None,
    }
    return {name: path for name, path in folders.items() if path is not None}


def replaced_parts(settings: Settings) -> list[str]:
    """Names of the parts in whose place the settings name files or a repository of the hub."""
    hub = settings.model.location is not None and not Path(settings.model.location).is_dir()
    replaced = {
        "model": hub,
        "sae": settings.sae.folder is not None,
        "clip": settings.clip.location is not None,
        "lpips": settings.lpips.location is not None,
    }
    return [name for name, value in replaced.items() if value]


def find_parts(parts: Sequence[Part], settings: Settings) -> list[LocatedPart]:
    """Find all parts but those that the settings replace; missing parts are among the result."""
    root, named, replaced = weights_root(settings), named_folders(settings), replaced_parts(settings)
    return [find_part(part, root, named.get(part.name)) for part in parts if part.name not in replaced]


def locate(
    model: str, parts: Sequence[Part], settings: Settings, optional: Collection[str] = (), without: Collection[str] = ()
) -> Weights:
    """Find the parts that a model needs.

    Args:
        model: name of the model.
        parts: of the model.
        settings: of the run.
        optional: names of parts that may be missing.
        without: names of parts that are not needed.

    Raises:
        UserError: if parts are missing; the message lists them with the command that gets them.
    """
    root, named = weights_root(settings), named_folders(settings)
    located = [part for part in find_parts(parts, settings) if part.part.name not in without]
    missing = [part for part in located if part.path is None]
    if any(part.part.name not in optional for part in missing):
        lines = "\n".join(f"  {describe(part, root, named)}" for part in missing)
        # A folder of the user's is in place of the model's own weights, which need not be fetched, too.
        some = "" if len(missing) == len(parts) else "".join(f" --part {part.part.name}" for part in missing)
        raise UserError(
            f"{model} cannot run: {len(missing)} of {len(located)} parts are missing under {root}\n{lines}\n"
            f"get them with 'riebench fetch {model}{some}', see 'riebench doctor --model {model}', "
            "or name the folder that holds them with --weights"
        )
    return Weights(model, root, {part.part.name: part.path for part in located if part.path is not None})


def scorer_file(name: str, model: str, settings: Settings) -> Path:
    """The file of a network that a single metric needs.

    Args:
        name: of the network's part.
        model: name of the model, for the command that gets the file.
        settings: of the run.

    Raises:
        UserError: if the file is missing.
    """
    setting, file = {
        "dino": ("dino.location", settings.dino.location),
        "lpips-squeeze": ("lpips.squeeze", settings.lpips.squeeze),
    }[name]
    if file is not None:
        if not file.is_file():
            raise UserError(f"there is no file {file}; name the weights of {name} with --set {setting}=FILE")
        return file
    (part,) = (part for part in SCORERS if part.name == name)
    located = find_part(part, weights_root(settings))
    if located.path is None:
        line = describe(located, weights_root(settings), {})
        get = f"get it with 'riebench fetch {model} --part {name}', or name its file with --set {setting}=FILE"
        raise UserError(f"a metric needs {line}; {get}")
    return located.path / part.needs[0]


def describe(located: LocatedPart, root: Path, named: Mapping[str, Path]) -> str:
    """One line on a missing part: its size, its origin, and the file that its folder lacks.

    Args:
        located: the part.
        root: the weights folder.
        named: see :func:`named_folders`.
    """
    part, source = located.part, located.part.source
    folder = named.get(part.name) or root / part.folder
    lacks = located.missing[0] + (f" and {len(located.missing) - 1} more" if len(located.missing) > 1 else "")
    address = source.address if isinstance(source, HubFiles) else source.url
    size = f"{part.size / 1e9:.1f} GB" if part.size >= 1e8 else f"{part.size / 1e6:.1f} MB"
    return f"{part.name:13} {size:>8}  {address}  (no {lacks} in {folder})"
