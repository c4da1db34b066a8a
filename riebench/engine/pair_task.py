"""The work of a run as plain data, which is sent from process to process. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from riebench.pairs import Pair
from riebench.records import Record, Setting, record_key
from riebench.settings.lpips_search import LpipsSearch, Searched, SearchOptions, lpips_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class PairSetting(NamedTuple):
    """A setting of one pair.

    Attributes:
        condition: the number of its condition in the request.
        setting: as records keep it.
        key: of its record.
        at_lpips: the budgets that its strength is tried for; None if the user gave the strength.
    """

    condition: int
    setting: Setting
    key: str
    at_lpips: tuple[float, ...] | None = None

    @property
    def searched(self) -> Searched:
        """The search that the setting is a point of."""
        return self.condition, self.setting.on_steps


class PairTask(NamedTuple):
    """The settings to run on one pair with a seed.

    Attributes:
        pair: the pair.
        seed: of all its runs.
        settings: to run.
        keep_images: whether the pictures are kept.
        searches: with the points that are known before, one for each condition and interval; none without ``at_lpips``.
        code: hash of the code and the weights that the keys of the settings stand for.
    """

    pair: Pair
    seed: int
    settings: tuple[PairSetting, ...]
    keep_images: bool = False
    searches: tuple[LpipsSearch, ...] = ()
    code: str = ""

    @property
    def pair_hash(self) -> str:
        """A hash of the pair as its file has it, without the seed."""
        return record_key(**self.pair.model_dump(include=set(Pair.model_fields) - {"seed"}))[:16]


@dataclass
class PairResult:
    """The result of a task.

    Attributes:
        records: of the pair.
        images: name to picture ``[height, width, 3]`` or mask ``[height, width]`` in uint8, if they are kept.
    """

    records: list[Record]
    images: dict[str, NDArray[np.uint8]] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadedRun:
    """A run as a worker with loaded models describes it.

    Attributes:
        tasks: one for each pair, with all settings.
        shared: what all records of the folder share, as ``run.json`` keeps it.
        locations: part of the model to where it lies.
        device: that the worker computes on.
        metrics: the names of those that a record must hold.
        measured_by: metric to the network of its own that measures it.
        made_by: for each of ``shared["arms"]``, what its records say.
        search: options of the search for strengths, if there is one.
    """

    tasks: Sequence[PairTask]
    shared: Mapping[str, Any]
    locations: Mapping[str, str]
    device: str
    metrics: Sequence[str] = ()
    measured_by: Mapping[str, str] = field(default_factory=dict)
    made_by: Sequence[Mapping[str, str]] = ()
    search: SearchOptions | None = None


def searches_of(
    options: SearchOptions, settings: Iterable[PairSetting], done: Mapping[str, Record]
) -> dict[Searched, LpipsSearch]:
    """The searches of a pair, those with known points first.

    Args:
        options: of the search.
        settings: of the pair.
        done: key to record; the records whose pictures are points.
    """
    searches: dict[Searched, LpipsSearch] = {}
    for pair_setting in sorted(settings, key=lambda pair_setting: pair_setting.key not in done):
        _, setting, key, _ = pair_setting
        search = LpipsSearch(options, pair_setting.condition, setting)
        search = searches.setdefault(pair_setting.searched, search)
        if key in done:
            search.points[setting.strength] = lpips_of(done[key])
    return searches
