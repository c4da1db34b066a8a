"""SAE folders: the published layout, our own (the same with safetensors), and SAELens' TopK layout where it fits."""

from __future__ import annotations

import json
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from riebench.sae.folders import CONFIG, SAELENS_CONFIG
from riebench.sae.topk import TopKSAE
from riebench.util.errors import UserError

WEIGHTS, PUBLISHED, SAELENS_WEIGHTS = "state_dict.safetensors", "state_dict.pth", "sae_weights.safetensors"


def save_sae(sae: TopKSAE, folder: Path, config: dict[str, float], dtype: torch.dtype = torch.float32) -> None:
    """Write an SAE in our layout; ``config`` adds to what the published ``config.json`` holds."""
    folder.mkdir(parents=True, exist_ok=True)
    known = {"n_dirs_local": sae.n_features, "d_model": sae.d_model, "k": sae.k}
    (folder / CONFIG).write_text(json.dumps({**known, **config}, indent=2) + "\n")
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in sae.state_dict().items()}
    save_file({k: v.contiguous() for k, v in state.items()}, folder / WEIGHTS)


def load_sae(folder: Path) -> TopKSAE:
    """Read an SAE in float32 from a folder in any of the three layouts.

    Raises:
        UserError: if a file is missing, holds anything but tensors, or the weights do not fit the configuration.
    """
    try:
        if (folder / SAELENS_CONFIG).is_file():
            return _from_saelens(folder)
        config = json.loads((folder / CONFIG).read_text())
        state = _floats(_state(folder))
        sae = TopKSAE(config["d_model"], config["n_dirs_local"], config["k"])
        sae.load_state_dict(state)
    except UnpicklingError:
        raise UserError(f"the SAE folder {folder} cannot be used: {PUBLISHED} holds more than tensors") from None
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError, SafetensorError) as error:
        said = " ".join(str(error).split("\n")[:2])
        raise UserError(f"the SAE folder {folder} cannot be used: {type(error).__name__}: {said}") from None
    return sae.eval().requires_grad_(False)


def _state(folder: Path) -> dict[str, Tensor]:
    if (folder / WEIGHTS).is_file() or not (folder / PUBLISHED).is_file():
        return load_file(folder / WEIGHTS)
    loaded = torch.load(folder / PUBLISHED, map_location="cpu", weights_only=True)
    state: dict[str, Tensor] = loaded["state_dict"]
    return state


def _floats(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def _from_saelens(folder: Path) -> TopKSAE:
    """SAELens: ``W_enc [d, n]``, ``W_dec [n, d]``, ``b_enc [n]``, ``b_dec [d]``, as safetensors.

    Raises:
        ValueError: if the SAE computes something else than :class:`TopKSAE`.
    """
    config: dict[str, Any] = json.loads((folder / SAELENS_CONFIG).read_text())
    inner = config.get("activation_fn_kwargs") or {}
    k = int(config.get("k") or inner.get("k") or 0)
    kind = config.get("architecture", "standard")
    if kind != "topk" and config.get("activation_fn", config.get("activation_fn_str")) != "topk":
        raise ValueError(f"its architecture is {kind!r}, expected 'topk'")
    for name, wanted in (("apply_b_dec_to_input", (True,)), ("normalize_activations", ("none", None))):
        if config.get(name, wanted[0]) not in wanted:
            raise ValueError(f"{name} is {config[name]!r}, expected {wanted[0]!r}")
    state = _floats(load_file(folder / SAELENS_WEIGHTS))
    d_model, n_features = state["W_enc"].shape
    if config.get("rescale_acts_by_decoder_norm") and not torch.allclose(
        state["W_dec"].norm(dim=1), torch.ones(n_features), atol=1e-3
    ):
        raise ValueError("its features are scaled by decoder norms that are not 1")
    sae = TopKSAE(d_model, n_features, k)
    sae.load_state_dict(
        {
            "encoder.weight": state["W_enc"].T,
            "decoder.weight": state["W_dec"].T,
            "pre_bias": state["b_dec"],
            "latent_bias": state["b_enc"],
            "stats_last_nonzero": torch.zeros(n_features, dtype=torch.long),
        }
    )
    return sae.eval().requires_grad_(False)
