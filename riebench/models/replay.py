"""Replay: an edited run reuses what the base run has computed.

With the same prompt, seed and timestep, every module before the first edited block has the same output as in the base
run, unless code of a user's runs in the denoiser: a hook could act on a recorded output again, or count its calls. This
holds at the first step only: after it the latents differ. A family names the modules that have run when a block begins,
each as large as possible. In a U-Net these are whole stages before the block's own stage, with their skip connections,
and the earlier ResNets and transformer blocks of its own stage.

Importing it needs no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Recording:
    """Outputs of modules at the first step of a run.

    Attributes:
        start: prompt, seed and number of steps of the run; the first timestep depends on the number of steps.
        paths: of the modules whose outputs are kept.
        outputs: module path to the module's output; its tensors have one row, or one of each half in a guided batch.
    """

    start: tuple[str, int, int]
    paths: Sequence[str]
    outputs: dict[str, Any] = field(default_factory=dict)


def recording(denoiser: nn.Module, kept: Recording, rows: Sequence[int]) -> ExitStack:
    """Record the first output of modules inside the ``with`` statement.

    Rows are cut out and concatenated, which keeps a tensor's layout in memory: convolutions choose their algorithm by
    the layout, and two algorithms round differently.

    Args:
        denoiser: the network.
        kept: names the modules, and gets their outputs.
        rows: the rows of a batch that are kept.
    """
    import torch
    from torch.utils._pytree import tree_map_only

    def keep(path: str, module: nn.Module, args: Any, output: Any) -> None:
        if path not in kept.outputs:
            kept.outputs[path] = tree_map_only(torch.Tensor, lambda v: torch.cat([v[r : r + 1] for r in rows]), output)

    stack = ExitStack()
    for path in kept.paths:
        stack.callback(denoiser.get_submodule(path).register_forward_hook(partial(keep, path)).remove)
    return stack


def replaying(denoiser: nn.Module, kept: Recording, paths: Sequence[str], rows: int) -> ExitStack:
    """Let modules return their recorded outputs at their first call inside the ``with`` statement.

    Args:
        denoiser: the network.
        kept: the recorded outputs.
        paths: of the modules.
        rows: number of times that each recorded row is repeated.
    """
    import torch
    from torch.utils._pytree import tree_map_only

    def replay(path: str, own: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        del denoiser.get_submodule(path).forward
        vars(denoiser.get_submodule(path)).update(own)
        return tree_map_only(
            torch.Tensor,
            lambda v: torch.cat([v[half : half + 1] for half in range(len(v)) for _ in range(rows)]),
            kept.outputs[path],
        )

    stack = ExitStack()
    for path in paths:
        module = denoiser.get_submodule(path)
        # Offloading, for example, replaces a module's forward too.
        own = {name: value for name, value in vars(module).items() if name == "forward"}
        stack.callback(vars(module).update, own)
        stack.callback(vars(module).pop, "forward", None)
        module.forward = partial(replay, path, own)
    return stack
