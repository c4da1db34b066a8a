"""The device that a model runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from riebench.util.errors import UserError

if TYPE_CHECKING:
    import torch


def pick_device(name: str) -> torch.device:
    """A device by name; ``auto`` is the best of this machine.

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
