"""The weights of real models: which parts there are, where they lie, and where they come from. Needs no torch."""

from riebench.weights.parts import Download, HubFiles, Part, parts_of
from riebench.weights.places import Found, Weights, default_root, locate, look

__all__ = ["Download", "Found", "HubFiles", "Part", "Weights", "default_root", "locate", "look", "parts_of"]
