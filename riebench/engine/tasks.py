"""The work of a run as plain data, which can be sent to another process. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from riebench.pairs import Pair
from riebench.records import Setting
from riebench.settings.lpips_search import LpipsSearch


class Wanted(NamedTuple):
    """A setting of a pair: the number of its condition, the setting as records keep it, and the key of its record.

    ``at_lpips`` holds the budgets for which its strength is tried; None where the strength was asked for.
    """

    condition: int
    setting: Setting
    key: str
    at_lpips: tuple[float, ...] | None = None


class Task(NamedTuple):
    """Settings to run on one pair with a seed; plain data, so that another process can be given it.

    ``known`` holds settings that are done, with the LPIPS of their pictures, from which a search goes on.
    """

    pair: Pair
    seed: int
    wanted: tuple[Wanted, ...]
    keep_images: bool = False
    known: tuple[tuple[Wanted, float | None], ...] = ()


@dataclass(frozen=True)
class Survey:
    """A run as its worker knows it once models are loaded; plain data, so that another process can send it.

    Attributes:
        tasks: one for each pair, with every setting that was asked for.
        shared: what all records of the folder share, as ``run.json`` keeps it.
        locations: where the parts of the model were found.
        device: that the worker computes on.
        bytes: memory that the worker's process holds.
        metrics: names of those that a record must hold.
        measured_by: metric to the network of its own that measures it.
        at_lpips: what is searched for besides.
    """

    tasks: Sequence[Task]
    shared: Mapping[str, Any]
    locations: Mapping[str, str]
    device: str
    bytes: int
    metrics: Sequence[str] = ()
    measured_by: Mapping[str, str] = field(default_factory=dict)
    at_lpips: LpipsSearch | None = None
