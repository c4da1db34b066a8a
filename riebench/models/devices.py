"""Devices by name, and the fingerprint of weights on any device."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING

from riebench.util.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

USER_WEIGHTS = "given-"
"""The start of the fingerprint of weights that a user hands in, or has changed."""


def pick_device(name: str) -> torch.device:
    """The device of a name; ``auto`` is the best of this machine.

    Raises:
        UserError: if this machine has no such device.
    """
    import torch

    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(best if name == "auto" else name)
    except RuntimeError:
        raise UserError(f"the device {name!r} is not known; expected auto, cpu, cuda, cuda:N or mps") from None
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not present.get(device.type, False):
        raise UserError(f"the device {name!r} is not on this machine; the best one here is {best!r}")
    return device


def second_stream(device: torch.device) -> AbstractContextManager[object]:
    """Inside the ``with`` statement a GPU's work goes to a second stream, beside what another thread gives the first.

    It is always the same one: PyTorch keeps freed memory for the stream that it was freed on.
    """
    import torch

    return torch.cuda.stream(_second_stream(device)) if device.type == "cuda" else nullcontext()


@cache
def _second_stream(device: torch.device) -> torch.cuda.Stream:
    import torch

    return torch.cuda.Stream(device)


def types_as_loaded(device: torch.device) -> AbstractContextManager[object]:
    """Inside the ``with`` statement a caller's autocast does not act: records name the type of the weights alone."""
    import torch

    return torch.autocast(device.type, enabled=False)


@contextmanager
def fitting_threads(small: bool) -> Iterator[None]:
    """Inside the ``with`` statement torch computes in one thread if a network is small.

    Threads that share products of a small network wait for each other longer than they work: on two cores a picture of
    mini takes .07 s in two threads and .05 in one, and beside four endless processes .31 and .15.
    """
    import torch

    threads = torch.get_num_threads()
    if not small or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def weights_fingerprint(module: nn.Module) -> str:
    """A hash of a module's names, shapes, types and bytes, 16 hexadecimal digits; the same on every device."""
    import torch

    digest, state = hashlib.sha256(), module.state_dict()
    if any(value.is_meta for value in state.values()):  # offloading keeps them outside the module
        from accelerate.utils.modeling import get_state_dict_offloaded_model

        held = get_state_dict_offloaded_model(module)
        state = {name: held.get(name, value) for name, value in state.items()}
    for name, value in state.items():
        digest.update(f"{name}{list(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
