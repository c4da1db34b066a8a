"""SAEs of overcomplete, read only: one ``.pt`` that holds the whole SAE, or its tensors with a ``config.json``.

A whole SAE is a pickled object of overcomplete's classes. None of them is imported or run: PyTorch's reader of plain
tensors is told to put empty objects in their places, whose attributes are then looked at.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from riebench.sae.identities import Parts, State, inclusive, of_raw_vectors, state_of
from riebench.sae.layouts import CONFIG
from riebench.sae.linear import JumpReLU, TopK
from riebench.sae.unread import IN_PYTHON, refuse_unread_keys, refuse_unread_tensors, same_number

SAES = {"TopKSAE": "topk_sae", "BatchTopKSAE": "batchtopk_sae", "JumpSAE": "jump_sae", "SAE": "base"}
"""Class to its module in ``overcomplete.sae``."""
NORMALIZATIONS = ("l2", "max_l2", "l1", "max_l1", "identity")
ENCODER_LINEAR = ("encoder.final_block.0.weight", "encoder.final_block.0.bias")
ENCODER_TIEABLE = ("encoder.weight", "encoder.bias")
TIED = "encoder.tied_to."
"""The beginning of the names of the dictionary's tensors in an encoder that is its transpose."""
DICTIONARY = "dictionary._weights"
CONFIG_KEYS = ("class", "top_k", "normalization", "running_threshold")


class Unpickled:
    """An object whose class is not imported."""


def _stand_ins() -> list[tuple[type, str]]:
    """A class without any code for each global that a pickled SAE names."""
    sae, nn = "overcomplete.sae", "torch.nn.modules"
    names = [f"{sae}.{module}.{name}" for name, module in SAES.items()]
    names += [f"{sae}.modules.{name}" for name in ("MLPEncoder", "TieableEncoder")]
    names += [f"{sae}.dictionary.DictionaryLayer", *(f"{sae}.dictionary.normalize_{n}" for n in NORMALIZATIONS)]
    names += [f"{nn}.container.{name}" for name in ("ModuleList", "Sequential")]
    names += [f"{nn}.linear.{name}" for name in ("Linear", "Identity")] + [f"{nn}.activation.ReLU"]
    names += [f"{nn}.normalization.LayerNorm", f"{nn}.batchnorm.BatchNorm1d"]
    kernels = "rectangle gaussian triangular cosine epanechnikov quartic silverman cauchy"
    names += [f"{sae}.kernels.{name}_kernel" for name in kernels.split()]
    return [(type(name, (Unpickled,), {"named": name}), name) for name in (*names, "builtins.set")]


def load_overcomplete(path: Path) -> Any:
    """The content of a file: tensors by name, or an :class:`Unpickled` SAE.

    Raises:
        UnpicklingError: if it holds an object of another class.
    """
    with torch.serialization.safe_globals(_stand_ins()):  # type: ignore[arg-type]
        return torch.load(path, map_location="cpu", weights_only=True)


def read_overcomplete(config: dict[str, Any] | None, content: Any) -> Parts:
    """The parts of an SAE with a linear encoder.

    ``relu(W_enc x + b_enc)`` of the vectors themselves; the k largest (``TopKSAE``), those not below a threshold
    (``BatchTopKSAE`` outside training, ``JumpSAE``), or all (``SAE``). The dictionary has no bias.

    Raises:
        ValueError: if it is of another class, its encoder is not linear, or something is not stated or not honoured.
    """
    if isinstance(content, Unpickled):
        if config is not None:
            raise ValueError(f"its file holds the whole SAE; remove {CONFIG} beside it, which is not read")
        state, facts = _tensors(content), _facts(content)
    else:
        if config is None:
            raise ValueError(
                f"its file holds tensors without the class and k of the SAE; save the whole SAE (torch.save(sae, "
                f'PATH)), or write {CONFIG} as {{"class": "TopKSAE", "top_k": 5, "normalization": "l2"}}'
            )
        refuse_unread_keys(config, {}, CONFIG_KEYS, CONFIG)
        state, facts = dict(content), config
    kind = facts.get("class")
    if kind not in SAES:
        raise ValueError(f"its class is {kind}, expected {', '.join(SAES)}; {IN_PYTHON}")
    state, tied = _without_tied(state)
    encoder = ENCODER_LINEAR if ENCODER_LINEAR[0] in state else ENCODER_TIEABLE
    further = ("dictionary.multiplier", "dictionary.fused", *(["thresholds"] if kind == "JumpSAE" else []))
    refuse_unread_tensors(state, (*encoder, DICTIONARY, *further))
    dictionary = _dictionary(state, facts.get("normalization"))
    if not tied and encoder[0] not in state:
        raise ValueError(f"its encoder is neither linear nor tied; {IN_PYTHON}")
    W_enc = dictionary if tied else state[encoder[0]]
    n_features, d_model = dictionary.shape
    bias = state.get(encoder[1], torch.zeros(n_features))
    linear = of_raw_vectors(state_of(W_enc, dictionary, bias, torch.zeros(d_model)))
    if kind == "TopKSAE":
        return Parts(linear, TopK(same_number("top_k", {"the SAE": facts.get("top_k")})))
    if kind == "SAE":
        return Parts(linear, JumpReLU(torch.zeros(n_features)))
    if kind == "JumpSAE":
        return Parts(linear, JumpReLU(inclusive(state["thresholds"].float().exp())))
    threshold = facts.get("running_threshold")
    if threshold is None:
        raise ValueError("it has no running_threshold, which a training sets; save it after its training")
    return Parts(linear, JumpReLU(inclusive(torch.as_tensor(threshold))), "batchtopk")


def _without_tied(state: State) -> tuple[State, bool]:
    """The tensors without those of a dictionary to which the encoder is tied, and whether it is."""
    tied = {name: tensor for name, tensor in state.items() if name.startswith(TIED)}
    for name, tensor in tied.items():
        if not torch.equal(tensor, state["dictionary." + name.removeprefix(TIED)]):
            raise ValueError(f"{name} is of another dictionary than its own, to which its encoder would be tied")
    return {name: tensor for name, tensor in state.items() if name not in tied}, bool(tied)


def _dictionary(state: Mapping[str, Tensor], normalization: Any) -> Tensor:
    """The directions ``[n, d]``, normalised as the library does when it is told to evaluate."""
    if "dictionary.fused" in state:
        return state["dictionary.fused"].float()
    weights, multiplier = state[DICTIONARY].float(), state.get("dictionary.multiplier", torch.zeros(()))
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization is {normalization!r}, expected {', '.join(NORMALIZATIONS)}")
    if normalization != "identity":
        norms = weights.norm(p=2 if "l2" in normalization else 1, dim=1, keepdim=True)
        weights = weights / (norms.amax(0, keepdim=True) if normalization.startswith("max") else norms + 1e-8)
    return weights * multiplier.float().exp()


def _facts(sae: Unpickled) -> dict[str, Any]:
    layer = vars(sae)["_modules"]["dictionary"]
    named = str(getattr(vars(layer).get("normalization"), "named", ""))
    facts = {"class": _class(sae), "normalization": named.rpartition(".normalize_")[2] or None}
    return facts | {name: vars(sae)[name] for name in ("top_k", "running_threshold") if name in vars(sae)}


def _class(unpickled: Any) -> str:
    return str(getattr(unpickled, "named", type(unpickled).__name__)).rpartition(".")[2]


def _tensors(sae: Unpickled) -> State:
    """The tensors of an unpickled SAE by name; refuse what is between them that is not linear (ValueError)."""
    state: State = {}

    def walk(module: Any, prefix: str) -> None:
        content = vars(module)
        for name, tensor in [*content["_parameters"].items(), *content["_buffers"].items()]:
            if tensor is not None:
                state[prefix + name] = tensor.detach()
        for name, inner in content["_modules"].items():
            if inner is not None:
                walk(inner, f"{prefix}{name}.")

    walk(sae, "")
    modules: OrderedDict[str, Any] = vars(sae)["_modules"]
    encoder, layer = modules["encoder"], modules["dictionary"]
    if _class(encoder) == "MLPEncoder":
        inner = vars(encoder)["_modules"]
        last = (vars(inner["final_block"])["_modules"]["1"], inner["final_activation"])
        if vars(inner["mlp_blocks"])["_modules"] or [*map(_class, last)] != ["Identity", "ReLU"]:
            raise ValueError(f"its encoder is no linear map with ReLU; {IN_PYTHON}")
    fused = vars(layer).get("_fused_dictionary")
    if fused is not None and not vars(layer)["training"]:
        state["dictionary.fused"] = fused.detach()
    return state
