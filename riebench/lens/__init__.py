"""Watch a denoiser's blocks while it works, and add to them."""

from riebench.lens.blocks import FOUR, BlockInfo, find_blocks, module_path, short_name
from riebench.lens.lens import Activations, Addition, Additions, Edit, Lens, Place

__all__ = [
    "FOUR",
    "Activations",
    "Addition",
    "Additions",
    "BlockInfo",
    "Edit",
    "Lens",
    "Place",
    "find_blocks",
    "module_path",
    "short_name",
]
