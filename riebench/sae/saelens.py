"""SAELens 6's layout of a TopK SAE: ``cfg.json`` and ``sae_weights.safetensors``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from riebench.sae.folders import SAELENS_CONFIG
from riebench.sae.topk import TopKSAE
from riebench.util.files import write_whole

SAELENS_WEIGHTS = "sae_weights.safetensors"
SAELENS_VERSION = "6.0.0"
"""The version whose layout is written."""


def save_for_saelens(sae: TopKSAE, folder: Path, model: str, site: str) -> None:
    """Write an SAE so that ``SAE.load_from_disk(folder)`` of SAELens reads it.

    Args:
        sae: the SAE, written in float32.
        folder: made if it is missing; may hold the same SAE in our layout.
        model: whose values it is of, for the metadata.
        site: of the model, for the metadata.
    """
    config = {
        "architecture": "topk",
        "d_in": sae.d_model,
        "d_sae": sae.n_features,
        "k": sae.k,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "rescale_acts_by_decoder_norm": False,
        "metadata": {"sae_lens_version": SAELENS_VERSION, "model_name": model, "hook_name": site},
    }
    state = {
        "W_enc": sae.encoder.weight.T,
        "W_dec": sae.decoder.weight.T,
        "b_enc": sae.latent_bias,
        "b_dec": sae.pre_bias,
    }
    write_whole(folder / SAELENS_WEIGHTS, save({k: v.detach().float().contiguous() for k, v in state.items()}))
    write_whole(folder / SAELENS_CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def read_saelens(folder: Path, config: dict[str, Any]) -> tuple[int, dict[str, Tensor]]:
    """k and the tensors under the names of :class:`TopKSAE`.

    ``W_enc [d, n]``, ``W_dec [n, d]``, ``b_enc [n]``, ``b_dec [d]``.

    Raises:
        ValueError: if the SAE computes something else than :class:`TopKSAE`.
    """
    inner = config.get("activation_fn_kwargs") or {}
    kind = config.get("architecture", "standard")
    if kind != "topk" and config.get("activation_fn", config.get("activation_fn_str")) != "topk":
        raise ValueError(f"its architecture is {kind!r}, expected 'topk'")
    for name, expected in (
        ("apply_b_dec_to_input", (True,)),
        ("normalize_activations", ("none", None)),
        ("reshape_activations", ("none", None)),
    ):
        if config.get(name, expected[0]) not in expected:
            raise ValueError(f"{name} is {config[name]!r}, expected {expected[0]!r}")
    state = load_file(folder / SAELENS_WEIGHTS)
    norms = state["W_dec"].float().norm(dim=1)
    if config.get("rescale_acts_by_decoder_norm") and not torch.allclose(norms, torch.ones_like(norms), atol=1e-3):
        raise ValueError("its features are scaled by decoder norms that are not 1")
    return int(config.get("k") or inner.get("k") or 0), {
        "encoder.weight": state["W_enc"].T,
        "decoder.weight": state["W_dec"].T,
        "pre_bias": state["b_dec"],
        "latent_bias": state["b_enc"],
    }
