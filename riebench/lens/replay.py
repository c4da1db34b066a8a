"""Spare an edited run what the base run has computed already.

With the same prompt, seed and timestep, everything before the first intervened block puts out what it put out in the
base run. That is so at the first step alone: after it the latents differ.

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

from riebench.lens.blocks import module_path


@dataclass(frozen=True)
class _Kept:
    """One row ``[halves, ...]`` of a tensor, and how the tensor lay in memory.

    The layout matters: convolutions choose their algorithm by it, and two algorithms round differently.
    """

    rows: Tensor
    layout: torch.memory_format

    def spread(self, rows: int) -> Tensor:
        """Each half repeated: ``[halves * rows, ...]``."""
        shape = (len(self.rows) * rows, *self.rows.shape[1:])
        wide = torch.empty(shape, dtype=self.rows.dtype, device=self.rows.device, memory_format=self.layout)
        wide.unflatten(0, (len(self.rows), rows)).copy_(self.rows[:, None])
        return wide


@dataclass
class Recorded:
    """What one run computed at its first step.

    Attributes:
        prompt: of the run.
        seed: of the run.
        steps: of the run; the first timestep depends on their number.
        blocks: before which everything is kept.
        outputs: module path to the module's output, in which tensors are kept rows.
    """

    prompt: str
    seed: int
    steps: int
    blocks: Sequence[str]
    outputs: dict[str, Any] = field(default_factory=dict)

    def fits(self, prompts: Sequence[str], seeds: Sequence[int], steps: int) -> bool:
        """Whether every row of a batch begins as the recorded run did."""
        rows = zip(prompts, seeds, strict=True)
        return steps == self.steps and all(row == (self.prompt, self.seed) for row in rows)


def modules_before(unet: nn.Module, block: str) -> list[str]:
    """Paths of the modules that have done their work when a block begins, none inside another."""
    stage, _, number = module_path(block).partition(".attentions.")
    stages = [f"down_blocks.{i}" for i in range(len(unet.down_blocks))]  # type: ignore[arg-type]
    stages += ["mid_block", *(f"up_blocks.{i}" for i in range(len(unet.up_blocks)))]  # type: ignore[arg-type]
    within = [f"{stage}.resnets.{i}" for i in range(int(number) + 1)]
    within += [f"{stage}.attentions.{i}" for i in range(int(number))]
    return ["conv_in", *stages[: stages.index(stage)], *within]


@contextmanager
def recording(unet: nn.Module, recorded: Recorded, rows: Sequence[int]) -> Iterator[None]:
    """Keep what lies before each of the blocks, of some rows of the batch (of a guided batch: one in each half)."""
    paths = dict.fromkeys(path for block in recorded.blocks for path in modules_before(unet, block))

    def hook(path: str) -> Callable[..., None]:
        def keep(value: Tensor) -> _Kept:
            return _Kept(value.detach()[list(rows)].clone(), _layout(value))

        return lambda module, args, output: recorded.outputs.update({path: _each(output, Tensor, keep)})

    with ExitStack() as stack:
        for path in paths:
            stack.callback(unet.get_submodule(path).register_forward_hook(hook(path)).remove)
        yield


@contextmanager
def replaying(unet: nn.Module, recorded: Recorded, block: str, rows: int) -> Iterator[None]:
    """Let what lies before a block put out what was recorded, in each of the rows (of each half)."""

    def instead(output: Any) -> Callable[..., Any]:
        return lambda *args, **kwargs: _each(output, _Kept, lambda kept: kept.spread(rows))

    with ExitStack() as stack:
        for path in modules_before(unet, block):
            module = unet.get_submodule(path)
            stack.callback(_restore, module, module.__dict__.get("forward"))
            module.forward = instead(recorded.outputs[path])
        yield


def _restore(module: nn.Module, own: Callable[..., Any] | None) -> None:
    """Give a module its forward back; ``own`` is one that somebody (as offloading) had set on it already."""
    if own is None:
        del module.forward
    else:
        module.forward = own


def _layout(value: Tensor) -> torch.memory_format:
    last = torch.channels_last
    if value.ndim == 4 and value.is_contiguous(memory_format=last) and not value.is_contiguous():
        return last
    return torch.contiguous_format


def _each(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """A module's output with each tensor in it changed; one that stands there twice is changed once."""
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
