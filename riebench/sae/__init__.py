"""Sparse autoencoders and their files."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from riebench.sae.linear import LinearSAE as LinearSAE
    from riebench.sae.sae import SAE as SAE
    from riebench.sae.store import load_sae as load_sae
    from riebench.sae.store import save_sae as save_sae
    from riebench.sae.topk import TopKSAE as TopKSAE

__all__ = ["SAE", "LinearSAE", "TopKSAE", "load_sae", "save_sae"]

_LAZY = {
    "SAE": "riebench.sae.sae",
    "LinearSAE": "riebench.sae.linear",
    "TopKSAE": "riebench.sae.topk",
    "load_sae": "riebench.sae.store",
    "save_sae": "riebench.sae.store",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: these modules import torch, which many commands do without.
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
