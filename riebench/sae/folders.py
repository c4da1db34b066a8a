"""Find the folders of SAEs and read their configurations. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from riebench.settings.settings import SaeSettings
from riebench.util.errors import UserError
from riebench.util.files import fingerprint

CONFIG, SAELENS_CONFIG = "config.json", "cfg.json"


def read_config(folder: Path) -> dict[str, Any] | None:
    """The configuration of an SAE folder in any layout that is read, ``k`` and ``n_dirs_local`` among it.

    None if it holds no SAE.
    """
    for name in (CONFIG, SAELENS_CONFIG):
        try:
            config = json.loads((folder / name).read_text())
        except (OSError, ValueError):
            continue
        return _with_size(config) if isinstance(config, dict) else None
    return None


def _with_size(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with ``k`` and ``n_dirs_local``, read from the names that other libraries give them."""
    trainer = config.get("trainer")
    inner: dict[str, Any] = trainer if isinstance(trainer, dict) else {}  # dictionary_learning
    expanded = (config.get("d_in") or 0) * (config.get("expansion_factor") or 0)  # sparsify
    size = (config.get("d_sae"), inner.get("dict_size"), config.get("num_latents") or None, expanded or None)
    k = (inner.get("k"), (config.get("activation_fn_kwargs") or {}).get("k"))
    sized = {"n_dirs_local": next(filter(None, size), None), "k": next(filter(None, k), None), **config}
    return {name: value for name, value in sized.items() if value is not None}


def feature_count(folder: Path) -> int:
    """How many features the SAE of a folder has, by its configuration.

    Raises:
        UserError: if the configuration does not say.
    """
    config = read_config(folder) or {}
    count = config.get("n_dirs_local")
    if not isinstance(count, int):
        raise UserError(f"the SAE folder {folder} has no configuration that says how many features it has")
    return count


def find_saes(root: Path, names: Mapping[str, Iterable[str]], settings: SaeSettings) -> dict[str, Path]:
    """Site to SAE folder, for a folder of SAE folders (or one SAE folder) named for their sites.

    Published folders have the SAE in a folder ``final`` of theirs.

    Args:
        root: the folder.
        names: site to names of its folders; a folder's name may go on after a ``_``.
        settings: its ``k`` and ``features`` choose where a site has several.

    Raises:
        UserError: if a site has several that fit, or there are none at all.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root} of SAEs")
    sites = {name: site for site, several in names.items() for name in several}
    fitting: dict[str, list[Path]] = {}
    for folder in [root, *sorted(p for p in root.iterdir() if p.is_dir())]:
        site = next((sites[n] for n in sites if folder.name == n or folder.name.startswith(f"{n}_")), None)
        inside = folder / "final" if (folder / "final").is_dir() else folder
        config = read_config(inside) if site else None
        if site is None or config is None:
            continue
        size = config.get("n_dirs_local")
        if settings.k in (None, config.get("k")) and settings.features in (None, size):
            fitting.setdefault(site, []).append(inside)
    for site, folders in fitting.items():
        if len(folders) > 1:
            several = ", ".join(str(f.relative_to(root)) for f in folders[:3])
            raise UserError(
                f"{root} has several SAEs for {site} ({several}); choose with --set sae.k=160 or sae.features="
            )
    if not fitting:
        expected = next(iter(sites), "mid.0")
        raise UserError(f"{root} has no SAE folder that fits; expected folders named for sites, as {expected}")
    return {site: fitting[site][0] for site in names if site in fitting}


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
