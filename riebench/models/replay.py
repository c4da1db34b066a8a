"""Spare an edited run what the base run has computed already.

With the same prompt, seed and timestep, everything before the first edited block puts out what it put out in the base
run. That holds at the first step alone: after it the latents differ.

A family says which modules have done their work when a block begins, each as large as can be. In a U-Net, a stage that
lies before the block's own stage is replaced as a whole, with the skip connections that it hands on; in the block's own
stage the earlier ResNets and transformer blocks are.
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
        paths: of the modules whose outputs are kept.
        outputs: module path to the module's output, in which each tensor has one row (of a guided batch: one of each
            half).
    """

    start: tuple[str, int, int]
    paths: Sequence[str]
    outputs: dict[str, Any] = field(default_factory=dict)


def recording(denoiser: nn.Module, kept: Recording, rows: Sequence[int]) -> ExitStack:
    """Inside the ``with`` statement, keep the first output of the modules of a recording, for some rows.

    Rows are cut out and put together again, which keeps a tensor's layout in memory: convolutions choose their
    algorithm by it, and two algorithms round differently.
    """

    def keep(path: str, module: nn.Module, args: Any, output: Any) -> None:
        if path not in kept.outputs:
            kept.outputs[path] = tree_map_only(Tensor, lambda v: torch.cat([v[r : r + 1] for r in rows]), output)

    stack = ExitStack()
    for path in kept.paths:
        stack.callback(denoiser.get_submodule(path).register_forward_hook(partial(keep, path)).remove)
    return stack


def replaying(denoiser: nn.Module, kept: Recording, paths: Sequence[str], rows: int) -> ExitStack:
    """Inside the ``with`` statement, some modules put out what was recorded, the first time.

    Args:
        denoiser: the network.
        kept: what was recorded.
        paths: of the modules.
        rows: how often each recorded row is repeated.
    """

    def replay(path: str, own: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        del denoiser.get_submodule(path).forward
        vars(denoiser.get_submodule(path)).update(own)
        return tree_map_only(
            Tensor,
            lambda v: torch.cat([v[half : half + 1] for half in range(len(v)) for _ in range(rows)]),
            kept.outputs[path],
        )

    stack = ExitStack()
    for path in paths:
        module = denoiser.get_submodule(path)
        # Somebody, as offloading, may have given the module a forward of its own already.
        own = {name: value for name, value in vars(module).items() if name == "forward"}
        stack.callback(vars(module).update, own)
        stack.callback(vars(module).pop, "forward", None)
        module.forward = partial(replay, path, own)
    return stack
