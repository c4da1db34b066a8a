"""Where the parts lie on this machine."""

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
class Found:
    """A part and where it is.

    Attributes:
        part: the part.
        path: its folder, or None if it is nowhere.
        missing: what is not in the folder where it should be.
    """

    part: Part
    path: Path | None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Weights:
    """All parts of a model, found.

    Attributes:
        model: its name.
        root: the weights folder.
        folders: part to its folder.
    """

    model: str
    root: Path
    folders: Mapping[str, Path] = field(default_factory=dict)

    @property
    def standin(self) -> bool:
        """Whether these are random weights, made to try the code."""
        return is_standin(self.root)


def weights_root(settings: Settings) -> Path:
    """The weights folder of a run."""
    return settings.weights or default_root()


def is_standin(root: Path) -> bool:
    """Whether the weights in a folder are random, made to try the code."""
    return (root / STANDIN).is_file()


def find_part(part: Part, root: Path, given: Path | None = None) -> Found:
    """Look for a part where it was said to be, else under the weights folder, else in the hub's own cache."""
    folder = given or root / part.folder
    missing = tuple(name for name in part.needs if not (folder / name).exists())
    if not missing:
        return Found(part, folder)
    if given is None and isinstance(part.source, HubFiles):
        cached = _in_hub_cache(part.source)
        if cached is not None and all((cached / name).exists() for name in part.needs):
            return Found(part, cached)
    return Found(part, None, missing)


def _in_hub_cache(source: HubFiles) -> Path | None:
    try:
        return hub_snapshot(source.repo, source.revision)
    except UserError:
        return None


def hub_snapshot(repo: str, revision: str | None) -> Path:
    """The folder of a repository in the hub's cache; nothing is downloaded.

    Raises:
        UserError: if it is not there.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except HFValidationError:
        raise UserError(f"{repo!r} is no folder, and no repository of the hub can have that name") from None
    except (LocalEntryNotFoundError, OSError, ValueError):
        at = f" --revision {revision}" if revision else ""
        raise UserError(
            f"{repo!r} is neither a folder nor in the hub's cache; download it with 'hf download {repo}{at}'"
        ) from None


def given_folders(settings: Settings) -> dict[str, Path]:
    """Folders of parts that the settings name."""
    masker, model = settings.masker, settings.model.location
    folders = {
        "detector": masker.detector,
        "text-encoder": masker.detector and masker.detector / "bert-base-uncased",
        "segmenter": masker.segmenter,
        "model": Path(model) if model and Path(model).is_dir() else None,
    }
    return {name: path for name, path in folders.items() if path is not None}


def unneeded(settings: Settings) -> list[str]:
    """Parts that the settings take from elsewhere, file by file."""
    hub = settings.model.location is not None and not Path(settings.model.location).is_dir()
    elsewhere = {
        "model": hub,
        "sae": settings.sae.folder is not None,
        "clip": settings.clip.location is not None,
        "lpips": settings.lpips.location is not None,
    }
    return [name for name, value in elsewhere.items() if value]


def look(parts: Sequence[Part], settings: Settings) -> list[Found]:
    """Every part that the settings do not replace, found or not."""
    root, given, skipped = weights_root(settings), given_folders(settings), unneeded(settings)
    return [find_part(p, root, given.get(p.name)) for p in parts if p.name not in skipped]


def locate(
    model: str, parts: Sequence[Part], settings: Settings, optional: Collection[str] = (), without: Collection[str] = ()
) -> Weights:
    """Find the parts of a model.

    Args:
        model: its name.
        parts: its parts.
        settings: of the run.
        optional: parts that may be missing.
        without: parts that are not needed.

    Raises:
        UserError: listing what is missing, with the command that gets it.
    """
    root, given = weights_root(settings), given_folders(settings)
    found = [f for f in look(parts, settings) if f.part.name not in without]
    lacking = [f for f in found if f.path is None]
    if any(f.part.name not in optional for f in lacking):
        said = "\n".join(f"  {describe(f, root, given)}" for f in lacking)
        raise UserError(
            f"{model} cannot run: {len(lacking)} of {len(found)} parts are missing under {root}\n{said}\n"
            f"get them with 'riebench fetch {model}', see 'riebench doctor --model {model}', "
            "or name the folder that holds them with --weights"
        )
    return Weights(model, root, {f.part.name: f.path for f in found if f.path is not None})


def scorer_file(name: str, model: str, settings: Settings) -> Path:
    """The file of a network that a single metric needs.

    Args:
        name: of its part.
        model: name of the model, for the command that gets it.
        settings: of the run.

    Raises:
        UserError: if it is not there.
    """
    setting, given = {
        "dino": ("dino.location", settings.dino.location),
        "lpips-squeeze": ("lpips.squeeze", settings.lpips.squeeze),
    }[name]
    if given is not None:
        if not given.is_file():
            raise UserError(f"there is no file {given}; name the weights of {name} with --set {setting}=FILE")
        return given
    (part,) = (part for part in SCORERS if part.name == name)
    found = find_part(part, weights_root(settings))
    if found.path is None:
        said = describe(found, weights_root(settings), {})
        get = f"get it with 'riebench fetch {model} --part {name}', or name its file with --set {setting}=FILE"
        raise UserError(f"a metric needs {said.strip()}; {get}")
    return found.path / part.needs[0]


def describe(found: Found, root: Path, given: Mapping[str, Path]) -> str:
    """One line on a missing part: what is not there, and where it comes from."""
    part, source = found.part, found.part.source
    folder = given.get(part.name) or root / part.folder
    lacks = found.missing[0] + (f" and {len(found.missing) - 1} more" if len(found.missing) > 1 else "")
    address = source.address if isinstance(source, HubFiles) else source.url
    size = f"{part.size / 1e9:.1f} GB" if part.size >= 1e8 else f"{part.size / 1e6:.1f} MB"
    return f"{part.name:13} {size:>8}  {address}  (no {lacks} in {folder})"
