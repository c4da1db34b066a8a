"""Phrase and picture to mask, mask to a block's grid."""

from riebench.masks.grid import to_grid
from riebench.masks.phrases import Masker, ground, pair_instances

__all__ = ["Masker", "ground", "pair_instances", "to_grid"]
