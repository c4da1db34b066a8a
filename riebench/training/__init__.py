"""Train SAEs: collect the values at a model's sites, and train a grid of SAEs on them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from riebench.training.collect_values import collect as collect
    from riebench.training.train_saes import train as train

__all__ = ["collect", "train"]

_LAZY = {
    "collect": "riebench.training.collect_values",
    "train": "riebench.training.train_saes",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: these modules import torch, which many commands do without.
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
