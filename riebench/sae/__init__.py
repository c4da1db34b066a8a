"""TopK sparse autoencoders on the values of sites: the model, its files, collecting values, training."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from riebench.sae.collecting import collect as collect
    from riebench.sae.feature_index import FeatureIndex as FeatureIndex
    from riebench.sae.index_build import make_index as make_index
    from riebench.sae.judging import score as score
    from riebench.sae.store import load_sae as load_sae
    from riebench.sae.store import save_sae as save_sae
    from riebench.sae.topk import TopKSAE as TopKSAE
    from riebench.sae.training_plan import train as train

__all__ = ["FeatureIndex", "TopKSAE", "collect", "load_sae", "make_index", "save_sae", "score", "train"]

_LAZY = {
    "FeatureIndex": "feature_index",
    "TopKSAE": "topk",
    "collect": "collecting",
    "load_sae": "store",
    "make_index": "index_build",
    "save_sae": "store",
    "score": "judging",
    "train": "training_plan",
}


def __getattr__(name: str) -> Any:
    # Imported when asked for: they bring torch, which finding the folders of SAEs does without.
    if name in _LAZY:
        return getattr(import_module(f"riebench.sae.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'riebench.sae' has no attribute {name!r}")
