"""The interface of an SAE: what methods, scores, pages and the engine use of one."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from riebench.util.errors import UserError


class SAE(nn.Module, ABC):
    """Features of the values at a site. Codes are never below zero; a feature is active where its code is above zero.

    Attributes:
        kind: the name of its activation, as ``topk`` or ``jumprelu``.
        k: the number of features that can be active at once; None where the vectors decide.
        transcodes: whether it is a transcoder of an MLP: it encodes the MLP's input and decodes to its output.
        of_input: whether its configuration says that it is of the values that a module is given.
        site: of whose values it is, as its configuration says; None if that is unknown.
    """

    kind: str
    k: int | None
    transcodes: bool = False
    of_input: bool = False
    site: str | None = None

    @property
    @abstractmethod
    def W_dec(self) -> Tensor:
        """The direction of each feature ``[n, d]``, that which it adds to the reconstruction at code 1."""

    @property
    def n_features(self) -> int:
        """Number n of features."""
        return self.W_dec.shape[0]

    @property
    def d_model(self) -> int:
        """Width d of the vectors."""
        return self.W_dec.shape[1]

    @property
    def device(self) -> torch.device:
        """Where vectors are expected."""
        return self.W_dec.device

    def encode(self, x: Tensor) -> Tensor:
        """Codes ``[..., n]`` of vectors ``[..., d]``, in float32 where the vectors or the weights are narrower.

        Raises:
            UserError: if the vectors are no real tensor of this width, or on another device.
        """
        if not isinstance(x, Tensor) or not x.is_floating_point():
            kind = f"a tensor of {x.dtype}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise UserError(f"the vectors are {kind}; expected a tensor of real numbers")
        if not x.ndim or x.shape[-1] != self.d_model:
            raise UserError(f"the vectors have the shape {list(x.shape)}; expected [..., {self.d_model}] for this SAE")
        if x.device != self.device:
            raise UserError(f"the vectors are on {x.device}; expected {self.device}, the SAE's device")
        return self.codes(x)

    @abstractmethod
    def codes(self, x: Tensor) -> Tensor:
        """What :meth:`encode` returns, for vectors that were checked."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Reconstruction ``[..., d]`` of codes ``[..., n]``."""

    def directions(self, codes: Tensor, features: Tensor) -> Tensor:
        """What some features write: codes ``[..., n]`` and indices ``[m]`` to ``[..., d]``, without the bias.

        Raises:
            UserError: if the codes are not of all n features; those of the m features alone would be taken for others.
        """
        if codes.shape[-1] != self.n_features:
            raise UserError(
                f"codes are of {codes.shape[-1]} features, the SAE has {self.n_features}; give the codes of all, "
                "as 'encode' does"
            )
        # The columns of the transpose: of one layout for weights that are stored [d, n].
        return codes[..., features] @ self.W_dec.T[:, features].T

    def rebuild(self, x: Tensor, codes: Tensor) -> Tensor:
        """Reconstruction ``[..., d]`` from codes of ``x``: :meth:`decode`, and a transcoder's linear term in ``x``."""
        return self.decode(codes)

    def forward(self, x: Tensor) -> Tensor:
        return self.rebuild(x, self.encode(x))


def at_least_float32(tensor: Tensor) -> Tensor:
    """A tensor itself, or in float32 if its type is narrower."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
