"""Everything a run measures with: model, masks, CLIP, LPIPS; loaded by the model's name, or handed in."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from riebench.instruments.handed_in import HandedIn
from riebench.instruments.own import OwnInstruments, TruthOf, mask_rules, own_instruments, own_scorers, with_networks
from riebench.masks import Masker, MaskRules, pair_regions
from riebench.masks.given import MaskSource, from_user, given_fingerprint
from riebench.metrics import METRICS, Scorers
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
        masks: pair, base image and source image to the regions of (source, base).
        rules: how regions come to a site's grid.
        scorers: CLIP and LPIPS.
        truth: pair and seed to a judge of its edited images, where the truth is known.
        parts: fingerprints of all weights.
        conditions: further settings that can change numbers, as the type of the weights.
        locations: where the parts were found, with the revision where it is known.
        masker: what finds the regions of phrases; None if masks are given.
        measured_by: metric to the network of its own that measures it.
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
    """Load all that a run measures with.

    Args:
        model: its name.
        settings: of model and instruments.
        protocol: name of the protocol.
        metrics: names of what is measured; None for all but the optional ones.
        batch: rows in one forward pass at most.
        handed_in: loaded parts that are used instead.

    Raises:
        UserError: if weights are missing or do not fit.
    """
    handed_in = handed_in or HandedIn()
    entry = handed_in.model.entry if handed_in.model else entry_named(model)
    rules = mask_rules(entry, settings, PROTOCOLS[protocol])
    own = own_instruments(entry, settings, PROTOCOLS[protocol], handed_in.parts)
    loaded = handed_in.model or entry.load(settings)
    loaded.batch = batch
    masker = own.masker() if handed_in.masks is None else None
    masks: MaskSource
    if masker is not None:
        masks, masks_name = partial(pair_regions, masker, rules), f"{masker.name}-{masker.fingerprint}"
    else:
        assert handed_in.masks is not None
        masks, masks_name = from_user(handed_in.masks), given_fingerprint(handed_in.masks)
    scorers = _scorers(own, handed_in, metrics)
    options = dict(getattr(masker, "describe", dict)())
    return Instruments(
        model=loaded,
        masks=masks,
        rules=rules,
        scorers=scorers,
        truth=own.truth if loaded.own else None,
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
            **(own.conditions if handed_in.scorers is None else {}),
        },
        locations=own.locations,
        masker=masker,
        measured_by={} if metrics is None else measured_by(scorers, metrics),
    )


def load_scorers(
    model: str, settings: Settings, protocol: str, metrics: Collection[str] | None, handed_in: HandedIn | None = None
) -> tuple[Scorers, TruthOf | None]:
    """What scores pictures, without the model that makes them and its masker; arguments as of :func:`load_instruments`.

    Raises:
        UserError: if weights are missing or do not fit.
    """
    handed_in = handed_in or HandedIn()
    without = (*handed_in.parts, *NOT_SCORERS)
    own = own_instruments(entry_named(model), settings, PROTOCOLS[protocol], without)
    return _scorers(own, handed_in, metrics), own.truth


def _scorers(own: OwnInstruments, handed_in: HandedIn, metrics: Collection[str] | None) -> Scorers:
    if handed_in.scorers is None:
        return own_scorers(own, metrics or ())
    return with_networks(handed_in.scorers, own, metrics or ())


def measured_by(scorers: Scorers, names: Collection[str]) -> dict[str, str]:
    """Metric to the fingerprint of the network of its own that measures it."""
    own = {name: scorers.more[of] for name in names if (of := METRICS[name].scorer)}
    return {name: f"{scorer.name}-{scorer.fingerprint}" for name, scorer in own.items()}


def saes_fingerprint(saes: Mapping[str, Path | TopKSAE]) -> str:
    """A short hash of all SAEs of a model; ``none`` where there are none."""
    folders = [found for found in saes.values() if isinstance(found, Path)]
    if folders:
        files = [file for folder in folders for file in folder.iterdir() if file.is_file()]
        return fingerprint(files, Path(os.path.commonpath(folders)))
    names = sorted((site, weights_fingerprint(found)) for site, found in saes.items() if not isinstance(found, Path))
    return hashlib.sha256(repr(names).encode()).hexdigest()[:16] if names else "none"
