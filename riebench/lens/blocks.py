"""Names of the transformer blocks of an SDXL-shaped U-Net, read from the model itself."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import nn

FOUR = ("down.2.1", "mid.0", "up.0.0", "up.0.1")
"""The blocks that matter in SDXL, in the order in which they run (RIEBench's blocks)."""


@dataclass(frozen=True)
class BlockInfo:
    """A transformer block.

    Attributes:
        name: short name, as ``down.2.1``.
        path: module path inside the U-Net.
        channels: channels of its feature map.
        layers: number of transformer layers, each with neurons.
        neurons: neurons of one layer (width of the GEGLU output).
    """

    name: str
    path: str
    channels: int
    layers: int
    neurons: int


def module_path(short: str) -> str:
    """``down.2.1`` to ``down_blocks.2.attentions.1``, ``mid.0`` to ``mid_block.attentions.0``."""
    stage, *numbers = short.split(".")
    if stage == "mid":
        return f"mid_block.attentions.{numbers[0]}"
    return f"{stage}_blocks.{numbers[0]}.attentions.{numbers[1]}"


def short_name(path: str) -> str | None:
    """The short name of a module path (with or without ``unet.``), or None if it is not a block."""
    found = re.fullmatch(r"(?:unet\.)?(?:(down|up)_blocks\.(\d+)|(mid)_block)\.attentions\.(\d+)", path)
    if not found:
        return None
    return ".".join(part for part in found.groups() if part is not None)


def find_blocks(unet: nn.Module) -> dict[str, BlockInfo]:
    """Every transformer block of a U-Net by short name, in the order in which they run."""
    found = {}
    for path, module in unet.named_modules():
        name = short_name(path)
        if name is not None:
            layers = module.transformer_blocks
            channels = module.proj_out.weight.shape[0]
            width = layers[0].ff.net[2].weight.shape[1]
            found[name] = BlockInfo(name, path, channels, len(layers), width)
    order = {"down": 0, "mid": 1, "up": 2}
    return dict(sorted(found.items(), key=lambda item: (order[item[0].split(".")[0]], item[0])))
