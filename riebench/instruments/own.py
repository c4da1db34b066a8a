"""The masker, scorers and known truth that belong to a model's name."""

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
"""From a pair and a seed to a judge of the edited images."""


class OwnInstruments(Protocol):
    """The masker and scorers that belong to a model's name; each is loaded when it is asked for.

    It is made from the model's entry, the settings, the protocol, and the names of parts that are not needed.

    Attributes:
        locations: part to where it was found.
        conditions: further settings of the scorers that can change numbers.
        truth: pair and seed to a judge of its edited images, where the truth is known.
        world: what prompts and pictures truly show, where that is known.
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

    def masker(self) -> Masker: ...

    def clip(self) -> ClipScorer: ...

    def lpips(self) -> LpipsScorer: ...

    def scorer(self, name: str) -> Any:
        """A network that a single metric needs; only asked for those that the model's entry names."""


def own_instruments(
    entry: ModelEntry, settings: Settings, protocol: PairProtocol, without: Collection[str] = ()
) -> OwnInstruments:
    """The masker and scorers of a model's name; ``without`` names the parts that are not needed.

    Raises:
        UserError: if weights are missing.
    """
    return _instruments_class(entry)(entry, settings, protocol, without)


def own_scorers(own: OwnInstruments, metrics: Collection[str] = ()) -> Scorers:
    """CLIP and LPIPS of a model's name, and the networks that some metrics need besides."""
    return with_networks(Scorers(own.clip(), own.lpips()), own, metrics)


def with_networks(scorers: Scorers, own: OwnInstruments, metrics: Collection[str]) -> Scorers:
    """Scorers with the networks that some metrics need besides; those that are loaded already are kept."""
    needed = scorers_of(metrics) - scorers.more.keys()
    return scorers._replace(more={**scorers.more, **{name: own.scorer(name) for name in needed}}) if needed else scorers


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


def world_of(entry: ModelEntry) -> World | None:
    """The world of a model whose truth is known; None for others."""
    world: World | None = getattr(_instruments_class(entry), "world", None)
    return world


def _instruments_class(entry: ModelEntry) -> type[OwnInstruments]:
    if entry.instruments == "published":
        from riebench.instruments.published import PublishedInstruments

        return PublishedInstruments
    if entry.instruments == "mini":
        from riebench.instruments.mini_instruments import MiniInstruments

        return MiniInstruments
    named: type[OwnInstruments] = load_object("instruments class", entry.instruments)
    return named
