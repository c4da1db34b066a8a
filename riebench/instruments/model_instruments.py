"""The instruments that a model's entry names: masker, scorers, and the truth where it is known."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from riebench.instruments.world import World
from riebench.masks import Masker, MaskRules
from riebench.metrics import Scorers, Truth, scorers_of
from riebench.metrics.clip import ClipScorer
from riebench.metrics.lpips import LpipsScorer
from riebench.models.model import ModelEntry
from riebench.pairs import Pair
from riebench.settings.protocols import Protocol as PairProtocol
from riebench.settings.settings import Settings
from riebench.util.plugins import load_object

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


def assemble_scorers(instruments: ModelInstruments, metrics: Collection[str] = ()) -> Scorers:
    """The loaded scorers of a model: CLIP, LPIPS, and the networks that the named metrics need beside them."""
    return with_networks(Scorers(instruments.clip(), instruments.lpips()), instruments, metrics)


def with_networks(scorers: Scorers, instruments: ModelInstruments, metrics: Collection[str]) -> Scorers:
    """Scorers with the networks that the named metrics need beside CLIP and LPIPS; loaded networks are kept."""
    missing = scorers_of(metrics) - scorers.more.keys()
    networks = {name: instruments.scorer(name) for name in missing}
    return scorers._replace(more={**scorers.more, **networks}) if missing else scorers


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
