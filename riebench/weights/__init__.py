"""The weights of real models: which parts there are, where they lie, and where they come from. Needs no torch."""

from riebench.weights.parts import SCORERS, Download, HubFiles, Part
from riebench.weights.places import (
    Found,
    Weights,
    default_root,
    find_part,
    hub_snapshot,
    is_standin,
    locate,
    look,
    scorer_file,
    weights_root,
)

__all__ = [
    "SCORERS",
    "Download",
    "Found",
    "HubFiles",
    "Part",
    "Weights",
    "default_root",
    "find_part",
    "hub_snapshot",
    "is_standin",
    "locate",
    "look",
    "scorer_file",
    "weights_root",
]
