"""The interface of a dictionary of features: any object with it can be judged and shown; and its reconstructions."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from riebench.sae.sae import SAE


class Dictionary(Protocol):
    """Features of the values at a site.

    Attributes:
        W_dec: the direction of each feature ``[n, d]``, on the device of the values.
    """

    @property
    def W_dec(self) -> Tensor: ...

    def encode(self, x: Tensor) -> Tensor:
        """Codes ``[..., n]`` of vectors ``[..., d]``; a feature is active where its code is above zero."""

    def decode(self, z: Tensor) -> Tensor:
        """Reconstruction ``[..., d]`` of codes ``[..., n]``."""


def rebuilt(dictionary: Dictionary, x: Tensor, codes: Tensor | None = None) -> Tensor:
    """Reconstruction ``[..., d]`` of vectors ``[..., d]``; by their codes ``[..., n]`` if these are known."""
    codes = dictionary.encode(x) if codes is None else codes
    return dictionary.rebuild(x, codes) if isinstance(dictionary, SAE) else dictionary.decode(codes)
