"""Load what a run generates and measures with: model, masker, CLIP, LPIPS; or take what the user hands in."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from riebench.instruments.handed_in import HandedIn
from riebench.instruments.model_instruments import (
    ModelInstruments,
    TruthOf,
    assemble_scorers,
    mask_rules,
    model_instruments,
    with_networks,
)
from riebench.masks import Masker, MaskRules, pair_regions
from riebench.masks.user_masks import MaskSource, regions_of_user_masks, user_masks_fingerprint
from riebench.metrics import Scorers, measured_by
from riebench.models.devices import weights_fingerprint
from riebench.models.entries import entry_named
from riebench.models.model import Model
from riebench.records.schema import Value
from riebench.settings.protocols import PROTOCOLS
from riebench.settings.settings import Settings
from riebench.util.files import fingerprint

if TYPE_CHECKING:
    from riebench.sae.topk import TopKSAE


NOT_SCORERS = ("model", "sae", "detector", "text-encoder", "segmenter")
"""Parts that no scorer needs."""


@dataclass
class Instruments:
    """The loaded parts of a run.

    Attributes:
        model: the model.
        masks: a function of a pair, its base image and its source image that returns the regions of (source, base).
        rules: how a region becomes a mask on a site's grid.
        scorers: CLIP and LPIPS.
        truth: judges edited images of a pair and a seed; None where the truth is unknown.
        parts: name of a part to the fingerprint of its weights.
        conditions: settings that can change numbers beside the weights, as their type.
        locations: name of a part to its folder, with the revision where it is known.
        masker: finds the regions of phrases; None if the user hands in masks.
        measured_by: metric to what measures it, see :func:`measured_by`.
    """

    model: Model
    masks: MaskSource
    rules: MaskRules
    scorers: Scorers
    truth: TruthOf | None
    parts: dict[str, str]
    conditions: Mapping[str, Value]
    locations: Mapping[str, str]
    masker: Masker | None = None
    measured_by: Mapping[str, str] = field(default_factory=dict)


def load_instruments(
    model: str,
    settings: Settings,
    protocol: str,
    *,
    metrics: Collection[str] | None = None,
    batch: int = 8,
    handed_in: HandedIn | None = None,
) -> Instruments:
    """Load the model and its instruments.

    Args:
        model: its name.
        settings: of model and instruments.
        protocol: name of the protocol.
        metrics: names of metrics; None for all but the optional ones.
        batch: rows in one forward pass at most.
        handed_in: loaded parts that are used instead.

    Raises:
        UserError: if weights are missing or do not fit.
    """
    handed_in = handed_in or HandedIn()
    entry = handed_in.model.entry if handed_in.model else entry_named(model)
    rules = mask_rules(entry, settings, PROTOCOLS[protocol])
    instruments = model_instruments(entry, settings, PROTOCOLS[protocol], handed_in.parts)
    loaded = handed_in.model or entry.load(settings)
    loaded.batch = batch
    masker = instruments.masker() if handed_in.masks is None else None
    masks: MaskSource
    if masker is not None:
        masks, masks_name = partial(pair_regions, masker, rules), f"{masker.name}-{masker.fingerprint}"
    else:
        assert handed_in.masks is not None
        masks, masks_name = regions_of_user_masks(handed_in.masks), user_masks_fingerprint(handed_in.masks)
    scorers = _scorers(instruments, handed_in, metrics)
    by_metric = measured_by(scorers, metrics)
    options = dict(getattr(masker, "describe", dict)())
    return Instruments(
        model=loaded,
        masks=masks,
        rules=rules,
        scorers=scorers,
        truth=instruments.truth if loaded.own else None,
        parts={
            "model": loaded.fingerprint,
            "masker": masks_name,
            **{
                name: f"{part.name}-{part.fingerprint}"
                for name, part in (("clip", scorers.clip), ("lpips", scorers.lpips))
            },
            "sae": saes_fingerprint(loaded.saes),
        },
        conditions={
            **loaded.conditions,
            **{f"masks.{name}": value for name, value in asdict(rules).items()},
            **{f"masker.{name}": value for name, value in options.items() if name != "device"},
            **(instruments.conditions if handed_in.scorers is None else {}),
        },
        locations=instruments.locations,
        masker=masker,
        measured_by=by_metric,
    )


def load_scorers(
    model: str, settings: Settings, protocol: str, metrics: Collection[str] | None, handed_in: HandedIn | None = None
) -> tuple[Scorers, TruthOf | None]:
    """The scorers and the truth of a model, without the model and its masker; arguments as of :func:`load_instruments`.

    Raises:
        UserError: if weights are missing or do not fit.
    """
    handed_in = handed_in or HandedIn()
    without = (*handed_in.parts, *NOT_SCORERS)
    instruments = model_instruments(entry_named(model), settings, PROTOCOLS[protocol], without)
    return _scorers(instruments, handed_in, metrics), instruments.truth


def _scorers(instruments: ModelInstruments, handed_in: HandedIn, metrics: Collection[str] | None) -> Scorers:
    if handed_in.scorers is None:
        return assemble_scorers(instruments, metrics or ())
    return with_networks(handed_in.scorers, instruments, metrics or ())


def saes_fingerprint(saes: Mapping[str, Path | TopKSAE]) -> str:
    """A short hash of all SAEs of a model; ``none`` where there are none."""
    folders = [sae for sae in saes.values() if isinstance(sae, Path)]
    if folders:
        files = [file for folder in folders for file in folder.iterdir() if file.is_file()]
        return fingerprint(files, Path(os.path.commonpath(folders)))
    names = sorted((site, weights_fingerprint(sae)) for site, sae in saes.items() if not isinstance(sae, Path))
    return hashlib.sha256(repr(names).encode()).hexdigest()[:16] if names else "none"
