"""From what is asked for to a feature index. What needs no weights is checked before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from riebench.features.feature_index import FeatureIndex, check_feature, check_index_of, is_index
from riebench.features.index_folder import check_index_folder
from riebench.features.locate import find_index, index_in_cache, locate_sae, site_of
from riebench.models.entries import entry_named
from riebench.prompts import GRAMMAR, read_prompts
from riebench.sae.folders import feature_count, read_config
from riebench.settings.settings import Settings
from riebench.util.errors import UserError
from riebench.util.progress import tracked

OWN_MODEL = "mini"
FROM_GRAMMAR = 1000
"""Prompts from the grammar unless told otherwise."""


@dataclass(frozen=True)
class IndexRequest:
    """An index that is asked for; see the options of ``riebench sae index``."""

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
    """Load the model and the SAE, and make the index in the folder ``out``.

    Raises:
        UserError: for bad input; before torch is imported, unless weights are needed to find it.
    """
    entry = entry_named(request.model or _model_said(request.sae) or OWN_MODEL)
    entry.check_settings(request.settings)
    sae = locate_sae(request.sae, entry, request.settings)
    site = site_of(sae, entry, request.settings, request.site)
    if not 1 <= request.steps <= entry.most_steps:
        raise UserError(f"steps is {request.steps}; expected 1 to {entry.most_steps}, the most that the sampler takes")
    location = entry.prompts_location(request.prompts)
    count = request.count or (FROM_GRAMMAR if location == GRAMMAR else None)
    prompted = read_prompts(location, count, "held-out", request.column)
    check_index_folder(out)
    from riebench.features.index_writer import make_index
    from riebench.instruments.model_instruments import world_of

    model = entry.load(request.settings)
    model.batch = request.batch
    model.saes = {site: sae.folder}
    return make_index(
        model,
        site,
        model.sae(site),
        prompted,
        out,
        name=sae.name,
        fingerprint=sae.fingerprint,
        prompts=location,
        world=world_of(entry),
        steps=request.steps,
        track=tracked("pictures"),
    )


def find_or_make_index(request: IndexRequest, folder: Path | None, feature: int | None = None) -> FeatureIndex:
    """The index of an SAE: the folder that was asked for if it is one, else ``folder``, else one beside the SAE or in
    the user's cache, else a new one, for which the model must be known.

    Args:
        request: which SAE, and how an index would be made.
        folder: of the index; a new one is made there.
        feature: a feature that it must have.

    Raises:
        UserError: if there is no such SAE or feature, the index belongs to another SAE, or none can be made.
    """
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
    model = request.model or (_model_said(request.sae) if Path(request.sae).is_dir() else OWN_MODEL)
    sae = locate_sae(request.sae, entry_named(model) if model else None, request.settings)
    if folder is None:
        found = find_index(sae)
    else:
        found = folder if is_index(folder) or (folder.exists() and model is None) else None
    if found is not None:
        index = FeatureIndex(found)
        check_index_of(index, sae.fingerprint)
        _refuse_other_pictures(index, request)
        return index
    if model is None:
        raise UserError(
            f"the SAE {request.sae} has no feature index; say which model makes one with --model, or give --index"
        )
    if feature is not None:
        check_feature(feature, feature_count(sae.folder), sae.name)
    return carry_out_index(replace(request, model=model), folder or index_in_cache(sae))


def _refuse_other_pictures(index: FeatureIndex, request: IndexRequest) -> None:
    """Refuse an index of another model or site, other prompts or another number of them, than asked for (UserError)."""
    facts = index.facts
    there = {"model": facts.model, "site": facts.site, "prompts": facts.prompts, "count": facts.pictures_made}
    for name, found in there.items():
        if getattr(request, name) not in (None, found):
            raise UserError(
                f"the index {index.folder} was made with --{name} {found}; leave out --{name}, or make another with "
                "'riebench sae index --out'"
            )


def _model_said(sae: str) -> str | None:
    """The model that the configuration in a folder of an SAE names."""
    said = (read_config(Path(sae)) or {}).get("model")
    return said if isinstance(said, str) else None
