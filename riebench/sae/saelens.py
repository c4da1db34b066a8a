"""SAELens' layout: ``cfg.json`` and ``sae_weights.safetensors``; that of SAELens 6 is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from riebench.sae.identities import (
    Parts,
    State,
    gated,
    of_raw_vectors,
    state_of,
    transcoder,
    with_both_signs,
    with_unit_directions,
)
from riebench.sae.layouts import SAELENS, SAELENS_CONFIG, refuse_to_write_transcoder
from riebench.sae.linear import JumpReLU, LinearSAE, TopK
from riebench.sae.unread import IN_PYTHON, keys, refuse_unread_keys, refuse_unread_tensors, same_number
from riebench.util.errors import UserError
from riebench.util.files import write_whole

SAELENS_VERSION = "6.0.0"
"""The version whose layout is written."""
HONOURED: Mapping[str, tuple[Any, ...]] = {
    "apply_b_dec_to_input": (True, False, None),
    "normalize_activations": ("none", False, None),
    "reshape_activations": ("none", None),
    "rescale_acts_by_decoder_norm": (False, True, None),
    "finetuning_scaling_factor": (False, True, None),
}
HARMLESS = keys("""
    architecture activation_fn_kwargs d_in d_sae k dtype device metadata
    model_name model_class_name model_from_pretrained_kwargs hook_name hook_point hook_layer hook_point_layer
    hook_head_index hook_point_head_index hook_eval hf_hook_name prepend_bos context_size seqpos_slice dataset_path
    dataset_trust_remote_code exclude_special_tokens neuronpedia_id sae_lens_version sae_lens_training_version
    use_sparse_activations aux_loss_coefficient decoder_init_norm expansion_factor l1_coefficient lp_norm
    use_ghost_grads normalize_sae_decoder mse_loss_normalization decoder_orthogonal_init decoder_heuristic_init
    decoder_heuristic_init_norm init_encoder_as_decoder_transpose scale_sparsity_penalty_by_decoder_norm
    jumprelu_init_threshold jumprelu_bandwidth l0_lambda l0_warm_up_steps l1_warm_up_steps b_dec_init_method
    training_tokens lr seed jumprelu_sparsity_loss_mode l0_coefficient pre_act_loss_coefficient jumprelu_tanh_scale
    jumprelu_ste_to_input target_l0 topk_threshold_lr matryoshka_widths use_matryoshka_aux_loss
""")
"""Sizes, places and what the reader reads on its own; what the SAE was trained on; what acts in training alone."""
MATRICES = ("W_enc", "W_dec", "b_dec")
TENSORS: Mapping[str, tuple[str, ...]] = {
    "topk": (*MATRICES, "b_enc"),
    "abstopk": (*MATRICES, "b_enc"),
    "standard": (*MATRICES, "b_enc"),
    "jumprelu": (*MATRICES, "b_enc", "threshold"),
    "gated": (*MATRICES, "b_gate", "b_mag", "r_mag"),
    "batchtopk": (*MATRICES, "b_enc", "topk_threshold"),
    "matryoshka_batchtopk": (*MATRICES, "b_enc", "topk_threshold"),
    "transcoder": (*MATRICES, "b_enc"),
    "skip_transcoder": (*MATRICES, "b_enc", "W_skip"),
    "jumprelu_transcoder": (*MATRICES, "b_enc", "threshold"),
    "jumprelu_skip_transcoder": (*MATRICES, "b_enc", "threshold", "W_skip"),
}
"""Architecture to the names of its tensors; those of ``topk_threshold`` are of trainings that go on."""
TRANSCODER = "transcoder"
"""What the names of the architectures of transcoders end in."""
OF_TRANSCODERS = keys("d_out hook_name_out hook_layer_out hook_head_index_out hook_point_out")
"""Configuration keys that they alone have."""
SCALING = ("finetuning_scaling_factor", "scaling_factor")
"""Names of the tensor by which SAELens before 6 multiplies codes in its decoder."""


def save_for_saelens(sae: LinearSAE, folder: Path, model: str, site: str) -> None:
    """Write an SAE so that ``SAE.load_from_disk(folder)`` of SAELens reads it.

    Args:
        sae: the SAE, written in float32; a gated or BatchTopK SAE is written as the JumpReLU SAE that it is.
        folder: made if it is missing; may hold the same SAE in our layout.
        model: whose values it is of, for the metadata.
        site: of the model, for the metadata.

    Raises:
        UserError: if SAELens has no SAE of this kind, or it is a transcoder or of what a module is given.
    """
    refuse_to_write_transcoder(sae)
    if sae.of_input:
        raise UserError(
            "the SAE is of what a module is given, which SAELens' layout cannot say; save it with riebench.sae.save_sae"
        )
    architecture, own = _architecture(sae)
    config = {
        "architecture": architecture,
        "d_in": sae.d_model,
        "d_sae": sae.n_features,
        **({"k": sae.k} if architecture == "topk" else {}),
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        **({"rescale_acts_by_decoder_norm": False} if architecture == "topk" else {}),
        "metadata": {"sae_lens_version": SAELENS_VERSION, "model_name": model, "hook_name": site},
    }
    state = {
        "W_enc": sae.encoder.weight.T,
        "W_dec": sae.decoder.weight.T,
        "b_enc": sae.latent_bias,
        "b_dec": sae.pre_bias,
        **own,
    }
    write_whole(folder / SAELENS.weights, save({k: v.detach().float().contiguous() for k, v in state.items()}))
    write_whole(folder / SAELENS_CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def _architecture(sae: LinearSAE) -> tuple[str, dict[str, Tensor]]:
    """SAELens' name of an SAE's architecture, and the tensors that it has beside the usual ones."""
    if isinstance(sae.activation, TopK):
        return "topk", {}
    if isinstance(sae.activation, JumpReLU):
        threshold = sae.activation.threshold
        return ("jumprelu", {"threshold": threshold}) if bool((threshold != 0).any()) else ("standard", {})
    raise UserError(f"SAELens has no SAEs of the kind {sae.kind}; save it with riebench.sae.save_sae")


def read_saelens(config: dict[str, Any], state: State) -> Parts:
    """The parts of an SAE of SAELens, of its training or saved for inference.

    ``W_enc [d, n]``, ``W_dec [n, d]``, ``b_enc [n]``, ``b_dec [d]``. Where SAELens multiplies pre-activations by the
    norms of the rows of ``W_dec`` (``rescale_acts_by_decoder_norm``, on unless it trains otherwise), they are folded:
    ``W_enc norms``, ``b_enc norms`` and ``W_dec / norms`` give its codes and its reconstruction exactly.

    Raises:
        ValueError: if the SAE is of another architecture, or a key, a tensor or a second k is not honoured.
    """
    inner, metadata = config.get("activation_fn_kwargs") or {}, config.get("metadata") or {}
    kind = _checked_architecture(config, inner, metadata)
    activation = {"activation_fn": ("topk" if "topk" in kind else "relu", None)}
    honoured = {**HONOURED, **activation, "activation_fn_str": activation["activation_fn"]}
    if "topk" not in kind:
        honoured["rescale_acts_by_decoder_norm"] = (False, None)
    transcodes = kind.endswith(TRANSCODER)
    for stated, where in ((config, SAELENS.config), (metadata, f"metadata of {SAELENS.config}")):
        for name in OF_TRANSCODERS if not transcodes else ():
            if stated.get(name) is not None:
                raise ValueError(
                    f"{name} in {where} is {stated[name]!r}, as of a transcoder, but its architecture is {kind!r}; "
                    f"write the right architecture there, as {TRANSCODER!r}"
                )
    if transcodes:
        honoured["apply_b_dec_to_input"] = (False, None)
    refuse_unread_keys(config, honoured, HARMLESS | OF_TRANSCODERS, SAELENS.config)
    refuse_unread_keys(inner, {}, ("k",), f"activation_fn_kwargs of {SAELENS.config}")
    if "topk" not in kind and config.get("k") is not None:
        raise ValueError(f"k in {SAELENS.config} is {config['k']!r}, but its architecture, {kind!r}, has no k")
    ones = [name for name in SCALING if name in state and not bool((state[name] != 1).any())]  # they do nothing
    state = {name: tensor for name, tensor in state.items() if name not in ones}
    scaling = config.get("finetuning_scaling_factor")
    scaled = [name for name in SCALING if scaling and name in state]
    if scaling and not scaled and not ones:
        raise ValueError(f"finetuning_scaling_factor in {SAELENS.config} is True, but there is no such tensor")
    refuse_unread_tensors(state, (*TENSORS[kind], *scaled))
    b_enc = "b_mag" if kind == "gated" else "b_enc"
    W_enc, W_dec, bias = (state[name].float() for name in ("W_enc", "W_dec", b_enc))
    linear = state_of(W_enc.T, W_dec, bias, state["b_dec"])
    if config.get("rescale_acts_by_decoder_norm"):
        linear = with_unit_directions(linear)
    if scaled:
        linear["decoder.weight"] = linear["decoder.weight"] * state[scaled[0]].float()
    parts = _with_activation(kind, linear, state, config, inner)
    if transcodes:
        same_number("d_out", {SAELENS.config: config.get("d_out"), SAELENS.weights: W_dec.shape[1]})
        return transcoder(parts, state.get("W_skip"))
    if config.get("apply_b_dec_to_input") is False:
        parts = parts._replace(state=of_raw_vectors(parts.state))
    return parts


def _with_activation(
    kind: str, linear: State, state: State, config: Mapping[str, Any], inner: Mapping[str, Any]
) -> Parts:
    if kind in ("topk", "abstopk"):
        where = f"activation_fn_kwargs of {SAELENS.config}"
        k = same_number("k", {SAELENS.config: config.get("k"), where: inner.get("k")})
        return Parts(with_both_signs(linear), TopK(k), kind) if kind == "abstopk" else Parts(linear, TopK(k))
    if kind == "gated":
        return gated(linear, state["b_gate"], state["r_mag"])
    if kind in ("standard", "transcoder", "skip_transcoder"):
        return Parts(linear, JumpReLU(torch.zeros(())))
    if kind.startswith("jumprelu"):
        return Parts(linear, JumpReLU(state["threshold"].float()))
    # Below zero before the first step has set it; nothing that is not above zero is active.
    return Parts(linear, JumpReLU(state["topk_threshold"].float().clamp(min=0)), "batchtopk")


def _checked_architecture(config: Mapping[str, Any], inner: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """The architecture; before version 6 ``standard`` with TopK's activation was ``topk``.

    Raises:
        ValueError: if it is not read.
    """
    version = str(metadata.get("sae_lens_version") or config.get("sae_lens_version") or "0")
    activation = config.get("activation_fn", config.get("activation_fn_str"))
    before_6 = version.split(".", maxsplit=1)[0] in set("012345")
    kind = str(config.get("architecture", "standard" if before_6 else None))
    if kind == "standard" and before_6 and activation == "topk" and inner.get("k") is not None:
        return "topk"
    if kind not in TENSORS:
        expected = ", ".join(map(repr, TENSORS))
        raise ValueError(f"architecture in {SAELENS.config} is {kind!r}, expected {expected}; {IN_PYTHON}")
    return kind
