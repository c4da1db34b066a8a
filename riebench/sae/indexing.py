"""From what is asked for to a feature index. What needs no weights is checked before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from riebench.models.entries import entry_named
from riebench.sae.feature_index import FeatureIndex
from riebench.sae.index_folder import check_index_folder
from riebench.sae.locate import locate_sae, site_of
from riebench.sae.prompts import GRAMMAR, read_prompts
from riebench.spec.settings import Settings
from riebench.util.errors import UserError
from riebench.util.progress import tracked

FROM_GRAMMAR = 1000
"""Prompts from the grammar unless told otherwise."""


@dataclass(frozen=True)
class IndexRequest:
    """An index that is asked for; see the options of ``riebench sae index``."""

    sae: str
    model: str
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
    entry = entry_named(request.model)
    entry.check_settings(request.settings)
    sae = locate_sae(request.sae, entry, request.settings)
    site = site_of(sae, entry, request.settings, request.site)
    if not 1 <= request.steps <= entry.most_steps:
        raise UserError(f"steps is {request.steps}; expected 1 to {entry.most_steps}, the most that the sampler takes")
    location = request.prompts
    if location is None and not entry.instruments.startswith("riebench.mini."):
        raise UserError(f"which pictures {entry.name} shall make is not said; give prompts with --prompts FILE")
    location = location or GRAMMAR
    count = request.count or (FROM_GRAMMAR if location == GRAMMAR else None)
    prompted = read_prompts(location, count, "held-out", request.column)
    check_index_folder(out)
    from riebench.sae.make_index import make_index

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
        steps=request.steps,
        track=tracked("pictures"),
    )
