"""Layouts of two training libraries, read only: dictionary_learning and sparsify. Both subtract the decoder's bias
before they encode, as :class:`TopKSAE` does; where one does not, it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

LEARNED, SPARSIFY_WEIGHTS = "ae.pt", "sae.safetensors"


def read_dictionary_learning(folder: Path, config: dict[str, Any]) -> tuple[int, dict[str, Tensor]]:
    """k and the tensors of an ``AutoEncoderTopK`` of dictionary_learning, under the names of :class:`TopKSAE`.

    ``encoder.weight [n, d]``, ``encoder.bias [n]``, ``decoder.weight [d, n]``, ``b_dec [d]``, ``k``.

    Raises:
        ValueError: if it is of another kind.
    """
    kind = (config.get("trainer") or {}).get("dict_class", "AutoEncoderTopK")
    if kind != "AutoEncoderTopK":
        raise ValueError(f"its class is {kind}, expected AutoEncoderTopK")
    state = torch.load(folder / LEARNED, map_location="cpu", weights_only=True)
    return int(state["k"]), {
        "encoder.weight": state["encoder.weight"],
        "decoder.weight": state["decoder.weight"],
        "pre_bias": state["b_dec"],
        "latent_bias": state["encoder.bias"],
    }


def read_sparsify(folder: Path, config: dict[str, Any]) -> tuple[int, dict[str, Tensor]]:
    """k and the tensors of a TopK ``SparseCoder`` of sparsify, under the names of :class:`TopKSAE`.

    ``encoder.weight [n, d]``, ``encoder.bias [n]``, ``W_dec [n, d]``, ``b_dec [d]``.

    Raises:
        ValueError: if it computes something else: another activation, a transcoder, a skip connection.
    """
    activation = config.get("activation", "topk")
    if activation != "topk":
        raise ValueError(f"its activation is {activation!r}, expected 'topk'")
    for name in ("transcode", "skip_connection", "embed_skip", "gram_lookup"):
        if config.get(name):
            raise ValueError(f"{name} is on, which a TopK SAE has not")
    state = load_file(folder / SPARSIFY_WEIGHTS)
    return int(config["k"]), {
        "encoder.weight": state["encoder.weight"],
        "decoder.weight": state["W_dec"].T,
        "pre_bias": state["b_dec"],
        "latent_bias": state["encoder.bias"],
    }
