"""Features of SAEs: feature indexes with their pages, and scores of SAEs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from riebench.features.feature_index import FeatureIndex as FeatureIndex
    from riebench.features.index_making import make_index as make_index
    from riebench.features.score_request import score as score

__all__ = ["FeatureIndex", "make_index", "score"]

_LAZY = {
    "FeatureIndex": "riebench.features.feature_index",
    "make_index": "riebench.features.index_making",
    "score": "riebench.features.score_request",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: these modules import torch, which many commands do without.
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
