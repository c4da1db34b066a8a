"""Layouts of two training libraries, read only: dictionary_learning and sparsify. Both subtract the decoder's bias
before they encode, as :class:`TopKSAE` does; where one does not, it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from riebench.sae.folders import LEARNED, SPARSIFY
from riebench.sae.unread import OFF, keys, refuse_unread_keys, refuse_unread_tensors, same_number

TOPK_CLASS = "AutoEncoderTopK"
TRAINER_KEYS = keys("""
    trainer_class dict_class lr steps auxk_alpha warmup_steps decay_start threshold_beta threshold_start_step seed
    activation_dim dict_size k device layer lm_name wandb_name submodule_name resample_steps top_k_aux
    dead_feature_threshold norm_factor
""")
"""Of dictionary_learning's ``trainer``: sizes, and how it was trained; ``norm_factor`` is in the saved biases."""
SPARSIFY_KEYS = keys("expansion_factor normalize_decoder num_latents k multi_topk d_in")
"""Of sparsify: sizes, and what acts in training alone."""
SPARSIFY_SWITCHES = keys("""
    transcode skip_connection embed_skip gram_lookup input_unit_norm sample_topk batch_topk signed
""")
"""Those that change what is computed; some are of older versions and of SAeUron's."""
SPARSIFY_HONOURED = {"activation": ("topk", None), **dict.fromkeys(SPARSIFY_SWITCHES, OFF)}


def read_dictionary_learning(folder: Path, config: dict[str, Any]) -> tuple[int, dict[str, Tensor]]:
    """k and the tensors of an ``AutoEncoderTopK`` of dictionary_learning, under the names of :class:`TopKSAE`.

    ``encoder.weight [n, d]``, ``encoder.bias [n]``, ``decoder.weight [d, n]``, ``b_dec [d]``, ``k``; ``threshold`` is
    for ``use_threshold=True`` alone.

    Raises:
        ValueError: if it is of another kind, or a key, a tensor or a second k is not honoured.
    """
    trainer = config.get("trainer")
    if not isinstance(trainer, dict):
        raise ValueError(f"{LEARNED.config} has no trainer, which says the class of the SAE")
    kind = trainer.get("dict_class")
    if kind != TOPK_CLASS:
        raise ValueError(f"its class, dict_class in {LEARNED.config}, is {kind}, expected {TOPK_CLASS}")
    refuse_unread_keys(config, {}, ("trainer", "buffer"), LEARNED.config)
    refuse_unread_keys(trainer, {}, TRAINER_KEYS, f"trainer of {LEARNED.config}")
    state = torch.load(folder / LEARNED.weights, map_location="cpu", weights_only=True)
    read = ("encoder.weight", "encoder.bias", "decoder.weight", "b_dec", "k", "threshold")
    refuse_unread_tensors(state, read)
    stored = state["k"].item() if "k" in state else None
    return same_number("k", {LEARNED.weights: stored, LEARNED.config: trainer.get("k")}), {
        "encoder.weight": state["encoder.weight"],
        "decoder.weight": state["decoder.weight"],
        "pre_bias": state["b_dec"],
        "latent_bias": state["encoder.bias"],
    }


def read_sparsify(folder: Path, config: dict[str, Any]) -> tuple[int, dict[str, Tensor]]:
    """k and the tensors of a TopK ``SparseCoder`` of sparsify, under the names of :class:`TopKSAE`.

    ``encoder.weight [n, d]``, ``encoder.bias [n]``, ``W_dec [n, d]``, ``b_dec [d]``.

    Raises:
        ValueError: if it computes something else (another activation, a transcoder, normalised input), or a key or a
            tensor is not honoured.
    """
    refuse_unread_keys(config, SPARSIFY_HONOURED, SPARSIFY_KEYS, SPARSIFY.config)
    state = load_file(folder / SPARSIFY.weights)
    refuse_unread_tensors(state, ("encoder.weight", "encoder.bias", "W_dec", "b_dec"))
    return same_number("k", {SPARSIFY.config: config.get("k")}), {
        "encoder.weight": state["encoder.weight"],
        "decoder.weight": state["W_dec"].T,
        "pre_bias": state["b_dec"],
        "latent_bias": state["encoder.bias"],
    }
