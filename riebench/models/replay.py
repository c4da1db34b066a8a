"""Spare an edited run what the base run has computed already.

With the same prompt, seed and timestep, everything before the first edited block puts out what it put out in the base
run. That holds at the first step alone: after it the latents differ.

A stage of the U-Net that lies before the block's own stage is replaced as a whole, with the skip connections that it
hands on; in the block's own stage the earlier ResNets and transformer blocks are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class _Kept:
    """One row ``[halves, ...]`` of a tensor, and its layout in memory.

    Convolutions choose their algorithm by the layout, and two algorithms round differently.
    """

    row: Tensor
    layout: torch.memory_format

    def spread(self, rows: int) -> Tensor:
        """Each half repeated: ``[halves * rows, ...]``."""
        shape = (len(self.row) * rows, *self.row.shape[1:])
        wide = torch.empty(shape, dtype=self.row.dtype, device=self.row.device, memory_format=self.layout)
        wide.unflatten(0, (len(self.row), rows)).copy_(self.row[:, None])
        return wide


@dataclass
class Recording:
    """What a run computed at its first step.

    Attributes:
        start: prompt, seed and number of steps of the run; the first timestep depends on their number.
        blocks: module paths of the blocks before which everything is kept.
        outputs: module path to the module's output, in which tensors are kept rows.
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


@contextmanager
def recording(unet: nn.Module, kept: Recording, rows: Sequence[int]) -> Iterator[None]:
    """Keep the first output of all that lies before the blocks, for some rows of the batch (guided: one a half)."""
    rows = list(rows)

    def hook(path: str) -> Callable[..., None]:
        def keep(value: Tensor) -> _Kept:
            return _Kept(value[rows].clone(), _layout(value))

        def first(module: nn.Module, args: Any, output: Any) -> None:
            if path not in kept.outputs:
                kept.outputs[path] = _each(output, Tensor, keep)

        return first

    with ExitStack() as stack:
        for path in dict.fromkeys(path for block in kept.blocks for path in modules_before(unet, block)):
            stack.callback(unet.get_submodule(path).register_forward_hook(hook(path)).remove)
        yield


@contextmanager
def replaying(unet: nn.Module, kept: Recording, block: str, rows: int) -> Iterator[None]:
    """Let all that lies before a block put out, the first time, what was recorded, in each row (of each half)."""

    def once(module: nn.Module, own: Callable[..., Any] | None, output: Any) -> Callable[..., Any]:
        def replay(*args: Any, **kwargs: Any) -> Any:
            _restore(module, own)
            return _each(output, _Kept, lambda value: value.spread(rows))

        return replay

    with ExitStack() as stack:
        for path in modules_before(unet, block):
            module = unet.get_submodule(path)
            own = module.__dict__.get("forward")
            stack.callback(_restore, module, own)
            module.forward = once(module, own, kept.outputs[path])
        yield


def _restore(module: nn.Module, own: Callable[..., Any] | None) -> None:
    """Give a module its forward back; ``own`` is one that somebody (as offloading) had set on it already."""
    if own is not None:
        module.forward = own
    else:
        module.__dict__.pop("forward", None)


def _layout(value: Tensor) -> torch.memory_format:
    last = torch.channels_last
    if value.ndim == 4 and value.is_contiguous(memory_format=last) and not value.is_contiguous():
        return last
    return torch.contiguous_format


def _each(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """A nest of tuples with ``change`` applied to each part of a kind, once to a part that comes twice."""
    done: dict[int, Any] = {}

    def walk(part: Any) -> Any:
        if isinstance(part, tuple):
            return tuple(walk(inner) for inner in part)
        if not isinstance(part, kind):
            return part
        if id(part) not in done:
            done[id(part)] = change(part)
        return done[id(part)]

    return walk(value)
