"""Find the folders of SAEs and read their configurations. Needs no torch."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from riebench.settings.settings import SaeSettings
from riebench.util.errors import UserError
from riebench.util.files import fingerprint

log = logging.getLogger(__name__)
CONFIG, SAELENS_CONFIG = "config.json", "cfg.json"
FINAL = "final"
"""The folder inside a published SAE folder that holds the SAE."""


class Layout(NamedTuple):
    """The files of an SAE.

    Attributes:
        library: that writes it.
        weights: name of the file of weights.
        config: name of the configuration.
    """

    library: str
    weights: str
    config: str


OURS = Layout("riebench", "state_dict.safetensors", CONFIG)
PUBLISHED = Layout("the published SAEs", "state_dict.pth", CONFIG)
SAELENS = Layout("SAELens", "sae_weights.safetensors", SAELENS_CONFIG)
LEARNED = Layout("dictionary_learning", "ae.pt", CONFIG)
SPARSIFY = Layout("sparsify", "sae.safetensors", SAELENS_CONFIG)
LAYOUTS = (OURS, PUBLISHED, SAELENS, LEARNED, SPARSIFY)


class NoSaeError(UserError):
    """A folder has no SAE that fits."""


def layouts_in(folder: Path) -> list[Layout]:
    """The layouts whose file of weights lies in a folder."""
    return [layout for layout in LAYOUTS if (folder / layout.weights).is_file()]


def layouts_text() -> str:
    """The layouts that are read, for messages."""
    return ", ".join(f"{layout.config} and {layout.weights} ({layout.library})" for layout in LAYOUTS)


def inside(folder: Path) -> Path:
    """The folder with the files of an SAE: ``final`` in a published one, else the folder itself."""
    return folder / FINAL if (folder / FINAL).is_dir() else folder


def read_config(folder: Path) -> dict[str, Any] | None:
    """The configuration of an SAE folder in any layout that is read, ``k`` and ``n_dirs_local`` among it.

    None if it holds no SAE.
    """
    layouts = layouts_in(folder)
    for name in [layouts[0].config] if layouts else [CONFIG, SAELENS_CONFIG]:
        try:
            config = json.loads((folder / name).read_text())
        except (OSError, ValueError):
            continue
        return _with_size(config) if isinstance(config, dict) else None
    return None


def _with_size(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with ``k``, ``n_dirs_local`` and ``d_model``, under whatever names a library writes them."""
    inner, kwargs = _mapping(config, "trainer"), _mapping(config, "activation_fn_kwargs")
    expanded = (config.get("d_in") or 0) * (config.get("expansion_factor") or 0)  # sparsify
    size = (config.get("d_sae"), inner.get("dict_size"), config.get("num_latents") or None, expanded or None)
    k, width = (inner.get("k"), kwargs.get("k")), (config.get("d_in"), inner.get("activation_dim"))
    several = {"n_dirs_local": size, "k": k, "d_model": width}
    sized = {name: next(filter(None, values), None) for name, values in several.items()} | config
    return {name: value for name, value in sized.items() if value is not None}


def _mapping(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = config.get(name)
    return value if isinstance(value, dict) else {}


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

    Published folders have the SAE in a folder ``final`` of theirs.

    Args:
        root: the folder.
        names: site to names of its folders; a folder's name may go on after a ``_``.
        settings: its ``k`` and ``features`` choose where a site has several.

    Raises:
        UserError: if a site has several that fit, there are none at all, or the name and the configuration of a folder
            say two sites.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root} of SAEs")
    fitting: dict[str, list[Path]] = {}
    others: list[Path] = []
    for folder in [root, *sorted(p for p in root.iterdir() if p.is_dir())]:
        config = read_config(inside(folder))
        site = None if config is None else site_by_folder(folder, config, names, stated_is_enough=folder == root)
        if config is None or site is None:
            continue
        if settings.k in (None, config.get("k")) and settings.features in (None, config.get("n_dirs_local")):
            fitting.setdefault(site, []).append(inside(folder))
        else:
            others.append(inside(folder))
    for site, folders in fitting.items():
        if len(folders) > 1:
            raise _several(root, site, folders)
    if not fitting:
        if others:
            chosen = {"sae.k": settings.k, "sae.features": settings.features}
            named = " and ".join(f"{name}={value}" for name, value in chosen.items() if value is not None)
            raise NoSaeError(f"{root} has no SAE folder that fits {named}; it has {_described(root, others)}")
        expected = next((name for several in names.values() for name in several), "mid.0")
        raise NoSaeError(f"{root} has no SAE folder that fits; expected folders named for sites, as {expected}")
    return {site: fitting[site][0] for site in names if site in fitting}


def _several(root: Path, site: str, folders: list[Path]) -> UserError:
    sizes = {(config.get("k"), config.get("n_dirs_local")) for config in map(_config, folders)}
    by_size = "" if len(sizes) < len(folders) else ", or choose with --set sae.k= or sae.features="
    return UserError(
        f"{root} has several SAEs for {site} ({_described(root, folders)}); name the folder of one, as --set "
        f"sae.folder={folders[0]}, or make a folder with one for each site{by_size}"
    )


def _config(folder: Path) -> dict[str, Any]:
    return read_config(folder) or {}


def _described(root: Path, folders: list[Path], most: int = 3) -> str:
    """Some SAE folders with their k and number of features."""
    facts = ((folder.relative_to(root), _config(folder)) for folder in folders[:most])
    texts = [f"{name}: k {config.get('k', '?')}, {config.get('n_dirs_local', '?')} features" for name, config in facts]
    return "; ".join(texts) + (f"; and {len(folders) - most} more" if len(folders) > most else "")


def site_by_folder(
    folder: Path, config: Mapping[str, Any], names: Mapping[str, Iterable[str]], stated_is_enough: bool
) -> str | None:
    """The site of an SAE by the name of its folder and by its configuration; None if neither says one of ``names``.

    Args:
        folder: of the SAE; not the folder ``final`` in it.
        config: its configuration.
        names: see :func:`find_saes`.
        stated_is_enough: whether the name of the folder need not say the site.

    Raises:
        UserError: if both say a site, and not the same.
    """
    sites = {name: site for site, several in names.items() for name in several}
    name = folder.name if folder.name not in ("", "..") else folder.resolve().name  # of a link, its own name
    named = next((sites[n] for n in sites if name == n or name.startswith(f"{n}_")), None)
    stated, trained_on = config.get("site"), hook_name(config)
    stated = sites.get(stated, stated) if isinstance(stated, str) else None
    if named is None:
        known = stated or sites.get(trained_on or "")
        return known if stated_is_enough and known in names else None
    if stated not in (None, named):
        raise UserError(
            f"the SAE folder {folder} is named for {named}, its {CONFIG} says site {stated!r}; rename the folder, or "
            f"set site to the right one in {CONFIG}"
        )
    if trained_on is not None and sites.get(trained_on) != named:
        warn_of_site(folder, named, trained_on)
    return named


def hook_name(config: Mapping[str, Any]) -> str | None:
    """The module on whose values other libraries say that an SAE was trained; None where they do not."""
    stated = (
        _mapping(config, "metadata").get("hook_name"),  # SAELens 6
        config.get("hook_name"),  # SAELens before 6
        config.get("hook_point"),
        _mapping(config, "trainer").get("submodule_name"),  # dictionary_learning
    )
    return next((name for name in stated if isinstance(name, str) and name), None)


@cache
def warn_of_site(folder: Path, site: str, trained_on: str) -> None:
    """Warn, once in a process, that an SAE is used at another site than it says."""
    log.warning("the SAE %s says that it was trained on %r; it is used at %s", folder, trained_on, site)


def sae_fingerprint(folder: Path) -> str:
    """A hash of an SAE's configuration and weights; what else lies in its folder does not count.

    Raises:
        UserError: if a file cannot be read.
    """
    kinds = (".safetensors", ".pth", ".pt")
    files = [p for p in folder.iterdir() if p.suffix in kinds or p.name in (CONFIG, SAELENS_CONFIG)]
    try:
        return fingerprint(files, folder)
    except OSError as error:
        raise UserError(f"the SAE folder {folder} cannot be read: {error.strerror}") from None
