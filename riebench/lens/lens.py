"""Capture what blocks add, and add to what they put out, while a pipeline generates.

Hooks live inside ``with`` statements alone, so a model is as it was after any error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from riebench.util.errors import PairError
from riebench.lens.blocks import BlockInfo, find_blocks


class Place(NamedTuple):
    """Where something is added: a block's output, or (with ``layer``) the neurons of one of its layers."""

    block: str
    layer: int | None = None


Addition = Tensor | Callable[[Tensor, int], Tensor]
"""What is added at strength 1. For a block's output ``[steps, channels, height, width]``; for neurons
``[steps, height * width, neurons]``; or, to act on the edited run itself, a function of what passes there in
one step (the update ``[channels, height, width]``, or the neurons ``[height * width, neurons]``) and of the
step's number, which returns the same shape."""

Additions = Mapping[Place, Addition]


@dataclass(frozen=True)
class Edit:
    """The additions of one row of a batch, with the factor on all of them."""

    additions: Additions
    strength: float = 1.0


@dataclass
class Activations:
    """What one run showed.

    Attributes:
        inputs: block to ``[steps, channels, height, width]``, in float32 whatever the model's type.
        updates: block to output minus input, same shape.
        neurons: (block, layer) to the raw neurons ``[steps, height * width, neurons]``, in the model's type.
    """

    inputs: dict[str, Tensor] = field(default_factory=dict)
    updates: dict[str, Tensor] = field(default_factory=dict)
    neurons: dict[Place, Tensor] = field(default_factory=dict)


class Lens:
    """Hooks on the transformer blocks of a U-Net.

    Args:
        unet: any ``UNet2DConditionModel`` with SDXL's blocks.
    """

    def __init__(self, unet: nn.Module) -> None:
        self.unet = unet
        self.blocks: dict[str, BlockInfo] = find_blocks(unet)

    def block(self, name: str) -> nn.Module:
        """The module of a block."""
        return self.unet.get_submodule(self.blocks[name].path)

    def neuron_module(self, place: Place) -> nn.Module:
        """The module that puts out the neurons of a layer (``ff.net.0``)."""
        return self.block(place.block).transformer_blocks[place.layer].ff.net[0]  # type: ignore[union-attr,index]

    @contextmanager
    def _hooks(self, hooks: Sequence[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
        with ExitStack() as stack:
            for module, hook in hooks:
                stack.callback(module.register_forward_hook(hook).remove)
            yield

    @contextmanager
    def capture(self, blocks: Sequence[str], neurons: bool = False) -> Iterator[list[Activations]]:
        """Capture blocks during a generation.

        Yields a list that holds, after the ``with`` statement, the activations of each row of the batch.
        """
        inputs: dict[str, list[Tensor]] = {name: [] for name in blocks}
        outputs: dict[str, list[Tensor]] = {name: [] for name in blocks}
        places = [Place(n, i) for n in blocks for i in range(self.blocks[n].layers)] if neurons else []
        seen: dict[Place, list[Tensor]] = {place: [] for place in places}

        def block_hook(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
                inputs[name].append(args[0].detach().clone())
                outputs[name].append(_first(output).detach().clone())

            return hook

        def neuron_hook(place: Place) -> Callable[..., None]:
            return lambda module, args, output: seen[place].append(output.detach().clone())

        hooks = [(self.block(n), block_hook(n)) for n in blocks]
        hooks += [(self.neuron_module(p), neuron_hook(p)) for p in places]
        rows: list[Activations] = []
        with self._hooks(hooks):
            yield rows
        count = len(next(iter(inputs.values()))[0]) if blocks and inputs[blocks[0]] else 0
        for row in range(count):
            now = Activations()
            for name in blocks:
                before = torch.stack([x[row] for x in inputs[name]]).float()
                now.inputs[name] = before
                now.updates[name] = torch.stack([x[row] for x in outputs[name]]).float() - before
            now.neurons = {place: torch.stack([x[row] for x in seen[place]]) for place in places}
            rows.append(now)

    @contextmanager
    def editing(self, edits: Sequence[Edit]) -> Iterator[None]:
        """Add to the places that the edits name; row i of the batch gets the additions of edit i.

        Raises:
            PairError: on the forward pass, if an addition has the wrong shape or is not finite.
        """
        places = list(dict.fromkeys(place for edit in edits for place in edit.additions))
        hooks = []
        for place in places:
            module = self.block(place.block) if place.layer is None else self.neuron_module(place)
            hooks.append((module, _adder(place, edits)))
        with self._hooks(hooks):
            yield

    @contextmanager
    def ablating(self, blocks: Sequence[str]) -> Iterator[None]:
        """Let blocks add nothing: each returns its input."""

        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            return _like(output, args[0])

        with self._hooks([(self.block(name), hook) for name in blocks]):
            yield


def _first(output: Any) -> Tensor:
    """The feature map of a block's output, which diffusers wraps in a tuple or an output object."""
    return output if isinstance(output, Tensor) else output[0]


def _like(output: Any, value: Tensor) -> Any:
    if isinstance(output, Tensor):
        return value
    return (value, *output[1:]) if isinstance(output, tuple) else type(output)(value)


def _adder(place: Place, edits: Sequence[Edit]) -> Callable[..., Any]:
    """A hook that adds to the rows of one place and counts the steps."""
    step = -1

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        nonlocal step
        step += 1
        value = _first(output)
        if len(value) != len(edits):
            raise PairError(f"the batch has {len(value)} rows, the edits are {len(edits)}", where="lens")
        passing = value if place.layer is not None else value - args[0]
        changed = value.clone()
        for row, edit in enumerate(edits):
            addition = edit.additions.get(place)
            if addition is None or edit.strength == 0:
                continue
            delta = addition(passing[row].float(), step) if callable(addition) else addition[step]
            changed[row] += _checked(edit.strength * delta, value[row], place)
        return _like(output, changed)

    return hook


def _checked(delta: Tensor, row: Tensor, place: Place) -> Tensor:
    where = place.block if place.layer is None else f"{place.block}, neurons of layer {place.layer}"
    if delta.shape != row.shape:
        shapes = f"{list(delta.shape)}, expected {list(row.shape)}"
        raise PairError(f"the method's addition at {where} has the shape {shapes}", where="method")
    if not bool(torch.isfinite(delta).all()):
        raise PairError(f"the method's addition at {where} is not finite", where="method")
    return delta.to(row)
