"""SAEs of dictionary_learning, read only: ``ae.pt`` with or without its ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from riebench.sae.identities import Parts, State, gated, of_raw_vectors, state_of, with_unit_directions
from riebench.sae.layouts import LEARNED
from riebench.sae.linear import JumpReLU, TopK
from riebench.sae.unread import keys, refuse_unread_keys, refuse_unread_tensors, same_number

TRAINER_KEYS = keys("""
    trainer_class dict_class lr steps auxk_alpha warmup_steps decay_start threshold_beta threshold_start_step seed
    activation_dim dict_size k device layer lm_name wandb_name submodule_name resample_steps top_k_aux
    dead_feature_threshold norm_factor l1_penalty sparsity_warmup_steps sparsity_penalty sparsity_function p_start p_end
    anneal_start sparsity_queue_length n_sparsity_updates bandwidth target_l0 group_fractions group_weights group_sizes
""")
"""Of ``trainer``: sizes, and how it was trained; ``norm_factor`` is in the saved biases."""
LINEAR = ("encoder.weight", "encoder.bias", "decoder.weight")
MATRICES = ("W_enc", "b_enc", "W_dec", "b_dec")
TENSORS: Mapping[str, tuple[str, ...]] = {
    "AutoEncoderTopK": (*LINEAR, "b_dec", "k", "threshold"),
    "BatchTopKSAE": (*LINEAR, "b_dec", "k", "threshold"),
    "MatryoshkaBatchTopKSAE": (*MATRICES, "k", "threshold", "group_sizes"),
    "JumpReluAutoEncoder": (*MATRICES, "threshold"),
    "GatedAutoEncoder": ("encoder.weight", "decoder.weight", "decoder_bias", "r_mag", "gate_bias", "mag_bias"),
    "AutoEncoder": (*LINEAR, "bias"),
    "AutoEncoderNew": (*LINEAR, "decoder.bias"),
}
"""Class to the names of its tensors."""
OPTIONAL = ("k", "threshold")
"""Tensors that older versions do not write."""
IO = ("out", "in", "in_and_out")
"""Of ``buffer``: trained on what a module gives (usual), on what it is given, or as a transcoder between these."""


def read_dictionary_learning(config: dict[str, Any] | None, state: State) -> Parts:
    """The parts of a dictionary; without a configuration its class is known by its tensors.

    A transcoder is a dictionary of these classes, too: its buffer held the inputs and the outputs of a module.

    Raises:
        ValueError: if its class is unknown or not stated, or a key, a tensor or a second k is not honoured.
    """
    buffer = (config or {}).get("buffer") or {}
    io = buffer.get("io") or IO[0] if isinstance(buffer, dict) else buffer
    if io not in IO:
        raise ValueError(f"io of buffer in {LEARNED.config} is {io!r}, expected {', '.join(map(repr, IO))}")
    return _dictionary(config, state)._replace(transcodes=io == "in_and_out", of_input=io == "in")


def _dictionary(config: dict[str, Any] | None, state: State) -> Parts:
    trainer: dict[str, Any] = {}
    if config is not None:
        refuse_unread_keys(config, {}, ("trainer", "buffer"), LEARNED.config)
        trainer = config.get("trainer") or {}
        if not isinstance(trainer, dict) or not trainer:
            raise ValueError(f"{LEARNED.config} has no trainer, which says the class of the SAE")
        refuse_unread_keys(trainer, {}, TRAINER_KEYS, f"trainer of {LEARNED.config}")
        kind = str(trainer.get("dict_class"))
        if kind not in TENSORS:
            raise ValueError(
                f"its class, dict_class in {LEARNED.config}, is {kind}, expected {', '.join(TENSORS)}; write the one "
                "of them that it is of"
            )
    else:
        kind = _class_of(state)
    tensors = TENSORS[kind]
    refuse_unread_tensors(state, tensors)
    for name in tensors:
        if name not in state and not (name in OPTIONAL and kind == "AutoEncoderTopK"):
            raise ValueError(f"it has no tensor {name}, which a {kind} has; save it with its newest version")
    stored = int(state["k"].item()) if "k" in state else None
    if stored is not None or kind == "AutoEncoderTopK":
        k = same_number("k", {LEARNED.weights: stored, LEARNED.config: trainer.get("k")})
    if kind == "AutoEncoderTopK":
        return Parts(_linear(state, "b_dec"), TopK(k))
    if kind in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        learned = _linear(state, "b_dec") if kind == "BatchTopKSAE" else _matrices(state)
        threshold = state["threshold"].float()
        # Below 0 the training had not yet set it: the library then keeps all positive codes, as a ReLU SAE does.
        return Parts(learned, JumpReLU(threshold.clamp(min=0)), "batchtopk" if threshold >= 0 else None)
    if kind == "JumpReluAutoEncoder":
        return Parts(of_raw_vectors(_matrices(state)), JumpReLU(state["threshold"].float()))
    return _relu_or_gated(kind, state)


def _relu_or_gated(kind: str, state: State) -> Parts:
    relu = JumpReLU(state["encoder.weight"].new_zeros(()).float())
    if kind == "AutoEncoder":  # the library normalises it when it reads it
        return Parts(with_unit_directions(_linear(state, "bias")), relu)
    if kind == "AutoEncoderNew":
        return Parts(of_raw_vectors(_linear(state, "decoder.bias")), relu)
    linear = state_of(state["encoder.weight"], state["decoder.weight"].T, state["mag_bias"], state["decoder_bias"])
    return gated(linear, state["gate_bias"], state["r_mag"])


def _class_of(state: Mapping[str, Tensor]) -> str:
    fitting = [name for name, tensors in TENSORS.items() if set(tensors) == set(state)]
    if len(fitting) != 1:
        several = f"it may be {' or '.join(fitting)}" if fitting else f"it has the tensors {', '.join(state)}"
        raise ValueError(
            f"{LEARNED.weights} has no {LEARNED.config} beside it that says its class, and {several}; write "
            f'{{"trainer": {{"dict_class": "..."}}}} into {LEARNED.config}'
        )
    return fitting[0]


def _linear(state: State, bias: str) -> State:
    return state_of(state["encoder.weight"], state["decoder.weight"].T, state["encoder.bias"], state[bias])


def _matrices(state: State) -> State:
    return state_of(state["W_enc"].T, state["W_dec"], state["b_enc"], state["b_dec"])
