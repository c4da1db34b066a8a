"""SAE folders: the published layout, our own (the same with safetensors), and SAELens' TopK layout where it fits."""

from __future__ import annotations

import json
import re
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from riebench.util.errors import UserError
from riebench.lens import short_name
from riebench.sae.topk import TopKSAE

CONFIG, WEIGHTS, PUBLISHED = "config.json", "state_dict.safetensors", "state_dict.pth"
SAELENS_CONFIG, SAELENS_WEIGHTS = "cfg.json", "sae_weights.safetensors"


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
        sae = TopKSAE(config["d_model"], config["n_dirs_local"], config["k"])
        sae.load_state_dict(_floats(_state(folder)))
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


def block_of(folder: str) -> str | None:
    """The block that an SAE folder is named for: ``unet.mid_block.attentions.0_k160_...`` or ``mid.0``, else None."""
    found = re.match(r"((?:unet\.)?(?:(?:down|up)_blocks\.\d+|mid_block)\.attentions\.\d+)(?=_|$)", folder)
    if found:
        return short_name(found.group(1))
    return folder if re.fullmatch(r"(?:down|up)\.\d+\.\d+|mid\.\d+", folder) else None


def _described(folder: Path) -> dict[str, Any] | None:
    """The configuration of an SAE folder, or None if it is none."""
    for name in (CONFIG, SAELENS_CONFIG):
        try:
            found = json.loads((folder / name).read_text())
        except (OSError, ValueError):
            continue
        return found if isinstance(found, dict) else None
    return None


def find_saes(root: Path, k: int | None = None, features: int | None = None) -> dict[str, Path]:
    """Block to SAE folder, for a folder of SAE folders (or one SAE folder) named for their blocks.

    Published folders have the SAE in a folder ``final`` of theirs.

    Args:
        root: the folder.
        k: take the SAEs with this k.
        features: take the SAEs with as many features.

    Raises:
        UserError: if a block has several that fit, or there are none at all.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root} of SAEs")
    fitting: dict[str, list[Path]] = {}
    for folder in [root, *sorted(p for p in root.iterdir() if p.is_dir())]:
        block = block_of(folder.name)
        inside = folder / "final" if (folder / "final").is_dir() else folder
        config = _described(inside) if block else None
        if block is None or config is None:
            continue
        size = config.get("n_dirs_local", config.get("d_sae"))
        if (k is None or config.get("k") == k) and (features is None or size == features):
            fitting.setdefault(block, []).append(inside)
    for block, folders in fitting.items():
        if len(folders) > 1:
            names = ", ".join(str(f.relative_to(root)) for f in folders[:3])
            raise UserError(
                f"{root} has several SAEs for {block} ({names}); choose with --set sae.k=160 or sae.features="
            )
    if not fitting:
        raise UserError(f"{root} has no SAE folder that fits; expected folders as unet.mid_block.attentions.0_k160_...")
    return {block: folders[0] for block, folders in fitting.items()}
