"""SAELens' layout of a TopK SAE: ``cfg.json`` and ``sae_weights.safetensors``; that of SAELens 6 is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from riebench.sae.folders import SAELENS, SAELENS_CONFIG
from riebench.sae.topk import TopKSAE
from riebench.sae.unread import OFF, keys, refuse_unread_keys, refuse_unread_tensors, same_number
from riebench.util.files import write_whole

SAELENS_VERSION = "6.0.0"
"""The version whose layout is written."""
TOPK = ("topk", None)
HONOURED = {
    "activation_fn": TOPK,
    "activation_fn_str": TOPK,
    "apply_b_dec_to_input": (True, None),
    "normalize_activations": ("none", False, None),
    "reshape_activations": ("none", None),
    "rescale_acts_by_decoder_norm": (False, True, None),
    "finetuning_scaling_factor": OFF,
    "hook_name_out": (None,),
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
    training_tokens lr seed
""")
"""Sizes, places and what the reader reads on its own; what the SAE was trained on; what acts in training alone."""


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
    write_whole(folder / SAELENS.weights, save({k: v.detach().float().contiguous() for k, v in state.items()}))
    write_whole(folder / SAELENS_CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def read_saelens(folder: Path, config: dict[str, Any]) -> tuple[int, dict[str, Tensor]]:
    """k and the tensors under the names of :class:`TopKSAE`.

    ``W_enc [d, n]``, ``W_dec [n, d]``, ``b_enc [n]``, ``b_dec [d]``. Where SAELens multiplies pre-activations by the
    norms of the rows of ``W_dec`` (``rescale_acts_by_decoder_norm``, on unless it trains otherwise), they are folded:
    ``W_enc norms``, ``b_enc norms`` and ``W_dec / norms`` give its codes and its reconstruction exactly.

    Raises:
        ValueError: if the SAE computes something else than :class:`TopKSAE`, or a key, a tensor or a second k is not
            honoured.
    """
    inner, metadata = config.get("activation_fn_kwargs") or {}, config.get("metadata") or {}
    _refuse_other_architectures(config, inner, metadata)
    refuse_unread_keys(config, HONOURED, HARMLESS, SAELENS.config)
    refuse_unread_keys(inner, {}, ("k",), f"activation_fn_kwargs of {SAELENS.config}")
    refuse_unread_keys(metadata, {"hook_name_out": (None,)}, metadata.keys(), f"metadata of {SAELENS.config}")
    k = same_number("k", {SAELENS.config: config.get("k"), f"activation_fn_kwargs of {SAELENS.config}": inner.get("k")})
    state = load_file(folder / SAELENS.weights)
    refuse_unread_tensors(state, ("W_enc", "W_dec", "b_enc", "b_dec"))
    W_enc, W_dec, b_enc = (state[name].float() for name in ("W_enc", "W_dec", "b_enc"))
    if config.get("rescale_acts_by_decoder_norm"):
        norms = W_dec.norm(dim=1)
        if not bool((norms > 0).all()):
            raise ValueError(f"{int((norms == 0).sum())} rows of W_dec have norm 0, by which nothing can be divided")
        W_enc, W_dec, b_enc = W_enc * norms, W_dec / norms[:, None], b_enc * norms
    return k, {"encoder.weight": W_enc.T, "decoder.weight": W_dec.T, "pre_bias": state["b_dec"], "latent_bias": b_enc}


def _refuse_other_architectures(
    config: Mapping[str, Any], inner: Mapping[str, Any], metadata: Mapping[str, Any]
) -> None:
    """Refuse what SAELens does not read as TopK; before its version 6 ``standard`` with TopK's activation was one."""
    kind = config.get("architecture", "standard")
    version = str(metadata.get("sae_lens_version") or config.get("sae_lens_version") or "0")
    activation = config.get("activation_fn", config.get("activation_fn_str"))
    old = version.split(".", maxsplit=1)[0] in set("012345")
    before_6 = old and activation == "topk" and inner.get("k") is not None
    if kind != "topk" and not (kind == "standard" and before_6):
        raise ValueError(f"architecture in {SAELENS.config} is {kind!r}, expected 'topk'")
