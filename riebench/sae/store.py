"""SAE folders: the published layout, our own (the same with safetensors), and those of other libraries for reading."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from riebench.sae.dictionary_learning import read_dictionary_learning
from riebench.sae.identities import SILENT, THRESHOLD, Parts, State, built
from riebench.sae.layouts import (
    CONFIG,
    HUB,
    LEARNED,
    OURS,
    OVERCOMPLETE,
    PUBLISHED,
    SAELENS,
    Layout,
    config_in,
    layouts_in,
    layouts_text,
    refuse_to_write_transcoder,
    stated_config,
)
from riebench.sae.linear import GroupMax, JumpReLU, LinearSAE, TopK
from riebench.sae.overcomplete import load_overcomplete, read_overcomplete
from riebench.sae.saelens import read_saelens
from riebench.sae.sparsify import read_sparsify
from riebench.sae.unread import (
    IN_PYTHON,
    keys,
    refuse_quantised,
    refuse_unread_keys,
    refuse_unread_tensors,
    same_number,
)
from riebench.util.errors import UserError
from riebench.util.files import write_whole

KEYS = keys("""
    n_dirs_local d_model k auxk auxk_coef dead_steps_threshold explained_variance model model_fingerprint site expansion
    aux frozen seed steps batch lr eps decay aux_weight shuffle_seed notes kind l1 l0 warmup bandwidth threshold
    prefixes of_input
""")
"""Of the published layout and of ours: sizes, of what it is, how it was trained; ``notes`` may hold anything."""
PROGRESS = keys("step steps epoch epochs loss lr explained_variance")
"""Of a checkpoint: how far its training was."""
FAULTS = (OSError, EOFError, LookupError, TypeError, ValueError, AttributeError, RuntimeError, SafetensorError)
"""What torn or foreign files raise."""
JUMPING = ("jumprelu", "relu", "gated", "batchtopk", "matryoshka")
"""Kinds whose codes are those above a threshold."""
KINDS = ("topk", "abstopk", "groupmax", *JUMPING)
PUBLISHED_TENSORS = ("encoder.weight", "decoder.weight", "pre_bias", "latent_bias")


def save_sae(sae: LinearSAE, folder: Path, config: Mapping[str, Any], dtype: torch.dtype = torch.float32) -> None:
    """Write an SAE in our layout.

    Args:
        sae: the SAE.
        folder: made if it is missing.
        config: adds to what the published ``config.json`` holds; keys of :data:`KEYS`.
        dtype: of the weights in the file.

    Raises:
        UserError: if :func:`load_sae` would read another SAE or none: a key is not known or contradicts the SAE, the
            kind is not known or of another activation, or the SAE is a transcoder.
    """
    refuse_to_write_transcoder(sae)
    if sae.kind not in KINDS or (sae.kind in JUMPING) != isinstance(sae.activation, JumpReLU):
        fitting = [kind for kind in KINDS if (kind in JUMPING) == isinstance(sae.activation, JumpReLU)]
        raise UserError(f"the kind of the SAE is {sae.kind!r}; expected {', '.join(fitting)} for its activation")
    known: dict[str, Any] = {"n_dirs_local": sae.n_features, "d_model": sae.d_model, "k": sae.k}
    if sae.kind != TopK.kind:
        known["kind"] = sae.kind
    if sae.of_input:
        known["of_input"] = True
    for key, value in config.items():
        if key not in KEYS:
            raise UserError(f"{key!r} is no key of an SAE's configuration; put it into 'notes', which holds anything")
        if known.get(key) not in (None, value):
            raise UserError(f"{key} of the SAE is {known[key]!r}, the configuration says {value!r}; leave it out there")
    if sae.site is not None:
        known["site"] = sae.site
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in sae.state_dict().items()}
    write_whole(folder / OURS.weights, save({k: v.contiguous() for k, v in state.items()}))
    write_whole(folder / CONFIG, (json.dumps({**known, **config}, indent=2) + "\n").encode())


def load_sae(folder: Path) -> LinearSAE:
    """Read an SAE in float32 from a folder, in any layout of :data:`riebench.sae.folders.LAYOUTS` or overcomplete's.

    Raises:
        UserError: if a file is missing, holds anything but tensors or finite numbers, the weights do not fit the
            configuration, the SAE is of a kind that is not read, or a key or a tensor is not honoured.
    """
    try:
        parts = _read(folder)
        _refuse_other_sizes(folder, *parts.state["encoder.weight"].shape)
        sae = built(parts)
        site = (stated_config(folder) or {}).get("site")
        sae.site = site if isinstance(site, str) else None
        return sae
    except UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        holds = f"more than tensors ({named[1]})" if named else "more than tensors"
        raise UserError(
            f"the SAE folder {folder} cannot be used: its file of weights holds {holds}; {IN_PYTHON}, or save its "
            "state_dict() alone if it is of a kind that is read"
        ) from None
    except KeyError as error:
        raise UserError(
            f"the SAE folder {folder} cannot be used: it has no {error}, which an SAE of its kind has; save it again "
            "with its library"
        ) from None
    except FAULTS as error:
        reason = " ".join(str(error).split("\n")[:2])
        raise UserError(f"the SAE folder {folder} cannot be used: {type(error).__name__}: {reason}") from None


def _read(folder: Path) -> Parts:
    """The parts of an SAE, whatever the layout."""
    layouts = layouts_in(folder)
    if not layouts:
        raise ValueError(f"it has no file of weights in a layout that is read: {layouts_text()}")
    if layouts == [OURS, SAELENS]:  # as 'sae train' writes both
        parts = _read_one(folder, OURS)
        _refuse_another_sae(parts, _read_one(folder, SAELENS))
        return parts
    if len(layouts) > 1:
        raise ValueError(f"it has several files of weights ({', '.join(each.weights for each in layouts)}); leave one")
    return _read_one(folder, layouts[0])


def _read_one(folder: Path, layout: Layout) -> Parts:
    config, path = config_in(folder, layout), folder / layout.weights
    if layout.library == OVERCOMPLETE:
        return read_overcomplete(config, load_overcomplete(path))
    state = _tensors_in(path, config or {})
    refuse_quantised(state)
    if layout.library == LEARNED.library:
        return read_dictionary_learning(config, state)
    if config is None:
        raise ValueError(f"it has no {layout.config}")
    if layout == HUB:
        return _read_hub(config, state)
    if layout in (OURS, PUBLISHED):
        return _read_published(config, state)
    return (read_saelens if layout == SAELENS else read_sparsify)(config, state)


def _tensors_in(path: Path, config: Mapping[str, Any]) -> State:
    """The tensors of a file by name; of a checkpoint, those of the one dictionary ``state_dict`` in it.

    Raises:
        ValueError: if it holds other tensors beside these, or something that the configuration states otherwise.
    """
    if path.suffix == ".safetensors":
        return load_file(path)
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(loaded, dict):
        raise ValueError(f"{path.name} is a {type(loaded).__name__}, expected tensors by name")
    if isinstance(loaded.get("state_dict"), dict):
        refuse_unread_tensors([name for name, value in loaded.items() if isinstance(value, Tensor)], ("state_dict",))
        facts = {name: value for name, value in loaded.items() if isinstance(value, str | int | float)}
        refuse_unread_keys(facts, {}, KEYS | PROGRESS, path.name)
        for name in facts.keys() & config.keys() - PROGRESS:
            if facts[name] != config[name]:
                raise ValueError(
                    f"{name} is {facts[name]!r} in {path.name} and {config[name]!r} in {CONFIG}; which is right "
                    "cannot be known"
                )
        loaded = loaded["state_dict"]
    return dict(loaded)


def _read_published(config: dict[str, Any], state: State) -> Parts:
    """The parts of the published layout, or of ours, which has the same names and a threshold for a JumpReLU SAE."""
    refuse_unread_keys(config, {"of_input": (True, False, None)}, KEYS, CONFIG)
    of_input = config.get("of_input") is True
    for key in ("n_dirs_local", "d_model"):
        same_number(key, {CONFIG: config.get(key)})
    kind = config.get("kind")
    jumps = THRESHOLD in state
    refuse_unread_tensors(state, (*PUBLISHED_TENSORS, SILENT, THRESHOLD))
    if kind not in (None, *KINDS):
        raise ValueError(f"kind in {CONFIG} is {kind!r}, expected {', '.join(KINDS)}")
    if kind is not None and jumps != (kind in JUMPING):
        has = "has the tensor" if jumps else "lacks the tensor"
        raise ValueError(f"kind in {CONFIG} is {kind!r}, but the file of weights {has} {THRESHOLD}")
    if jumps:
        state = dict(state)
        return Parts(state, JumpReLU(state.pop(THRESHOLD).float()), kind, of_input=of_input)
    k = same_number("k", {CONFIG: config.get("k")})
    return Parts(state, (GroupMax if kind == GroupMax.kind else TopK)(k), kind, of_input=of_input)


def _read_hub(config: dict[str, Any], state: State) -> Parts:
    """The parts of an SAE that the hub's mixin for PyTorch models saved, if its class is one that is known."""
    if "architecture" in config:
        return read_saelens(config, state)
    if "trainer" in config or "dict_class" in config:
        return read_dictionary_learning(config if "trainer" in config else {"trainer": config}, state)
    if set(state) - {"stats_last_nonzero"} == set(PUBLISHED_TENSORS):
        return _read_published(config, state)
    raise ValueError(
        f"{HUB.weights} is of a class that {CONFIG} does not name (it has the tensors {', '.join(state)}), so what it "
        f"computes is unknown; {IN_PYTHON}, or save it in a layout that is read: {layouts_text()}"
    )


def _refuse_another_sae(parts: Parts, other: Parts) -> None:
    """Refuse a folder whose two files of weights are of two SAEs; ours may be stored in half precision."""
    ours, theirs = built(parts), built(other)
    if ours.k != theirs.k:
        raise ValueError(
            f"k is {ours.k} in {OURS.config} and {theirs.k} in {SAELENS.config}; which is right cannot be known"
        )
    own = ours.state_dict()
    for name, tensor in theirs.state_dict().items():
        stored = parts.state[name].dtype if name in parts.state else tensor.dtype
        if name == SILENT or (name in own and torch.equal(own[name], tensor.to(stored).to(tensor.dtype))):
            continue
        raise ValueError(
            f"{name} differs between {OURS.weights} and {SAELENS.weights}, two files of one SAE; remove the one that "
            "is not meant"
        )


def _refuse_other_sizes(folder: Path, n_features: int, d_model: int) -> None:
    config = stated_config(folder) or {}
    for key, size in (("n_dirs_local", n_features), ("d_model", d_model)):
        if config.get(key) not in (None, size):
            raise ValueError(
                f"encoder.weight is {[n_features, d_model]}, its configuration says "
                f"{[config.get('n_dirs_local'), config.get('d_model')]}"
            )
