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

from riebench.sae.folders import (
    CONFIG,
    LEARNED,
    OURS,
    PUBLISHED,
    SAELENS,
    SPARSIFY,
    Layout,
    layouts_in,
    layouts_text,
    read_config,
)
from riebench.sae.other_layouts import read_dictionary_learning, read_sparsify
from riebench.sae.saelens import read_saelens
from riebench.sae.topk import TopKSAE
from riebench.sae.unread import keys, refuse_unread_keys, refuse_unread_tensors, same_number
from riebench.util.errors import UserError
from riebench.util.files import write_whole

KEYS = keys("""
    n_dirs_local d_model k auxk auxk_coef dead_steps_threshold explained_variance model site expansion aux frozen seed
    steps batch lr eps decay aux_weight shuffle_seed notes
""")
"""Of the published layout and of ours: sizes, and how it was trained; ``notes`` may hold anything."""


def save_sae(sae: TopKSAE, folder: Path, config: Mapping[str, Any], dtype: torch.dtype = torch.float32) -> None:
    """Write an SAE in our layout.

    Args:
        sae: the SAE.
        folder: made if it is missing.
        config: adds to what the published ``config.json`` holds; keys of :data:`KEYS`.
        dtype: of the weights in the file.

    Raises:
        UserError: if a key is not known; :func:`load_sae` would refuse it.
    """
    for key in config:
        if key not in KEYS:
            raise UserError(f"{key!r} is no key of an SAE's configuration; put it into 'notes', which holds anything")
    known = {"n_dirs_local": sae.n_features, "d_model": sae.d_model, "k": sae.k}
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in sae.state_dict().items()}
    write_whole(folder / OURS.weights, save({k: v.contiguous() for k, v in state.items()}))
    write_whole(folder / CONFIG, (json.dumps({**known, **config}, indent=2) + "\n").encode())


def load_sae(folder: Path) -> TopKSAE:
    """Read an SAE in float32 from a folder: published, ours, SAELens', dictionary_learning's or sparsify's.

    Raises:
        UserError: if a file is missing, holds anything but tensors or finite numbers, the weights do not fit the
            configuration, the SAE computes something else than :class:`TopKSAE`, or a key or a tensor is not honoured.
    """
    try:
        k, state = _read(folder)
        n_features, d_model = state["encoder.weight"].shape
        _refuse_other_sizes(folder, n_features, d_model)
        for name, value in state.items():
            if name != "stats_last_nonzero" and not value.is_floating_point():
                raise ValueError(
                    f"{name} is {value.dtype}, expected floating-point numbers; quantised SAEs are not read"
                )
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
    """k and the tensors, whatever the layout."""
    layouts = layouts_in(folder)
    if not layouts:
        raise ValueError(f"it has no file of weights in a layout that is read: {layouts_text()}")
    if layouts == [OURS, SAELENS]:  # as 'sae train' writes both
        k, state = _read_published(folder, OURS)
        _refuse_another_sae(k, state, *read_saelens(folder, _config(folder, SAELENS)))
        return k, state
    if len(layouts) > 1:
        raise ValueError(f"it has several files of weights ({', '.join(each.weights for each in layouts)}); leave one")
    [layout] = layouts
    if layout in (OURS, PUBLISHED):
        return _read_published(folder, layout)
    readers = {SAELENS: read_saelens, LEARNED: read_dictionary_learning, SPARSIFY: read_sparsify}
    return readers[layout](folder, _config(folder, layout))


def _config(folder: Path, layout: Layout) -> dict[str, Any]:
    config = json.loads((folder / layout.config).read_text())
    if not isinstance(config, dict):
        raise ValueError(f"{layout.config} is no object with keys")
    return config


def _read_published(folder: Path, layout: Layout) -> tuple[int, dict[str, Tensor]]:
    """k and the tensors of the published layout, or of ours, which has the same names."""
    config = _config(folder, layout)
    refuse_unread_keys(config, {}, KEYS, CONFIG)
    for key in ("n_dirs_local", "d_model"):
        same_number(key, {CONFIG: config.get(key)})
    return same_number("k", {CONFIG: config.get("k")}), _state(folder, layout)


def _state(folder: Path, layout: Layout) -> dict[str, Tensor]:
    if layout == OURS:
        return load_file(folder / OURS.weights)
    loaded = torch.load(folder / PUBLISHED.weights, map_location="cpu", weights_only=True)
    refuse_unread_tensors([name for name, value in loaded.items() if isinstance(value, Tensor)], ("state_dict",))
    state: dict[str, Tensor] = loaded["state_dict"]
    return state


def _refuse_another_sae(k: int, state: Mapping[str, Tensor], other_k: int, other: Mapping[str, Tensor]) -> None:
    """Refuse a folder whose two files of weights are of two SAEs; ours may be stored in half precision."""
    same_number("k", {OURS.config: k, SAELENS.config: other_k})
    for name, theirs in other.items():
        ours = state[name]
        if ours.shape != theirs.shape or not torch.equal(ours, theirs.to(ours.dtype)):
            raise ValueError(
                f"{name} differs between {OURS.weights} and {SAELENS.weights}, two files of one SAE; remove the "
                "one that is not meant"
            )


def _refuse_other_sizes(folder: Path, n_features: int, d_model: int) -> None:
    config = read_config(folder) or {}
    for key, size in (("n_dirs_local", n_features), ("d_model", d_model)):
        if config.get(key) not in (None, size):
            raise ValueError(
                f"encoder.weight is {[n_features, d_model]}, its configuration says "
                f"{[config.get('n_dirs_local'), config.get('d_model')]}"
            )
