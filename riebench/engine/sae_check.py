"""How well a run's SAEs explain the values that they are given: noted in records, and a warning where they do not."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from riebench.engine.request import Request
from riebench.methods.interface import Observed
from riebench.methods.registry import MethodEntry, find
from riebench.models.entries import entry_named
from riebench.models.sae_sites import check_fits, read_site
from riebench.models.sites import OUTPUT, block_of, input_of
from riebench.sae.sae import SAE
from riebench.sae.store import load_sae
from riebench.util.errors import UserError

logger = logging.getLogger(__name__)
VECTORS = 64
"""Vectors of the base run on which each SAE of a pair is tried."""
_WARNED: WeakKeyDictionary[SAE, set[str]] = WeakKeyDictionary()
"""SAE to the sites at which it was warned of."""


def read_saes(request: Request) -> None:
    """Read the SAEs of a user's folder that a run would read.

    Raises:
        UserError: if one cannot be used.
    """
    if request.settings.sae.folder is None:
        return
    entry = entry_named(request.model)
    saes, sites = entry.saes(request.settings), entry.sites(request.settings)
    used = [(find(c.method), s) for c in request.conditions if find(c.method).needs_sae for s in c.sites]
    loaded = {site: load_sae(saes[site]) for site in dict.fromkeys(site for _, site in used)}
    for method, site in used:
        check_fits(loaded[site], site, sites)
        check_method_takes(method, site, loaded[site])


def check_method_takes(method: MethodEntry, site: str, sae: SAE) -> None:
    """Refuse a transcoder for a method that does not say that it takes one: it may encode the values at the site.

    Raises:
        UserError: naming both.
    """
    if sae.transcodes and not method.takes_transcoders:
        raise UserError(
            f"the SAE of {site} is a transcoder, whose codes are of the values at {input_of(site)}, and the method "
            f"{method.name!r} does not say that it takes one; give the method 'sae', or an SAE of the values at {site}"
        )


def notes_of_saes(seen: Observed) -> dict[str, dict[str, str | float]]:
    """Site to the notes on its SAE, for the records of its pair: its kind, and the share of variance it explains.

    The share is of :data:`VECTORS` of the base run's values, spread over steps and positions. If it is below zero a
    warning says so, once for an SAE.
    """
    notes: dict[str, dict[str, str | float]] = {}
    for site, sae in seen.saes.items():
        notes[site] = {f"sae {site}": sae.kind}
        x, y = (_some(seen.base[where]) for where in (read_site(site, sae), site))
        with torch.no_grad():
            errors, spread = (y - sae.rebuild(x, sae.codes(x))).square().sum(), (y - y.mean(0)).square().sum()
        explained = round(1 - float(errors / spread), 3)
        if math.isfinite(explained):
            notes[site][f"explained {site}"] = explained
            if explained < 0:
                _warn_once(site, sae, explained)
    return notes


def _some(values: Tensor) -> Tensor:
    """Some of the vectors ``[steps, positions, width]``: ``[m, width]`` in float32."""
    flat = values.flatten(0, -2).float()
    return flat[:: max(1, len(flat) // VECTORS)][:VECTORS]


def notes_at(notes: Mapping[str, Mapping[str, str | float]], sites: tuple[str, ...]) -> dict[str, str | float]:
    """The notes on the SAEs of some sites."""
    return {name: value for site in sites for name, value in notes.get(site, {}).items()}


def _warn_once(site: str, sae: SAE, explained: float) -> None:
    sites = _WARNED.setdefault(sae, set())
    if site in sites:
        return
    sites.add(site)
    logger.warning(
        "the SAE of %s (%s, %d features) explains %.2g of the variance of the values there, less than their mean does: "
        "it is likely of another site, operation (%s), scale or layout",
        site,
        sae.kind,
        sae.n_features,
        explained,
        _operation(site, sae),
    )


def _operation(site: str, sae: SAE) -> str:
    """What an SAE of a site is given, and the site for one that was trained on something else."""
    if sae.transcodes:
        return f"it is given the values at {read_site(site, sae)}, and is to give those at {site}"
    if site != block_of(site):
        return f"it is given the values at {site}, not the block's update"
    return f"it is given updates, a block's output minus its input; one of outputs belongs to {site}{OUTPUT}"
