"""The SAE that a folder or the name of a site means, and its feature index. Torch is imported only to make an index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from riebench.features.feature_index import (
    FACTS,
    FeatureIndex,
    check_feature,
    check_index_of,
    is_index,
)
from riebench.features.index_folder import PlannedIndex, check_index_folder, refuse_another_index
from riebench.models.entries import INSTRUMENTS, entry_named
from riebench.models.mini import WEIGHTS
from riebench.models.model import ModelEntry
from riebench.models.sites import refuse_text
from riebench.prompts import GRAMMAR
from riebench.sae.folders import (
    FINAL,
    NoSaeError,
    feature_count,
    inside,
    only_sae,
    read_config,
    sae_fingerprint,
    warn_of_site,
)
from riebench.sae.layouts import hook_name
from riebench.settings.settings import Settings, refuse_without_effect
from riebench.util.errors import UserError, unknown
from riebench.util.files import cache_folder
from riebench.util.progress import tracked
from riebench.util.work_folder import check_work_folder

OWN_MODEL = "mini"
SHIPPED = WEIGHTS / "sae-index"
"""The indexes of mini's SAEs, with their common pictures in one folder; ``scripts/make_mini_index.py`` makes them."""
NO_INSTRUMENTS = "features are shown without it; leave it out"
FROM_GRAMMAR = 1000
"""Prompts from the grammar unless told otherwise."""


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
        """The name of its folder; of a folder of dictionary_learning's, also the one above, which names the site."""
        folder = (self.folder.parent if self.folder.name in (FINAL, "checkpoints") else self.folder).resolve()
        return f"{folder.parent.name}-{folder.name}" if folder.name.startswith("trainer_") else folder.name


def locate_sae(sae: str, entry: ModelEntry | None, settings: Settings) -> LocatedSae:
    """The SAE of a folder, or of a site of the model.

    Raises:
        UserError: if there is none, or the settings ask for another k or number of features.
    """
    folder = Path(sae)
    if not folder.is_dir() and ":" in sae:
        raise UserError(
            f"{sae} is no folder; an SAE that is an object in Python is indexed by riebench.features.make_index(model, "
            "site, sae, prompted, out, name=, prompts=), and 'riebench sae show' is given the folder out"
        )
    if not folder.is_dir():
        known = entry.saes(settings) if entry else {}
        if sae not in known:
            if not known:
                raise UserError(f"there is no SAE folder {sae!r}; give a folder, or a site and its --model")
            raise unknown("SAE", sae, known, "(no folder of that name, and no site of the model that has one)")
        folder = known[sae]
    folder = only_sae(folder)
    config = read_config(folder)
    if config is None:
        raise UserError(f"{folder} holds neither an SAE nor a feature index; expected config.json and weights in it")
    for name, value, key in (("k", settings.sae.k, "k"), ("features", settings.sae.features, "n_dirs_local")):
        if value is not None and config.get(key) != value:
            raise UserError(f"the SAE {folder} has {name} {config.get(key)}; leave out --set sae.{name}={value}")
    return LocatedSae(folder, sae_fingerprint(folder))


def site_of(sae: LocatedSae, entry: ModelEntry, settings: Settings, site: str | None) -> str:
    """The site of an SAE: the given one, else the one that its folder's name and its configuration say.

    Raises:
        UserError: if the model has no such site, its values are not as wide as the SAE's, the site is unknown, or the
            folder's name and the configuration say two sites.
    """
    config, sites = read_config(sae.folder) or {}, entry.sites(settings)
    if site is None:
        site = _site_by_folder(sae, entry, settings) or config.get("site")
    else:
        stated = config.get("site")
        if stated in sites and stated != site:
            raise UserError(f"the SAE {sae.folder} says that it is of {stated}, not of {site}; leave out --site")
        if (hook := stated or hook_name(config)) not in (None, site):
            warn_of_site(sae.folder, site, str(hook))
    if site is None:
        raise UserError(
            f"the site of the SAE {sae.folder} in {entry.name} is unknown; give it with --site, as --site mid.0"
        )
    if site not in sites:
        raise unknown("site", str(site), sites)
    refuse_text([site], sites, "an index, a score or a page")
    width = config.get("d_model")
    if width not in (None, sites[site].width):
        here = f"the values at {site} of {entry.name} are {sites[site].width} wide"
        raise UserError(f"the SAE {sae.folder} is {width} wide, {here}; say where it belongs with --site and --model")
    return site


def _site_by_folder(sae: LocatedSae, entry: ModelEntry, settings: Settings) -> str | None:
    """The site at which ``riebench run`` would use the SAE's folder; None if it would not use it."""
    root = sae.folder.parent if sae.folder.name == FINAL else sae.folder
    alone = settings.sae.model_copy(update={"folder": str(root), "k": None, "features": None, "name": None})
    for known in (entry.saes(settings), _saes_or_none(entry, settings.model_copy(update={"sae": alone}))):
        for site, folder in known.items():
            if folder.resolve() == sae.folder.resolve():
                return site
    return None


def _saes_or_none(entry: ModelEntry, settings: Settings) -> Mapping[str, Path]:
    try:
        return entry.saes(settings)
    except NoSaeError:
        return {}


def index_beside(sae: LocatedSae) -> Path:
    """The folder of an SAE's index beside the SAE's: NAME-index."""
    return sae.folder.with_name(f"{sae.folder.name}-index")


def index_in_cache(sae: LocatedSae) -> Path:
    """The folder in the user's cache in which ``riebench sae show`` keeps an index that it makes."""
    return cache_folder() / "feature-index" / _folder_name(sae)


def find_index(sae: LocatedSae, shipped: bool = True) -> Path | None:
    """The index of an SAE beside it, in the user's cache or, for mini's own SAEs, in the package; None without one.

    Args:
        sae: the SAE.
        shipped: whether the package's index will do, which is of the usual prompts.
    """
    folders = [index_beside(sae), index_in_cache(sae), *([SHIPPED / _folder_name(sae)] if shipped else [])]
    return next((folder for folder in folders if is_index(folder)), None)


def _folder_name(sae: LocatedSae) -> str:
    return f"{sae.name}-{sae.fingerprint}"


@dataclass(frozen=True)
class IndexRequest:
    """The options of ``riebench sae index``."""

    sae: str
    model: str | None
    settings: Settings
    site: str | None = None
    prompts: str | None = None
    count: int | None = None
    column: str | None = None
    steps: int = 1
    batch: int = 8


def carry_out_index(request: IndexRequest, out: Path) -> FeatureIndex:
    """Load the model and the SAE, and make the index in the folder ``out``, or what is left of it.

    Raises:
        UserError: for bad input, or a folder that holds another index or is being written; before torch is imported
            unless the check needs weights.
    """
    entry = entry_named(request.model or _model_in_config(request.sae) or OWN_MODEL)
    entry.check_settings(request.settings)
    refuse_without_effect(request.settings, INSTRUMENTS, NO_INSTRUMENTS)
    sae = locate_sae(request.sae, entry, request.settings)
    site = site_of(sae, entry, request.settings, request.site)
    if not 1 <= request.steps <= entry.most_steps:
        raise UserError(f"steps is {request.steps}; expected 1 to {entry.most_steps}, the most that the sampler takes")
    location = entry.prompts_location(request.prompts)
    count = request.count or (FROM_GRAMMAR if location == GRAMMAR else None)
    prompted = entry.read_prompts(location, count, "held-out", request.column)
    check_index_folder(out)
    refuse_another_index(out, PlannedIndex(sae.fingerprint, site, entry.name, request.steps, location, prompted))
    check_work_folder(out, FACTS)
    from riebench.features.index_making import make_index
    from riebench.instruments.loading import world_of

    model = entry.load(request.settings)
    model.batch = request.batch
    return make_index(
        model,
        site,
        sae.folder,
        prompted,
        out,
        name=sae.name,
        prompts=location,
        world=world_of(entry),
        steps=request.steps,
        track=tracked("pictures"),
    )


def find_or_make_index(request: IndexRequest, folder: Path | None, feature: int | None = None) -> FeatureIndex:
    """The index of an SAE.

    It is ``request.sae`` if that folder is an index, else the index in ``folder``, else the index beside the SAE or in
    the user's cache; if there is none, a new index, for which the model must be known.

    Args:
        request: the SAE, and how a new index is made.
        folder: of the index; a new index is made there.
        feature: a feature that it must have.

    Raises:
        UserError: if there is no such SAE or feature, the index belongs to another SAE, or none can be made.
    """
    refuse_without_effect(request.settings, INSTRUMENTS, NO_INSTRUMENTS)
    if is_index(Path(request.sae)):
        if folder is not None:
            raise UserError(f"{request.sae} is a feature index itself; leave out --index")
        index = FeatureIndex(request.sae)
    else:
        index = _index_of_sae(request, folder, feature)
    if feature is not None:
        index.feature(feature)
    return index


def _index_of_sae(request: IndexRequest, folder: Path | None, feature: int | None) -> FeatureIndex:
    model = request.model or (_model_in_config(request.sae) if Path(request.sae).is_dir() else OWN_MODEL)
    sae = locate_sae(request.sae, entry_named(model) if model else None, request.settings)
    if folder is None:
        index_folder = find_index(sae, shipped=request.prompts is None and request.count is None)
    else:
        index_folder = folder if is_index(folder) or (folder.exists() and model is None) else None
    if index_folder is not None:
        index = FeatureIndex(index_folder)
        check_index_of(index, sae.fingerprint)
        _refuse_other_pictures(index, request)
        return index
    if model is None:
        raise UserError(
            f"the SAE {request.sae} has no feature index; name the model that makes one with --model, or give --index"
        )
    if feature is not None:
        check_feature(feature, feature_count(sae.folder), sae.name)
    return carry_out_index(replace(request, model=model), folder or index_in_cache(sae))


def _refuse_other_pictures(index: FeatureIndex, request: IndexRequest) -> None:
    """Refuse an index of another model, site, prompts or number of prompts than the request names (UserError)."""
    facts = index.facts
    options = {"model": facts.model, "site": facts.site, "prompts": facts.prompts, "count": facts.pictures_made}
    for name, value in options.items():
        if getattr(request, name) not in (None, value):
            raise UserError(
                f"the index {index.folder} was made with --{name} {value}; leave out --{name}, or make another with "
                "'riebench sae index --out'"
            )


def _model_in_config(sae: str) -> str | None:
    """The model that the configuration in a folder of an SAE names."""
    model = (read_config(inside(Path(sae))) or {}).get("model")
    return model if isinstance(model, str) else None
