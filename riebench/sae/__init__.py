"""TopK sparse autoencoders and their files."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from riebench.sae.store import load_sae as load_sae
    from riebench.sae.store import save_sae as save_sae
    from riebench.sae.topk import TopKSAE as TopKSAE

__all__ = ["TopKSAE", "load_sae", "save_sae"]

_LAZY = {
    "TopKSAE": "riebench.sae.topk",
    "load_sae": "riebench.sae.store",
    "save_sae": "riebench.sae.store",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: these modules import torch, which many commands do without.
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
