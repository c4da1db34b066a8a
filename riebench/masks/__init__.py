"""From a phrase and a picture to a region, from a region to a mask on a block's grid."""

from riebench.masks.grid import to_grid
from riebench.masks.phrases import Masker, ground, pair_regions
from riebench.masks.region import Mask, Region
from riebench.masks.rules import MaskRules

__all__ = ["Mask", "MaskRules", "Masker", "Region", "ground", "pair_regions", "to_grid"]
