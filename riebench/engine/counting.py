"""Counts of the passes through a run's networks, and the time inside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from riebench.instruments.loading import Instruments
from riebench.models.model import DECODER, DENOISER, TEXT
from riebench.sae.sae import SAE

MASKER, CLIP_IMAGE, CLIP_TEXT, LPIPS = "masker", "CLIP image", "CLIP text", "LPIPS"
COUNTED = (DENOISER, DECODER, TEXT, MASKER, CLIP_IMAGE, CLIP_TEXT, LPIPS)


@dataclass
class Count:
    """The passes through one network.

    Attributes:
        passes: pictures or prompts that went through it; a batch of n counts n.
        seconds: time inside it.
        inputs: the distinct prompts, or (picture, phrase), that went in.
    """

    passes: int = 0
    seconds: float = 0.0
    inputs: set[Hashable] = field(default_factory=set)


@dataclass
class Counts:
    """The counts of all networks.

    Attributes:
        by_name: network to count.
        inside: seconds inside any network; a network that runs inside another is not counted twice.
        wait: returns when the device has finished its work.
    """

    by_name: dict[str, Count] = field(default_factory=dict)
    inside: float = 0.0
    wait: Callable[[], object] = lambda: None
    _depth: int = 0

    def __getitem__(self, name: str) -> Count:
        return self.by_name.setdefault(name, Count())

    def watched(
        self,
        name: str,
        function: Callable[..., Any],
        rows: Callable[..., int],
        inputs: Callable[..., list[Hashable]] | None,
    ) -> Callable[..., Any]:
        """The function, with its passes and its time counted."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            count = self[name]
            count.passes += rows(*args, **kwargs)
            if inputs is not None:
                count.inputs.update(inputs(*args, **kwargs))
            self._depth += 1
            self.wait()
            started = time.perf_counter()
            try:
                output = function(*args, **kwargs)
                self.wait()  # a GPU goes on after the call; that time is the network's
                return output
            finally:
                seconds = time.perf_counter() - started
                self._depth -= 1
                count.seconds += seconds
                self.inside += seconds if self._depth == 0 else 0.0

        return counted


@contextmanager
def counting(instruments: Instruments, counts: Counts | None = None) -> Iterator[Counts]:
    """Count the passes through the networks of a run inside the ``with`` statement.

    The denoiser's time includes what is captured from it and added to it, and that of LPIPS its differences and their
    maps; the SAEs and the reader of the drawn world are networks (or stand for one), too.

    Args:
        instruments: of the run.
        counts: to add to; new ones unless given.

    Raises:
        UserError: if the model's family does not say which networks it has.
    """
    counts = counts or Counts()
    if instruments.model.device.type != "cpu":
        counts.wait = partial(torch.accelerator.synchronize, instruments.model.device)
    networks, scorers = instruments.model.networks(), instruments.scorers
    with ExitStack() as stack:

        def watch(
            owner: Any,
            attribute: str,
            name: str,
            rows: Callable[..., int] = _rows,
            inputs: Callable[..., list[Hashable]] | None = None,
        ) -> None:
            put_in(stack, owner, attribute, counts.watched(name, getattr(owner, attribute), rows, inputs))

        for name, (owner, attribute) in networks.items():
            watch(owner, attribute, name, inputs=_prompts if name == TEXT else None)
        watch(scorers.clip.model, "encode_image", CLIP_IMAGE)
        watch(scorers.clip.model, "encode_text", CLIP_TEXT, inputs=_prompts)
        watch(scorers.lpips.model.net, "forward", LPIPS)
        for name in ("layers", "totals", "means_by_region"):
            watch(scorers.lpips, name, "LPIPS differences", _one)
        watch(SAE, "encode", "SAE", lambda sae, x: x.shape[:-1].numel())
        watch(SAE, "directions", "SAE decoder", _one)
        if instruments.masker is not None:
            watch(instruments.masker, "find", MASKER, _one, lambda image, phrase: [(image.tobytes(), phrase)])
        if instruments.truth is not None:
            make = instruments.truth
            put_in(stack, instruments, "truth", lambda *a: counts.watched("reader", make(*a), _one, None))
        instruments.model.stamp()  # looks at all of the model anew, since functions were put in; not part of the work
        yield counts


def put_in(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    """Give an object another attribute until the stack is left."""
    own = vars(owner).get(name)
    stack.callback(setattr, owner, name, own) if own is not None else stack.callback(delattr, owner, name)
    setattr(owner, name, value)


def _rows(*args: Any, **kwargs: Any) -> int:
    """The rows of the first tensor among a network's arguments; 1 without a tensor."""
    tensor = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
    return 1 if tensor is None else len(tensor)


def _one(*args: Any, **kwargs: Any) -> int:
    return 1


def _prompts(*args: Any, **kwargs: Any) -> list[Hashable]:
    prompts = next(iter((*args, *kwargs.values())))
    return [tuple(row) for row in prompts.tolist()] if isinstance(prompts, Tensor) else [prompts]
