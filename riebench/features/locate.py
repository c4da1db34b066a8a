"""Which SAE is meant by a folder or the name of a site, and where its feature index is. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from riebench.features.feature_index import is_index
from riebench.models.model import ModelEntry
from riebench.sae.folders import read_config, sae_fingerprint
from riebench.settings.settings import Settings
from riebench.util.errors import UserError, unknown
from riebench.util.files import cache_folder

FINAL = "final"
"""The folder inside a published SAE folder that holds the SAE."""


class LocatedSae(NamedTuple):
    """An SAE on the disk.

    Attributes:
        folder: with its configuration and weights.
        fingerprint: of both.
    """

    folder: Path
    fingerprint: str

    @property
    def name(self) -> str:
        """What people call it: the name of its folder."""
        return (self.folder.parent if self.folder.name == FINAL else self.folder).resolve().name


def locate_sae(sae: str, entry: ModelEntry | None, settings: Settings) -> LocatedSae:
    """The SAE of a folder, or of a site of the model.

    Raises:
        UserError: if there is none.
    """
    folder = Path(sae)
    if not folder.is_dir():
        known = entry.saes(settings) if entry else {}
        if sae not in known:
            if not known:
                raise UserError(f"there is no SAE folder {sae!r}; give a folder, or a site and its --model")
            raise unknown("SAE (no folder of that name, and no site of the model that has one)", sae, known)
        folder = known[sae]
    elif read_config(folder) is None and (folder / FINAL).is_dir():
        folder /= FINAL
    if read_config(folder) is None:
        raise UserError(f"{folder} holds neither an SAE nor a feature index; expected config.json and weights in it")
    return LocatedSae(folder, sae_fingerprint(folder))


def site_of(sae: LocatedSae, entry: ModelEntry, settings: Settings, site: str | None) -> str:
    """The site that an SAE belongs to: as given, else as its configuration says, else as its folder is named.

    Raises:
        UserError: if the model has no such site, its values are not as wide as the SAE's, or nothing says which it is.
    """
    config, sites = read_config(sae.folder) or {}, entry.sites(settings)
    site = site or config.get("site") or _site_by_name(sae, entry, settings)
    if site not in sites:
        raise unknown("site", str(site), sites)
    width = config.get("d_model", config.get("d_in"))
    if width not in (None, sites[site].width):
        here = f"the values at {site} of {entry.name} are {sites[site].width} wide"
        raise UserError(f"the SAE {sae.folder} is {width} wide, {here}; say where it belongs with --site and --model")
    return site


def _site_by_name(sae: LocatedSae, entry: ModelEntry, settings: Settings) -> str:
    root = sae.folder.parent if sae.folder.name == FINAL else sae.folder
    named = settings.model_copy(update={"sae": settings.sae.model_copy(update={"folder": str(root)})})
    for known in (entry.saes(settings), _saes_or_none(entry, named)):
        for site, folder in known.items():
            if folder.resolve() == sae.folder.resolve():
                return site
    raise UserError(
        f"nothing says which site of {entry.name} the SAE {sae.folder} belongs to; say it with --site mid.0"
    )


def _saes_or_none(entry: ModelEntry, settings: Settings) -> Mapping[str, Path]:
    try:
        return entry.saes(settings)
    except UserError:
        return {}


def index_beside(sae: LocatedSae) -> Path:
    """Where an SAE's index is looked for: beside its folder, named NAME-index."""
    return sae.folder.with_name(f"{sae.folder.name}-index")


def index_in_cache(sae: LocatedSae) -> Path:
    """Where ``riebench sae show`` keeps the indexes that it makes: in the user's cache."""
    return cache_folder() / "feature-index" / f"{sae.name}-{sae.fingerprint}"


def find_index(sae: LocatedSae) -> Path | None:
    """The index of an SAE beside it or in the user's cache; None if there is none."""
    return next((folder for folder in (index_beside(sae), index_in_cache(sae)) if is_index(folder)), None)
