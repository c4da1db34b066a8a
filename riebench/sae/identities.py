"""What a reader of SAE files returns, and the identities by which SAEs of other libraries become a LinearSAE."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from riebench.sae.linear import GroupMax, JumpReLU, LinearSAE, TopK

State = dict[str, Tensor]
SILENT, THRESHOLD, SKIP = "stats_last_nonzero", "activation.threshold", "skip.weight"
"""Names of tensors of :class:`LinearSAE` that no other library has."""


class Parts(NamedTuple):
    """The parts of an SAE.

    Attributes:
        state: its tensors under the names of :class:`LinearSAE`.
        activation: between encoder and decoder.
        kind: its name where the activation's own is not that of the files.
        transcodes: whether it is a transcoder; ``skip.weight [d, d]`` is then the matrix that acts on its input.
        of_input: whether it is of the values that a module is given.
    """

    state: State
    activation: TopK | GroupMax | JumpReLU
    kind: str | None = None
    transcodes: bool = False
    of_input: bool = False


def state_of(W_enc: Tensor, W_dec: Tensor, b_enc: Tensor, b_dec: Tensor) -> State:
    """The tensors under the names of :class:`LinearSAE`.

    Args:
        W_enc: ``[n, d]``, applied to vectors less ``b_dec``.
        W_dec: ``[n, d]``.
        b_enc: ``[n]``.
        b_dec: ``[d]``.
    """
    return {"encoder.weight": W_enc, "decoder.weight": W_dec.T, "pre_bias": b_dec, "latent_bias": b_enc}


def of_raw_vectors(state: State) -> State:
    """The same SAE for an encoder that is applied to the vectors themselves: ``b_enc + W_enc b_dec`` is its bias."""
    wide = {name: tensor.float() for name, tensor in state.items()}
    return wide | {"latent_bias": wide["latent_bias"] + wide["encoder.weight"] @ wide["pre_bias"]}


def transcoder(parts: Parts, W_skip: Tensor | None) -> Parts:
    """The transcoder of some parts, whose encoder is applied to its input itself; ``W_skip [d, d]`` acts on that, too.

    Raises:
        ValueError: if its input and its output differ in width, as those of an MLP in a denoiser do not.
    """
    d_in, d_out = parts.state["encoder.weight"].shape[1], parts.state["decoder.weight"].shape[0]
    if d_in != d_out:
        raise ValueError(f"it reads vectors of width {d_in} and writes vectors of width {d_out}, expected one width")
    skip = {} if W_skip is None else {SKIP: W_skip}
    return parts._replace(state=of_raw_vectors(parts.state) | skip, transcodes=True)


def with_unit_directions(state: State) -> State:
    """Pre-activations times the norms of the directions, directions of norm 1; the reconstruction stays.

    Raises:
        ValueError: if a direction has norm 0.
    """
    W_enc, W_dec, b_enc = (state[name].float() for name in ("encoder.weight", "decoder.weight", "latent_bias"))
    norms = W_dec.norm(dim=0)
    if not bool((norms > 0).all()):
        raise ValueError(f"{int((norms == 0).sum())} rows of W_dec have norm 0, by which nothing can be divided")
    scaled = {"encoder.weight": W_enc * norms[:, None], "decoder.weight": W_dec / norms, "latent_bias": b_enc * norms}
    return state | scaled


def with_both_signs(state: State) -> State:
    """Features ``0..n-1`` as they are, and ``n..2n-1`` with the opposite signs.

    A top-k of these is the top-k by magnitude of the n features, whose codes have signs.
    """
    return {
        "encoder.weight": torch.cat([state["encoder.weight"], -state["encoder.weight"]]),
        "decoder.weight": torch.cat([state["decoder.weight"], -state["decoder.weight"]], 1),
        "pre_bias": state["pre_bias"],
        "latent_bias": torch.cat([state["latent_bias"], -state["latent_bias"]]),
    }


def gated(state: State, b_gate: Tensor, r_mag: Tensor) -> Parts:
    """A gated SAE (arXiv 2404.16014), whose ``latent_bias`` is that of the magnitudes.

    ``relu(a e^r + b_mag)`` where ``a + b_gate > 0``, with ``a = W_enc (x - b_dec)``: a JumpReLU of ``a e^r + b_mag``
    with the thresholds ``b_mag - b_gate e^r``.
    """
    scale, b_mag = r_mag.float().exp(), state["latent_bias"].float()
    magnitudes = {"encoder.weight": state["encoder.weight"].float() * scale[:, None], "latent_bias": b_mag}
    return Parts(state | magnitudes, JumpReLU(b_mag - b_gate.float() * scale), "gated")


def inclusive(threshold: Tensor) -> Tensor:
    """Thresholds for ``>`` that let through what others let through by ``>=``."""
    return torch.nextafter(threshold.float(), torch.tensor(-torch.inf))


def built(parts: Parts) -> LinearSAE:
    """The SAE of some parts in float32, without gradients.

    Raises:
        ValueError: if a tensor is not of finite floating-point numbers, or a size does not fit.
        KeyError, RuntimeError: if a tensor is missing or has another shape.
    """
    state = parts.state
    for name, value in state.items():
        if name != SILENT and not value.is_floating_point():
            raise ValueError(f"{name} is {value.dtype}, expected floating-point numbers; quantised SAEs are not read")
    activation = parts.activation
    if isinstance(activation, JumpReLU):
        activation = JumpReLU(activation.threshold.detach().float().expand(len(state["encoder.weight"])).clone())
        if not bool(activation.threshold.isfinite().all()):
            raise ValueError("threshold has numbers that are not finite")
    silent = {SILENT: torch.zeros(len(state["latent_bias"]), dtype=torch.long)}
    floats = {name: v.float() if v.is_floating_point() else v for name, v in state.items()}
    sae = assembled(parts._replace(state={**silent, **floats}, activation=activation))
    for name, parameter in sae.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise ValueError(f"{name} has numbers that are not finite")
    return sae


def assembled(parts: Parts) -> LinearSAE:
    """The SAE of some parts that are whole and have its types and shapes, without gradients.

    Raises:
        RuntimeError: if a tensor is missing or has another shape.
    """
    n_features, d_model = parts.state["encoder.weight"].shape
    skips = SKIP in parts.state
    sae = LinearSAE(d_model, n_features, parts.activation, parts.kind, parts.transcodes, skips)
    sae.of_input = parts.of_input
    thresholds = {name: value for name, value in sae.state_dict().items() if name == THRESHOLD}
    sae.load_state_dict(parts.state | thresholds)
    return sae.eval().requires_grad_(False)
