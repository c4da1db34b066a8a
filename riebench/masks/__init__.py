"""Phrase and picture to mask, mask to a block's grid."""

from riebench.masks.grid import to_grid
from riebench.masks.phrases import Masker, ground, pair_instances
from riebench.masks.rules import MaskRules

__all__ = ["MaskRules", "Masker", "ground", "pair_instances", "to_grid"]
