"""Checkpoints of Grounded SAM 2: read without running code, and refused unless they fit."""

from __future__ import annotations

import pickle
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor, nn

from riebench.util.errors import UserError

SHOWN = 3  # keys that an error names of each kind


def read_state(path: Path, address: str) -> dict[str, Tensor]:
    """The tensors under ``model`` in a checkpoint, without the prefix ``module.`` of a parallel wrapper.

    Args:
        path: a file that ``torch.save`` wrote.
        address: where the published file is.

    Raises:
        UserError: if the file is missing, damaged, or holds anything but tensors.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint {path}; get {address}")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError):
        raise UserError(f"{path} is damaged or holds more than tensors, so it is not loaded; get {address}") from None
    state = saved.get("model") if isinstance(saved, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} has no tensors under 'model'; get {address}")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def fit(model: nn.Module, state: dict[str, Tensor], path: Path, harmless: Collection[str] = ()) -> None:
    """Load tensors into a model, every one of them.

    Args:
        model: takes them in place.
        state: as ``read_state`` gives it.
        path: for the message.
        harmless: keys that may be there beside the model's own.

    Raises:
        UserError: if a key is missing, unexpected or of another shape.
    """
    own = model.state_dict()
    shapes = {key: (tuple(state[key].shape), tuple(own[key].shape)) for key in own.keys() & state.keys()}
    faults = {
        "missing": own.keys() - state.keys(),
        "unexpected": state.keys() - own.keys() - set(harmless),
        "of another shape": {f"{key} {has} for {wants}" for key, (has, wants) in shapes.items() if has != wants},
    }
    if any(faults.values()):
        said = "; ".join(_some(kind, keys) for kind, keys in faults.items() if keys)
        raise UserError(f"{path} does not fit its model: {said}; take the published file, or its own sizes beside it")
    model.load_state_dict({key: state[key] for key in own})


def _some(kind: str, keys: Collection[str]) -> str:
    shown = ", ".join(sorted(keys)[:SHOWN])
    return f"{len(keys)} {kind} ({shown}{', ...' if len(keys) > SHOWN else ''})"
