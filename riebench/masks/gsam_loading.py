"""The packages and checkpoints of Grounded SAM 2: imported on demand, read without running code."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from riebench.util.errors import UserError

INSTALL = 'SAM2_BUILD_CUDA=0 pip install --no-build-isolation "riebench[gsam]"'
HEADLESS = "pip uninstall -y opencv-python && pip install --force-reinstall --no-deps opencv-python-headless"
SHOWN = 3  # keys that an error names of each kind


@contextmanager
def quiet() -> Iterator[None]:
    """Hide warnings about deprecated names that these packages cause in other libraries and in transformers' log."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)


def gsam_module(name: str) -> Any:
    """A module of groundingdino, sam2 or what they need.

    Raises:
        UserError: if a package is not installed, or if OpenCV lacks a library of the system.
    """
    try:
        with quiet():
            return import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"Grounded SAM 2 needs the package {error.name!r}, which is not here; run: {INSTALL}") from None
    except ImportError as error:
        # OpenCV needs system libraries that a server may lack.
        raise UserError(f"Grounded SAM 2 cannot start ({error}); if a system library is missing: {HEADLESS}") from None


def read_state(path: Path, address: str) -> dict[str, Tensor]:
    """The tensors under ``model`` in a checkpoint; the prefix ``module.`` of a parallel wrapper is removed.

    Args:
        path: of a file that ``torch.save`` wrote.
        address: of the published file, for messages.

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
    """Load tensors into a model, all that the model has.

    Args:
        model: is changed in place.
        state: the result of :func:`read_state`.
        path: of the checkpoint, for messages.
        harmless: keys that the checkpoint may hold beside the model's own.

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
        reasons = "; ".join(_some(kind, keys) for kind, keys in faults.items() if keys)
        raise UserError(f"{path} does not fit its model: {reasons}; take the published file, or add its sizes")
    model.load_state_dict({key: state[key] for key in own})


def _some(kind: str, keys: Collection[str]) -> str:
    shown = ", ".join(sorted(keys)[:SHOWN])
    return f"{len(keys)} {kind} ({shown}{', ...' if len(keys) > SHOWN else ''})"
