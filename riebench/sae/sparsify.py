"""SAEs of sparsify, read only: ``encoder.weight [n, d]``, ``encoder.bias [n]``, ``W_dec [n, d]``, ``b_dec [d]``."""

from __future__ import annotations

from typing import Any

from riebench.sae.identities import Parts, State, state_of, transcoder, with_both_signs
from riebench.sae.layouts import SPARSIFY
from riebench.sae.linear import GroupMax, TopK
from riebench.sae.unread import IN_PYTHON, OFF, keys, refuse_unread_keys, refuse_unread_tensors, same_number

HARMLESS = keys("expansion_factor normalize_decoder num_latents k multi_topk d_in")
"""Sizes, and what acts in training alone."""
SWITCHES = keys("skip_connection embed_skip gram_lookup input_unit_norm sample_topk batch_topk")
"""Those that change what is computed and are not read; some are of older versions and of SAeUron's."""
HONOURED = {
    "activation": ("topk", "groupmax", None),
    "signed": (False, True, None),
    "transcode": (False, True, None),
    **dict.fromkeys(SWITCHES, OFF),
}
READ = ("encoder.weight", "encoder.bias", "W_dec", "b_dec")


def read_sparsify(config: dict[str, Any], state: State) -> Parts:
    """The parts of a ``SparseCoder``: TopK, groupmax, or TopK by magnitude (``signed``); or of a transcoder.

    Raises:
        ValueError: if it computes something else (as of normalised input), or a key or a tensor is not honoured.
    """
    transcodes = bool(config.get("transcode"))
    skips = transcodes and bool(config.get("skip_connection"))
    honoured = HONOURED | ({"skip_connection": (False, True, None), "signed": OFF} if transcodes else {})
    refuse_unread_keys(config, honoured, HARMLESS, SPARSIFY.config)
    refuse_unread_tensors(state, (*READ, "W_skip") if skips else READ)
    parts = _sparse_coder(config, state)
    return transcoder(parts, state["W_skip"] if skips else None) if transcodes else parts


def _sparse_coder(config: dict[str, Any], state: State) -> Parts:
    k = same_number("k", {SPARSIFY.config: config.get("k")})
    parts = state_of(state["encoder.weight"], state["W_dec"], state["encoder.bias"], state["b_dec"])
    if config.get("activation") == "groupmax":
        if config.get("signed"):
            raise ValueError(f"signed in {SPARSIFY.config} is True with groupmax; {IN_PYTHON}")
        return Parts(parts, GroupMax(k))
    return Parts(with_both_signs(parts), TopK(k), "abstopk") if config.get("signed") else Parts(parts, TopK(k))
