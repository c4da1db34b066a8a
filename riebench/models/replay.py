"""Spare an edited run what the base run has computed already.

With the same prompt, seed and timestep, everything before the first edited block puts out what it put out in the base
run. That holds at the first step alone: after it the latents differ.

A stage of the U-Net that lies before the block's own stage is replaced as a whole, with the skip connections that it
hands on; in the block's own stage the earlier ResNets and transformer blocks are.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only


@dataclass
class Recording:
    """What a run computed at its first step.

    Attributes:
        start: prompt, seed and number of steps of the run; the first timestep depends on their number.
        blocks: module paths of the blocks before which everything is kept.
        outputs: module path to the module's output, in which each tensor has one row (of a guided batch: one of each
            half).
    """

    start: tuple[str, int, int]
    blocks: Sequence[str]
    outputs: dict[str, Any] = field(default_factory=dict)


def modules_before(unet: nn.Module, block: str) -> list[str]:
    """Paths of the modules that have done their work when a block begins, none inside another."""
    stage, _, number = block.partition(".attentions.")
    stages = [f"down_blocks.{i}" for i in range(len(unet.down_blocks))]  # type: ignore[arg-type]
    stages += ["mid_block", *(f"up_blocks.{i}" for i in range(len(unet.up_blocks)))]  # type: ignore[arg-type]
    within = [f"{stage}.resnets.{i}" for i in range(int(number) + 1)]
    within += [f"{stage}.attentions.{i}" for i in range(int(number))]
    return ["conv_in", *stages[: stages.index(stage)], *within]


def recording(unet: nn.Module, kept: Recording, rows: Sequence[int]) -> ExitStack:
    """Inside the ``with`` statement, keep the first output of all that lies before the blocks, for some rows.

    Rows are cut out and put together again, which keeps a tensor's layout in memory: convolutions choose their
    algorithm by it, and two algorithms round differently.
    """

    def keep(path: str, module: nn.Module, args: Any, output: Any) -> None:
        if path not in kept.outputs:
            kept.outputs[path] = tree_map_only(Tensor, lambda v: torch.cat([v[r : r + 1] for r in rows]), output)

    stack = ExitStack()
    for path in dict.fromkeys(path for block in kept.blocks for path in modules_before(unet, block)):
        stack.callback(unet.get_submodule(path).register_forward_hook(partial(keep, path)).remove)
    return stack


def replaying(unet: nn.Module, kept: Recording, block: str, rows: int) -> ExitStack:
    """Inside the ``with`` statement, all that lies before a block puts out what was recorded, the first time.

    Args:
        unet: the network.
        kept: what was recorded.
        block: module path of the block.
        rows: how often each recorded row is repeated.
    """

    def replay(path: str, own: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        del unet.get_submodule(path).forward
        vars(unet.get_submodule(path)).update(own)
        return tree_map_only(
            Tensor,
            lambda v: torch.cat([v[half : half + 1] for half in range(len(v)) for _ in range(rows)]),
            kept.outputs[path],
        )

    stack = ExitStack()
    for path in modules_before(unet, block):
        module = unet.get_submodule(path)
        # Somebody, as offloading, may have given the module a forward of its own already.
        own = {name: value for name, value in vars(module).items() if name == "forward"}
        stack.callback(vars(module).update, own)
        stack.callback(vars(module).pop, "forward", None)
        module.forward = partial(replay, path, own)
    return stack
