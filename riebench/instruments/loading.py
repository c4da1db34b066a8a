"""Load what a run generates and measures with: model, masker, CLIP, LPIPS; or take what the user hands in.

Importing it needs no torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from riebench.instruments.handed_in import HandedIn
from riebench.instruments.world import World
from riebench.masks import Masker, MaskRules, pair_regions
from riebench.masks.user_masks import MaskSource, UserMasks, regions_of_user_masks, user_masks_fingerprint
from riebench.metrics import Scorers, Truth, measured_by, scorers_of
from riebench.models.devices import weights_fingerprint
from riebench.models.entries import entry_named
from riebench.models.model import Model, ModelEntry
from riebench.pairs import Pair
from riebench.records.code import code_hash, import_hash
from riebench.records.schema import Value, record_key
from riebench.sae.folders import sae_fingerprint
from riebench.sae.layouts import outer_files
from riebench.settings.protocols import PROTOCOLS
from riebench.settings.protocols import Protocol as PairProtocol
from riebench.settings.settings import Settings
from riebench.util.code_files import is_ours
from riebench.util.files import fingerprint
from riebench.util.live_code import live_hash
from riebench.util.plugins import load_object, place_of

if TYPE_CHECKING:
    from riebench.metrics.clip import ClipScorer
    from riebench.metrics.lpips import LpipsScorer
    from riebench.sae.sae import SAE

NOT_SCORERS = ("model", "sae", "detector", "text-encoder", "segmenter")
"""Parts that no scorer needs."""
PROBES = 64
"""Random vectors on which an SAE in memory is tried for its hash."""

TruthOf = Callable[[Pair, int], Truth]
"""A function of a pair and a seed that returns the judge of the pair's edited images."""


class ModelInstruments(Protocol):
    """Loads the masker and the scorers of a model, each when its method is called.

    The constructor takes the model's entry, the settings, the protocol, and the names of parts that are not needed.

    Attributes:
        locations: name of a part to its folder.
        conditions: settings of the scorers that can change numbers, beside the scorers' fingerprints.
        truth: judges edited images of a pair and a seed; None where the truth is unknown.
        world: the true attributes of prompts and pictures; None where they are unknown.
    """

    @property
    def locations(self) -> Mapping[str, str]: ...

    @property
    def conditions(self) -> Mapping[str, Any]: ...

    @property
    def truth(self) -> TruthOf | None: ...

    @property
    def world(self) -> World | None: ...

    def __init__(
        self, entry: ModelEntry, settings: Settings, protocol: PairProtocol, without: Collection[str]
    ) -> None: ...

    def masker(self) -> Masker:
        """The masker of the grounding phrases."""

    def clip(self) -> ClipScorer:
        """CLIP, for the similarities of pictures and texts."""

    def lpips(self) -> LpipsScorer:
        """LPIPS, for the distance of two pictures."""

    def scorer(self, name: str) -> Any:
        """The network that a single metric needs, one of those that the model's entry names in ``scorers``."""


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
        code: hashes of a user's code, ``masks`` of a function for masks and ``model`` of a family; only what there is.
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
    code: Mapping[str, str] = field(default_factory=dict)


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
    scorers = assemble_scorers(instruments, metrics, handed_in.scorers)
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
            "sae": saes_fingerprint(loaded.saes, loaded.saes_given),
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
        code=_users_code(entry, loaded, handed_in.masks),
    )


def _users_code(entry: ModelEntry, model: Model, masks: UserMasks | None) -> dict[str, str]:
    """The hashes of a user's code, see :attr:`Instruments.code`.

    Raises:
        UserError: if it was edited since this process loaded it.
    """
    family = {type(entry), type(model), _instruments_class(entry)}
    classes = sorted((cls for cls in family if not is_ours(cls.__module__)), key=place_of)
    code = {"masks": live_hash(masks)} if callable(masks) else {}
    if classes:
        code["model"] = record_key(code=[(code_hash(cls), import_hash(cls)) for cls in classes])[:16]
    return code


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
    return assemble_scorers(instruments, metrics, handed_in.scorers), instruments.truth


def assemble_scorers(
    instruments: ModelInstruments, metrics: Collection[str] | None = (), loaded: Scorers | None = None
) -> Scorers:
    """The scorers of a model: CLIP, LPIPS, and the networks that the named metrics need beside them.

    Args:
        instruments: load the scorers.
        metrics: names of metrics; None for all but the optional ones.
        loaded: scorers that are used instead of the model's own; only missing networks are added.
    """
    scorers = loaded or Scorers(instruments.clip(), instruments.lpips())
    networks = {name: instruments.scorer(name) for name in scorers_of(metrics) - scorers.more.keys()}
    return scorers._replace(more={**scorers.more, **networks}) if networks else scorers


def _fingerprint(sae: SAE) -> str:
    """A hash of an SAE in memory: of its weights; of a stranger's object also of what it keeps, and of its codes."""
    from riebench.sae.given import GivenSAE

    weights = weights_fingerprint(sae)
    if not isinstance(sae, GivenSAE):
        return weights
    import torch

    probe = torch.randn(PROBES, sae.d_model, generator=torch.Generator().manual_seed(0)).to(sae.device)
    codes = sae.encode(probe)
    norms = [f"{float(computed.norm()):.3g}" for computed in (codes, sae.decode(codes))]  # alike on every device
    return " ".join([weights, *sae.kept_numbers(), *norms])


def saes_fingerprint(saes: Mapping[str, Path | SAE], given: bool = False) -> str:
    """A short hash of all SAEs of a model; ``none`` where there are none.

    Args:
        saes: site to its SAE, or to the SAE's folder.
        given: whether a user says of which site each folder is; else the folders' names do, which are hashed.
    """
    folders = [sae.absolute() for sae in saes.values() if isinstance(sae, Path) and not given]
    files = [file for folder in folders for file in (*folder.iterdir(), *outer_files(folder)) if file.is_file()]
    of_files = fingerprint(files, Path(os.path.commonpath(folders))) if folders else "none"
    loaded = sorted(
        (site, sae_fingerprint(sae)) if isinstance(sae, Path) else (site, _fingerprint(sae), sae.kind, sae.k)
        for site, sae in saes.items()
        if given or not isinstance(sae, Path)
    )
    return hashlib.sha256(repr([of_files, *loaded]).encode()).hexdigest()[:16] if loaded else of_files


def model_instruments(
    entry: ModelEntry, settings: Settings, protocol: PairProtocol, without: Collection[str] = ()
) -> ModelInstruments:
    """The instruments that a model's entry names.

    Args:
        entry: of the model.
        settings: of the instruments.
        protocol: gives the settings that are not set.
        without: names of parts that are not needed, whose weights may be missing.

    Raises:
        UserError: if weights are missing.
    """
    return _instruments_class(entry)(entry, settings, protocol, without)


def mask_rules(entry: ModelEntry, settings: Settings, protocol: PairProtocol) -> MaskRules:
    """The mask rules of a run: from the settings, else from the protocol and the model."""
    masker = settings.masker
    return MaskRules(
        blur_kernel=masker.blur_kernel or entry.blur_kernel,
        union=masker.union,
        fallback=masker.fallback or protocol.fallback,
        add_object=masker.add_object,
        delete_object=masker.delete_object,
        special_phrases=masker.special_phrases,
    )


def world_of(entry: ModelEntry) -> World | None:
    """The true attributes of a model's prompts and pictures; None where the truth is unknown."""
    world: World | None = getattr(_instruments_class(entry), "world", None)
    return world


def _instruments_class(entry: ModelEntry) -> type[ModelInstruments]:
    if entry.instruments == "published":
        from riebench.instruments.published import PublishedInstruments

        return PublishedInstruments
    if entry.instruments == "mini":
        from riebench.instruments.mini_instruments import MiniInstruments

        return MiniInstruments
    named: type[ModelInstruments] = load_object("instruments class", entry.instruments)
    return named
