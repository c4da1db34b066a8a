"""SAE folders: the published layout, our own (the same with safetensors), and those of other libraries for reading."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from riebench.sae.folders import CONFIG, SAELENS_CONFIG
from riebench.sae.other_layouts import LEARNED, SPARSIFY_WEIGHTS, read_dictionary_learning, read_sparsify
from riebench.sae.saelens import read_saelens
from riebench.sae.topk import TopKSAE
from riebench.util.errors import UserError
from riebench.util.files import write_whole

WEIGHTS, PUBLISHED = "state_dict.safetensors", "state_dict.pth"


def save_sae(sae: TopKSAE, folder: Path, config: Mapping[str, Any], dtype: torch.dtype = torch.float32) -> None:
    """Write an SAE in our layout; ``config`` adds to what the published ``config.json`` holds."""
    known = {"n_dirs_local": sae.n_features, "d_model": sae.d_model, "k": sae.k}
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in sae.state_dict().items()}
    write_whole(folder / WEIGHTS, save({k: v.contiguous() for k, v in state.items()}))
    write_whole(folder / CONFIG, (json.dumps({**known, **config}, indent=2) + "\n").encode())


def load_sae(folder: Path) -> TopKSAE:
    """Read an SAE in float32 from a folder: published, ours, SAELens', dictionary_learning's or sparsify's.

    Raises:
        UserError: if a file is missing, holds anything but tensors or finite numbers, the weights do not fit the
            configuration, or the SAE computes something else than :class:`TopKSAE`.
    """
    try:
        k, state = _read(folder)
        n_features, d_model = state["encoder.weight"].shape
        state.setdefault("stats_last_nonzero", torch.zeros(n_features, dtype=torch.long))
        sae = TopKSAE(d_model, n_features, k)
        sae.load_state_dict({name: v.float() if v.is_floating_point() else v for name, v in state.items()})
        for name, parameter in sae.named_parameters():
            if not bool(parameter.isfinite().all()):
                raise ValueError(f"{name} has numbers that are not finite")
    except UnpicklingError:
        raise UserError(
            f"the SAE folder {folder} cannot be used: its file of weights holds more than tensors"
        ) from None
    except (OSError, EOFError, KeyError, TypeError, ValueError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split("\n")[:2])
        raise UserError(f"the SAE folder {folder} cannot be used: {type(error).__name__}: {reason}") from None
    return sae.eval().requires_grad_(False)


def _read(folder: Path) -> tuple[int, dict[str, Tensor]]:
    """k and the tensors, whatever the layout; ours comes first where a folder has two."""
    if not (folder / WEIGHTS).is_file() and not (folder / PUBLISHED).is_file():
        if (folder / LEARNED).is_file():
            return read_dictionary_learning(folder, json.loads((folder / CONFIG).read_text()))
        if (folder / SPARSIFY_WEIGHTS).is_file():
            return read_sparsify(folder, json.loads((folder / SAELENS_CONFIG).read_text()))
        if (folder / SAELENS_CONFIG).is_file():
            return read_saelens(folder, json.loads((folder / SAELENS_CONFIG).read_text()))
    config = json.loads((folder / CONFIG).read_text())
    state = _state(folder)
    expected = (config["n_dirs_local"], config["d_model"])
    if tuple(state["encoder.weight"].shape) != expected:
        raise ValueError(f"encoder.weight is {list(state['encoder.weight'].shape)}, {CONFIG} says {list(expected)}")
    return config["k"], state


def _state(folder: Path) -> dict[str, Tensor]:
    if (folder / WEIGHTS).is_file() or not (folder / PUBLISHED).is_file():
        return load_file(folder / WEIGHTS)
    loaded = torch.load(folder / PUBLISHED, map_location="cpu", weights_only=True)
    state: dict[str, Tensor] = loaded["state_dict"]
    return state
