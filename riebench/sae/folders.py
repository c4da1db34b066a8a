"""Find the folders of SAEs and read their configurations. Needs no torch."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from riebench.sae.layouts import (
    CONFIG,
    LAYOUTS,
    SAELENS_CONFIG,
    hook_name,
    layouts_in,
    layouts_text,
    outer_files,
    stated_config,
)
from riebench.settings.settings import SaeSettings
from riebench.util.errors import UserError
from riebench.util.files import fingerprint

log = logging.getLogger(__name__)
FINAL = "final"
"""The folder inside a published SAE folder that holds the SAE."""
DEEPEST = 4
"""Levels below a folder in which SAEs are looked for: that of the sites, and three below a site."""


class NoSaeError(UserError):
    """A folder has no SAE that fits."""


def inside(folder: Path) -> Path:
    """The folder with the files of an SAE: ``final`` in a published one, the only one below it, else the folder."""
    below = sae_folders(folder)
    if not below and (folder / FINAL).is_dir():
        return folder / FINAL
    return below[0] if len(below) == 1 else folder


def only_sae(folder: Path) -> Path:
    """As :func:`inside`, for the folder that a user gives of one SAE.

    Raises:
        UserError: if there is no such folder, or several SAEs lie below it.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give the folder of an SAE")
    below = sae_folders(folder)
    if len(below) > 1:
        raise UserError(f"{folder} holds several SAEs ({_described(folder, below)}); name the folder of one")
    return inside(folder)


def folder_names(site: str, *paths: str) -> tuple[str, ...]:
    """The names of a site's folders of SAEs: its own, and paths of its module where that is a block or an MLP."""
    part = site.partition("/")[2].partition(".")[0]
    return (site.replace("/", "-"), *(paths if part in ("", "mlp") else ()))


def sae_folders(root: Path, levels: int = DEEPEST) -> list[Path]:
    """The folders that hold an SAE, in a folder and so many levels below it; none inside another."""
    if not root.is_dir():
        return []
    if (root / FINAL).is_dir() and layouts_in(root / FINAL):
        return [root / FINAL]
    layouts = layouts_in(root)
    if layouts and layouts[0] in LAYOUTS:
        return [root]
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")) if levels else []
    below = [sae for folder in folders for sae in sae_folders(folder, levels - 1)]
    return below or ([root] if layouts else [])  # any .pt may lie beside folders of SAEs


def read_config(folder: Path) -> dict[str, Any] | None:
    """As :func:`stated_config`; where that does not say how many features there are, the weights are read.

    Raises:
        UserError: if the weights must be read and cannot be.
    """
    config = stated_config(folder)
    if config is None or "n_dirs_local" in config or not layouts_in(folder):
        return config
    files = [*folder.iterdir(), *outer_files(folder)]
    return config | _sizes_by_weights(folder, tuple((str(p), p.stat().st_mtime_ns) for p in files))


@cache
def _sizes_by_weights(folder: Path, mark: tuple[tuple[str, int], ...]) -> dict[str, Any]:
    from riebench.sae.store import load_sae  # torch, which a configuration does without

    sae = load_sae(folder)
    sizes = {"k": sae.k, "n_dirs_local": sae.n_features, "d_model": sae.d_model}
    return {name: value for name, value in sizes.items() if value is not None}


def feature_count(folder: Path) -> int:
    """How many features the SAE of a folder has, by its configuration.

    Raises:
        UserError: if the configuration does not say.
    """
    config = read_config(folder) or {}
    count = config.get("n_dirs_local")
    if not isinstance(count, int):
        raise UserError(
            f"the SAE folder {folder} has no configuration that says how many features it has; the layouts that are "
            f"read: {layouts_text()}"
        )
    return count


def find_saes(root: Path, names: Mapping[str, Iterable[str]], settings: SaeSettings) -> dict[str, Path]:
    """Site to SAE folder, for a folder of SAE folders named for their sites, or for one SAE folder.

    An SAE may lie in a folder ``final`` (as published), and up to :data:`DEEPEST` levels below; of a site's SAEs, those
    that lie least deep count.

    Args:
        root: the folder.
        names: site to names of its folders; a folder's name may go on after a ``_``.
        settings: its ``k``, ``features`` and ``name`` choose where a site has several.

    Raises:
        UserError: if a site has several that fit, there are none at all, or the name and the configuration of a folder
            say two sites.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root} of SAEs")
    by_site: dict[str, list[Path]] = {}
    for folder in sae_folders(root):
        site = site_by_folder(folder, stated_config(folder) or {}, names, root)
        if site is not None:
            by_site.setdefault(site, []).append(folder)
    fitting: dict[str, Path] = {}
    others: list[Path] = []
    for site, folders in by_site.items():
        chosen = _least_deep(root, [folder for folder in folders if _is_chosen(root, folder, settings)])
        if len(chosen) > 1:
            raise _several(root, site, chosen)
        others += [] if chosen else folders
        if chosen:
            fitting[site] = chosen[0]
    if not fitting:
        raise _none(root, names, others, settings)
    return {site: fitting[site] for site in names if site in fitting}


def _is_chosen(root: Path, folder: Path, settings: SaeSettings) -> bool:
    if settings.name is not None:
        # Whole words: trainer_1 is not trainer_10, and relu not jumprelu.
        words = rf"(?<![^\W_]){re.escape(settings.name)}(?![^\W_])"
        if not re.search(words, folder.relative_to(root.parent).as_posix()):
            return False
    if settings.k is None and settings.features is None:
        return True
    config = _config(folder)
    return settings.k in (None, config.get("k")) and settings.features in (None, config.get("n_dirs_local"))


def _least_deep(root: Path, folders: list[Path]) -> list[Path]:
    depths = [len(folder.relative_to(root).parts) - (folder.name == FINAL) for folder in folders]
    return [folder for folder, depth in zip(folders, depths, strict=True) if depth == min(depths)]


def _none(root: Path, names: Mapping[str, Iterable[str]], others: list[Path], settings: SaeSettings) -> NoSaeError:
    """No SAE fits: others are there, a folder of a site holds none, an SAE has no site, or there is nothing."""
    if others:
        chosen = {"sae.k": settings.k, "sae.features": settings.features, "sae.name": settings.name}
        named = " and ".join(f"{name}={value}" for name, value in chosen.items() if value is not None)
        return NoSaeError(f"{root} has no SAE folder that fits {named}; it has {_described(root, others)}")
    expected = next((name for several in names.values() for name in several), "mid.0")
    for folder in [root, *sorted(p for p in root.iterdir() if p.is_dir())]:
        if _named_site(folder, names) is not None and not sae_folders(folder, DEEPEST - 1):
            files = ", ".join(sorted(p.name for p in folder.iterdir())[:5]) or "nothing"
            return NoSaeError(
                f"{folder} is named for a site but holds no SAE that is read: found {files}; expected one of the "
                f"layouts {layouts_text()}"
            )
    unknown = [f"the site of {folder} is unknown" for folder in sae_folders(root)[:1]]
    named = f"{root} has no SAE folder that fits; expected folders named for sites, as {expected}"
    return NoSaeError("; ".join([named, *unknown]))


def _several(root: Path, site: str, folders: list[Path]) -> UserError:
    sizes = {(config.get("k"), config.get("n_dirs_local")) for config in map(_config, folders)}
    by_size = "" if len(sizes) < len(folders) else ", or choose with --set sae.k= or sae.features="
    return UserError(
        f"{root} has several SAEs for {site} ({_described(root, folders)}); name the folder of one, as --set "
        f"sae.folder={folders[0]}, choose with --set sae.name= and words of its path{by_size}, or make a folder with "
        "one for each site"
    )


def _config(folder: Path) -> dict[str, Any]:
    return read_config(folder) or {}


def _described(root: Path, folders: list[Path], most: int = 8) -> str:
    """Some SAE folders with their k and number of features."""
    facts = ((folder.relative_to(root), _config(folder)) for folder in folders[:most])
    texts = [f"{name}: k {config.get('k', '?')}, {config.get('n_dirs_local', '?')} features" for name, config in facts]
    return "; ".join(texts) + (f"; and {len(folders) - most} more" if len(folders) > most else "")


def _named_site(folder: Path, names: Mapping[str, Iterable[str]]) -> str | None:
    """The site for which a folder is named, or of which it is the path, as ``mid.0/mlp.1``."""
    sites = {name: site for site, several in names.items() for name in several}
    folder = folder if folder.name not in ("", "..") else folder.resolve()  # of a link, its own name
    inner = f"{folder.parent.name}-{folder.name}"
    for name, known in ((inner, [n for n in sites if "/" in sites[n]]), (folder.name, sites)):
        if named := next((n for n in known if name == n or name.startswith(f"{n}_")), None):
            return sites[named]
    return None


def site_by_folder(
    folder: Path, config: Mapping[str, Any], names: Mapping[str, Iterable[str]], root: Path
) -> str | None:
    """The site of an SAE by the names of its folder and those above, and by its configuration; None if none says one.

    Args:
        folder: that holds the SAE.
        config: its configuration.
        names: see :func:`find_saes`.
        root: the folder that was searched; if it holds the SAE itself, its name need not say the site.

    Raises:
        UserError: if both say a site, and not the same.
    """
    sites = {name: site for site, several in names.items() for name in several}
    named = next((site for site in (_named_site(each, names) for each in _upwards(folder, root)) if site), None)
    stated, trained_on = config.get("site"), hook_name(config)
    stated = sites.get(stated, stated) if isinstance(stated, str) else None
    trained_at = sites.get(trained_on, trained_on) if trained_on else None
    if named is None:
        known = stated or trained_at
        return known if inside(root) == folder and known in names else None
    if stated not in (None, named):
        raise UserError(
            f"the SAE folder {folder} is named for {named}, its {CONFIG} says site {stated!r}; rename the folder, or "
            f"set site to the right one in {CONFIG}"
        )
    if trained_on is not None and trained_at != named:
        warn_of_site(folder, named, trained_on)
    return named


def _upwards(folder: Path, root: Path) -> list[Path]:
    """The folders whose names may say the site of an SAE, the nearest first.

    They are those from the SAE's folder up to the searched one; where this holds the SAE, also some above it.
    """
    between = [folder, *(p for p in folder.parents if p.is_relative_to(root))]
    if folder not in (root, root / FINAL):
        return between
    return [*between, *root.absolute().parents[:DEEPEST]] if root.name != FINAL else between


def site_of_path(folder: Path, sites: Iterable[str]) -> str | None:
    """The site for which a folder of an SAE or one just above is named, as ``up.0.0``; None without one."""
    names = {site: folder_names(site) for site in sites}
    return next((site for site in (_named_site(each, names) for each in _upwards(folder, folder)) if site), None)


@cache
def warn_of_name(folder: Path, site: str, named: str) -> None:
    """Warn, once in a process, that an SAE is used at another site than its folder is named for."""
    log.warning("the SAE %s is named for %s; it is used at %s", folder, named, site)


@cache
def warn_of_site(sae: Path | str, site: str, trained_on: str) -> None:
    """Warn, once in a process, that an SAE, in a folder or of a class, is used at another site than it says."""
    log.warning("the SAE %s says that it was trained on %r; it is used at %s", sae, trained_on, site)


def sae_fingerprint(folder: Path) -> str:
    """A hash of an SAE's configuration and weights, wherever they lie; what else is in its folder does not count.

    Raises:
        UserError: if a file cannot be read.
    """
    kinds = (".safetensors", ".pth", ".pt")
    files = [p for p in folder.iterdir() if p.suffix in kinds or p.name in (CONFIG, SAELENS_CONFIG)]
    try:
        return fingerprint([*files, *outer_files(folder)], folder)
    except OSError as error:
        raise UserError(f"the SAE folder {folder} cannot be read: {error.strerror}") from None
