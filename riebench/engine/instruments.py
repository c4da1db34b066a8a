"""Everything a run measures with: model, masks, CLIP, LPIPS; loaded by the model's name, or handed in."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from riebench.engine.run import Given
from riebench.masks import Masker, MaskRules, pair_regions
from riebench.masks.given import MaskSource, from_user, given_fingerprint
from riebench.metrics import METRICS, Scorers, Truth, scorers_of
from riebench.metrics.clip import ClipScorer
from riebench.metrics.lpips import LpipsScorer
from riebench.models.entries import ModelEntry, entry_named
from riebench.models.model import Model, weights_fingerprint
from riebench.pairs import Pair
from riebench.records.schema import Value
from riebench.sae.world import World
from riebench.spec.protocols import PROTOCOLS
from riebench.spec.protocols import Protocol as PairProtocol
from riebench.spec.request import Request
from riebench.spec.settings import Settings
from riebench.util.files import fingerprint

if TYPE_CHECKING:
    from riebench.sae import TopKSAE


TruthOf = Callable[[Pair, int], Truth]
"""From a pair and a seed to a judge of the edited images."""
NOT_SCORERS = ("model", "sae", "detector", "text-encoder", "segmenter")
"""Parts that no scorer needs."""


class OwnInstruments(Protocol):
    """The masker and scorers that belong to a model's name; each is loaded when it is asked for.

    It is made from the model's entry, the settings, the protocol, and the names of parts that are not needed.

    Attributes:
        locations: part to where it was found.
        conditions: further settings of the scorers that can change numbers.
        truth: pair and seed to a judge of its edited images, where the truth is known.
        world: what prompts and pictures truly show, where that is known.
    """

    locations: Mapping[str, str]
    conditions: Mapping[str, Any]
    truth: TruthOf | None
    world: World | None

    def __init__(
        self, entry: ModelEntry, settings: Settings, protocol: PairProtocol, without: Collection[str]
    ) -> None: ...

    def masker(self) -> Masker: ...

    def clip(self) -> ClipScorer: ...

    def lpips(self) -> LpipsScorer: ...

    def scorer(self, name: str) -> Any:
        """A network that a single metric needs; only asked for those that the model's entry names."""


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


def load_instruments(request: Request, given: Given | None = None) -> Instruments:
    """Load what a request needs.

    Raises:
        UserError: if weights are missing or do not fit.
    """
    given = given or Given()
    entry = given.model.entry if given.model else entry_named(request.model)
    protocol = PROTOCOLS[request.protocol]
    rules = mask_rules(entry, request.settings, protocol)
    own = own_instruments(entry, request.settings, protocol, given.parts)
    model = given.model or entry.load(request.settings)
    model.batch = request.batch
    masker = own.masker() if given.masks is None else None
    masks: MaskSource
    if masker is not None:
        masks, masks_name = partial(pair_regions, masker, rules), f"{masker.name}-{masker.fingerprint}"
    else:
        assert given.masks is not None
        masks, masks_name = from_user(given.masks), given_fingerprint(given.masks)
    scorers = given.scorers or Scorers(own.clip(), own.lpips())
    if request.metrics is not None:
        scorers = with_more(scorers, own, request.metrics)
    options = dict(getattr(masker, "describe", dict)())
    return Instruments(
        model=model,
        masks=masks,
        rules=rules,
        scorers=scorers,
        truth=own.truth if model.own else None,
        parts={
            "model": model.fingerprint,
            "masker": masks_name,
            **{
                name: f"{part.name}-{part.fingerprint}"
                for name, part in (("clip", scorers.clip), ("lpips", scorers.lpips))
            },
            "sae": saes_fingerprint(model.saes),
        },
        conditions={
            **model.conditions,
            **{f"masks.{name}": value for name, value in asdict(rules).items()},
            **{f"masker.{name}": value for name, value in options.items() if name != "device"},
            **(own.conditions if given.scorers is None else {}),
        },
        locations=own.locations,
        masker=masker,
        measured_by={} if request.metrics is None else measured_by(scorers, request.metrics),
    )


def load_scorers(request: Request, given: Given, held: Instruments | None = None) -> tuple[Scorers, TruthOf | None]:
    """What scores the pictures of a request, without its model and its masker; ``held`` is taken where it is there.

    Raises:
        UserError: if weights are missing or do not fit.
    """
    if held is not None:
        return held.scorers, held.truth
    entry = entry_named(request.model)
    own = own_instruments(entry, request.settings, PROTOCOLS[request.protocol], (*given.parts, *NOT_SCORERS))
    scorers = given.scorers or Scorers(own.clip(), own.lpips())
    return with_more(scorers, own, request.metrics or ()), own.truth


def with_more(scorers: Scorers, own: OwnInstruments, names: Collection[str]) -> Scorers:
    """Scorers with those that single metrics need; ones that are there already are kept."""
    needed = scorers_of(names) - scorers.more.keys()
    return scorers._replace(more={**scorers.more, **{name: own.scorer(name) for name in needed}})


def measured_by(scorers: Scorers, names: Collection[str]) -> dict[str, str]:
    """Metric to the fingerprint of the network of its own that measures it."""
    own = {name: scorers.more[of] for name in names if (of := METRICS[name].scorer)}
    return {name: f"{scorer.name}-{scorer.fingerprint}" for name, scorer in own.items()}


def own_instruments(
    entry: ModelEntry, settings: Settings, protocol: PairProtocol, without: Collection[str] = ()
) -> OwnInstruments:
    """The masker and scorers of a model's name; ``without`` names the parts that are not needed.

    Raises:
        UserError: if weights are missing.
    """
    module, _, attribute = entry.instruments.partition(":")
    cls: type[OwnInstruments] = getattr(importlib.import_module(module), attribute)
    return cls(entry, settings, protocol, without)


def mask_rules(entry: ModelEntry, settings: Settings, protocol: PairProtocol) -> MaskRules:
    """The rules of a run: what the settings say, else what the protocol and the model say."""
    masker = settings.masker
    return MaskRules(
        blur_kernel=masker.blur_kernel or entry.blur_kernel,
        union=masker.union,
        fallback=masker.fallback or protocol.fallback,
        add_object=masker.add_object,
        delete_object=masker.delete_object,
        special_phrases=masker.special_phrases,
    )


def saes_fingerprint(saes: Mapping[str, Path | TopKSAE]) -> str:
    """A short hash of all SAEs of a model; ``none`` where there are none."""
    folders = [found for found in saes.values() if isinstance(found, Path)]
    if folders:
        files = [file for folder in folders for file in folder.iterdir() if file.is_file()]
        return fingerprint(files, Path(os.path.commonpath(folders)))
    names = sorted((site, weights_fingerprint(found)) for site, found in saes.items() if not isinstance(found, Path))
    return hashlib.sha256(repr(names).encode()).hexdigest()[:16] if names else "none"
