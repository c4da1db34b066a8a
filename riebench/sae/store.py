"""SAE folders in the published layout: ``config.json`` beside the weights, here as safetensors."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from riebench.errors import UserError
from riebench.sae.topk import TopKSAE

WEIGHTS = "state_dict.safetensors"


def save_sae(sae: TopKSAE, folder: Path, config: dict[str, float], dtype: torch.dtype = torch.float32) -> None:
    """Write an SAE; ``config`` adds to what the published ``config.json`` holds."""
    folder.mkdir(parents=True, exist_ok=True)
    known = {"n_dirs_local": sae.n_features, "d_model": sae.d_model, "k": sae.k}
    (folder / "config.json").write_text(json.dumps({**known, **config}, indent=2) + "\n")
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in sae.state_dict().items()}
    save_file({k: v.contiguous() for k, v in state.items()}, folder / WEIGHTS)


def load_sae(folder: Path) -> TopKSAE:
    """Read an SAE in float32.

    Raises:
        UserError: if a file is missing or the weights do not fit the configuration.
    """
    try:
        config = json.loads((folder / "config.json").read_text())
        sae = TopKSAE(config["d_model"], config["n_dirs_local"], config["k"])
        state = load_file(folder / WEIGHTS)
        sae.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    except (
        FileNotFoundError,
        json.JSONDecodeError,
        KeyError,
        TypeError,
        ValueError,
        RuntimeError,
        SafetensorError,
    ) as error:
        raise UserError(f"the SAE folder {folder} cannot be used: {str(error).splitlines()[0]}") from None
    return sae.eval().requires_grad_(False)
