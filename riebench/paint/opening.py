"""From what is asked for on the command line to a studio. What needs no weights is checked before torch is imported."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from riebench.features.feature_index import FeatureIndex, check_index_of
from riebench.features.located_saes import (
    FINAL,
    FROM_GRAMMAR,
    LocatedSae,
    find_index,
    index_in_cache,
    locate_sae,
    site_of,
)
from riebench.models.entries import entry_and_settings
from riebench.paint.snippet import Origin
from riebench.prompts import GRAMMAR, read_prompts
from riebench.sae.folders import read_config
from riebench.util.errors import UserError
from riebench.util.progress import tracked

if TYPE_CHECKING:
    from riebench.models.model import Model, ModelEntry
    from riebench.paint.studio import Studio
    from riebench.prompts import Prompted
    from riebench.settings.settings import Settings


@dataclass(frozen=True)
class Opening:
    """A model that is to be painted with; see the options of ``riebench paint``.

    Attributes:
        model: its name.
        saes: folders of SAEs, or of folders of them; its own if empty.
        settings: name to value.
        prompts: where the prompts of a new index come from.
        count: how many of them.
        column: of a table of prompts.
        descriptions: site to feature to description.
    """

    model: str
    saes: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    prompts: str | None = None
    count: int | None = None
    column: str | None = None
    descriptions: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


class Prepared:
    """An opening whose parts are found; :meth:`load` and :meth:`open` then take their time.

    Args:
        asked: the opening.

    Raises:
        UserError: if the model, an SAE or the prompts of a missing index are not there.
    """

    def __init__(self, asked: Opening) -> None:
        self.asked = asked
        self.entry, self.settings = entry_and_settings(asked.model, asked.settings)
        self.saes = _located(asked.saes, self.entry, self.settings)
        if not self.saes:
            raise UserError(f"{asked.model} has no SAE here, and so no feature to paint; name one with --sae DIR")

    def origin(self) -> Origin:
        """How to load the same model in Python, wherever that runs."""
        own = {site: sae.folder.resolve() for site, sae in self.saes.items()} if self.asked.saes else {}
        given: dict[str, Any] = {}
        for group, value in self.settings.model_dump(mode="json", exclude_defaults=True).items():
            inside = value.items() if isinstance(value, dict) else ()
            given |= {f"{group}__{name}": inner for name, inner in inside} or {group: value}
        named = self.entry.name if Path(self.asked.model).is_dir() else self.asked.model
        return Origin(named, given, own)

    def load(self) -> Model:
        """The model alone, which makes pictures of states."""
        model = self.entry.load(self.settings)
        model.saes = {site: sae.folder for site, sae in self.saes.items()}
        return model

    def prompts(self) -> tuple[str, Sequence[Prompted]]:
        """What the pictures of indexes that are missing are made from, and where that comes from.

        Raises:
            UserError: if nothing says it.
        """
        location = self.entry.prompts_location(self.asked.prompts)
        count = self.asked.count or (FROM_GRAMMAR if location == GRAMMAR else None)
        return location, read_prompts(location, count, "held-out", self.asked.column)

    def missing(self) -> list[str]:
        """The sites whose SAE has no index yet."""
        return [site for site, sae in self.saes.items() if find_index(sae) is None]

    def open(self) -> Studio:
        """The model with its features; indexes that are missing are made in one pass and kept in the user's cache.

        Raises:
            UserError: if weights are missing or an index cannot be read.
        """
        missing = self.missing()
        prompted = self.prompts() if missing or self.asked.prompts else None  # a wrong file is said in any case
        from riebench.paint.picture_scores import Judges
        from riebench.paint.shelf import Shelf
        from riebench.paint.studio import Studio

        model = self.load()
        if missing and prompted:
            self._make_indexes(model, missing, *prompted)
        shelves = {}
        for site in sorted(self.saes, key=list(model.sites).index):
            index = FeatureIndex(find_index(self.saes[site]) or index_in_cache(self.saes[site]))
            check_index_of(index, self.saes[site].fingerprint)
            shelves[site] = Shelf(site, index, _of_features(self.asked.descriptions.get(site, {}), len(index)))
        return Studio(model, shelves, Judges(self.entry, self.settings), self.origin())

    def _make_indexes(self, model: Model, sites: Sequence[str], location: str, prompted: Sequence[Prompted]) -> None:
        from riebench.features.index_making import IndexPart, make_indexes
        from riebench.instruments.model_instruments import world_of

        print(f"riebench: making the feature index of {', '.join(sites)}, once", file=sys.stderr)
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
    """Site to its SAE: the model's own, or those of folders.

    Raises:
        UserError: if a folder holds none, or two are of one site.
    """
    if not folders:
        return _by_site(entry, settings)
    found: dict[str, LocatedSae] = {}
    for folder in folders:
        for site, sae in _in_folder(folder, entry, settings).items():
            if site in found:
                raise UserError(f"{found[site].folder} and {sae.folder} are both of {site}; leave one --sae out")
            found[site] = sae
    return found


def _in_folder(folder: str, entry: ModelEntry, settings: Settings) -> dict[str, LocatedSae]:
    path = Path(folder)
    if not path.is_dir() or read_config(path) is not None or (path / FINAL).is_dir():
        sae = locate_sae(folder, entry, settings)
        return {site_of(sae, entry, settings, None): sae}
    several = settings.model_copy(update={"sae": settings.sae.model_copy(update={"folder": str(path.resolve())})})
    return _by_site(entry, several)


def _by_site(entry: ModelEntry, settings: Settings) -> dict[str, LocatedSae]:
    return {site: locate_sae(str(folder), entry, settings) for site, folder in entry.saes(settings).items()}


def _of_features(descriptions: Mapping[int, str], count: int) -> dict[int, str]:
    return {number: said for number, said in descriptions.items() if 0 <= number < count}
