"""The weights of real models: their parts, their folders on this machine, and their download. Needs no torch."""

from riebench.weights.parts import SCORERS, Download, HubFiles, Part
from riebench.weights.places import (
    LocatedPart,
    Weights,
    default_root,
    find_part,
    find_parts,
    hub_snapshot,
    is_standin,
    locate,
    scorer_file,
    weights_root,
)

__all__ = [
    "SCORERS",
    "Download",
    "HubFiles",
    "LocatedPart",
    "Part",
    "Weights",
    "default_root",
    "find_part",
    "find_parts",
    "hub_snapshot",
    "is_standin",
    "locate",
    "scorer_file",
    "weights_root",
]
