"""Masks: the region that a phrase names in a picture, and that region on a block's grid."""

from riebench.masks.grid import to_grid
from riebench.masks.region import Mask, Masker, MaskRules, Region, ground, pair_regions

__all__ = ["Mask", "MaskRules", "Masker", "Region", "ground", "pair_regions", "to_grid"]
