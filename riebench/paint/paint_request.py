"""From the options of ``riebench paint`` to a studio. What needs no weights is checked before torch is imported."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from riebench.features.feature_index import FeatureIndex, check_index_of
from riebench.features.located_saes import (
    FROM_GRAMMAR,
    LocatedSae,
    find_index,
    index_in_cache,
    locate_sae,
    site_of,
)
from riebench.models.entries import entry_and_settings
from riebench.models.sites import refuse_text
from riebench.paint.snippet import Origin
from riebench.prompts import GRAMMAR
from riebench.sae.folders import inside, read_config
from riebench.util.errors import UserError
from riebench.util.progress import tracked

if TYPE_CHECKING:
    from riebench.models.model import Model, ModelEntry
    from riebench.paint.studio import Studio
    from riebench.prompts import Prompted
    from riebench.settings.settings import Settings
log = logging.getLogger(__name__)


class PaintRequest:
    """A model to paint with, as the options of ``riebench paint`` name it; its SAEs are on this machine.

    Args:
        model: name of the model.
        saes: folders of SAEs, or of folders of SAEs; empty for the model's own.
        settings: setting to value.
        prompts: location of the prompts of a new index; None for the model's own.
        count: number of prompts of a new index; None for all.
        column: column of a table of prompts.
        descriptions: site to feature to description.

    Attributes:
        entry: the model.
        settings: its settings.
        saes: site to its SAE.

    Raises:
        UserError: if there is no such model or SAE, or an SAE is of the text.
    """

    def __init__(
        self,
        model: str,
        saes: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        prompts: str | None = None,
        count: int | None = None,
        column: str | None = None,
        descriptions: Mapping[str, Mapping[int, str]] | None = None,
    ) -> None:
        self._model, self._own_saes = model, not saes
        self._prompts, self._count, self._column = prompts, count, column
        self._descriptions = descriptions or {}
        self.entry, self.settings = entry_and_settings(model, settings or {})
        self.saes = _located(saes, self.entry, self.settings)
        if not self.saes:
            raise UserError(f"{model} has no SAE on this machine, so no feature to paint; name an SAE with --sae DIR")
        refuse_text(self.saes, self.entry.sites(self.settings), "painting")

    def origin(self) -> Origin:
        """The call that loads the same model in Python, from any working folder."""
        folders = {} if self._own_saes else {site: sae.folder.resolve() for site, sae in self.saes.items()}
        keywords: dict[str, Any] = {}
        for group, value in self.settings.model_dump(mode="json", exclude_defaults=True).items():
            inside = value.items() if isinstance(value, dict) else ()
            keywords |= {f"{group}__{name}": inner for name, inner in inside} or {group: value}
        name = self.entry.name if Path(self._model).is_dir() else self._model
        return Origin(name, keywords, folders)

    def load_model(self) -> Model:
        """The loaded model with its SAEs, without feature indexes."""
        model = self.entry.load(self.settings)
        model.saes = {site: sae.folder for site, sae in self.saes.items()}
        return model

    def prompts(self) -> tuple[str, Sequence[Prompted]]:
        """The location of the prompts of new indexes, and the prompts.

        Raises:
            UserError: if the model has no prompts of its own and ``prompts`` names none, or they cannot be read.
        """
        location = self.entry.prompts_location(self._prompts)
        count = self._count or (FROM_GRAMMAR if location == GRAMMAR else None)
        return location, self.entry.read_prompts(location, count, "held-out", self._column)

    def sites_without_index(self) -> list[str]:
        """The sites whose SAE has no feature index yet."""
        return [site for site, sae in self.saes.items() if self._index(sae) is None]

    def _index(self, sae: LocatedSae) -> Path | None:
        """The folder of an SAE's index; None if it has none of the prompts that are asked for."""
        return find_index(sae, shipped=self._prompts is None and self._count is None)

    def open_studio(self) -> Studio:
        """The loaded model with its features; missing indexes are made in one pass and kept in the user's cache.

        Raises:
            UserError: if weights are missing or an index cannot be read.
        """
        missing = self.sites_without_index()
        prompted = self.prompts() if missing or self._prompts else None  # a wrong --prompts is always an error
        from riebench.paint.paint_instruments import PaintInstruments
        from riebench.paint.shelf import Shelf
        from riebench.paint.studio import Studio

        model = self.load_model()
        if missing and prompted:
            self._make_indexes(model, missing, *prompted)
        shelves = {}
        for site in sorted(self.saes, key=list(model.sites).index):
            index = FeatureIndex(self._index(self.saes[site]) or index_in_cache(self.saes[site]))
            check_index_of(index, self.saes[site].fingerprint)
            shelves[site] = Shelf(site, index, _in_range(self._descriptions.get(site, {}), len(index)))
        return Studio(model, shelves, PaintInstruments(self.entry, self.settings), self.origin())

    def _make_indexes(self, model: Model, sites: Sequence[str], location: str, prompted: Sequence[Prompted]) -> None:
        from riebench.features.index_making import make_indexes
        from riebench.features.index_pass import IndexPart
        from riebench.instruments.loading import world_of

        log.info("making the feature index of %s, once", ", ".join(sites))
        parts = [
            IndexPart(site, model.sae(site), index_in_cache(sae), sae.name, sae.fingerprint)
            for site, sae in self.saes.items()
            if site in sites
        ]
        for part in parts:
            part.out.parent.mkdir(parents=True, exist_ok=True)
        steps = self.entry.steps
        world = world_of(self.entry)
        make_indexes(model, parts, prompted, prompts=location, world=world, steps=steps, track=tracked("pictures"))


def _located(folders: Sequence[str], entry: ModelEntry, settings: Settings) -> dict[str, LocatedSae]:
    """Site to its SAE, from some folders; the model's own without folders.

    Raises:
        UserError: if a folder holds no SAE, or two SAEs are of one site.
    """
    if not folders:
        return _by_site(entry, settings)
    located: dict[str, LocatedSae] = {}
    for folder in folders:
        for site, sae in _in_folder(folder, entry, settings).items():
            if site in located:
                raise UserError(f"{located[site].folder} and {sae.folder} are both of {site}; leave one --sae out")
            located[site] = sae
    return located


def _in_folder(folder: str, entry: ModelEntry, settings: Settings) -> dict[str, LocatedSae]:
    path = Path(folder)
    if not path.is_dir() or read_config(inside(path)) is not None:
        sae = locate_sae(folder, entry, settings)
        return {site_of(sae, entry, settings, None): sae}
    several = settings.model_copy(update={"sae": settings.sae.model_copy(update={"folder": str(path.resolve())})})
    return _by_site(entry, several)


def _by_site(entry: ModelEntry, settings: Settings) -> dict[str, LocatedSae]:
    return {site: locate_sae(str(folder), entry, settings) for site, folder in entry.saes(settings).items()}


def _in_range(descriptions: Mapping[int, str], count: int) -> dict[int, str]:
    """The descriptions of features from 0 to ``count - 1``."""
    return {number: text for number, text in descriptions.items() if 0 <= number < count}
