"""TopK sparse autoencoders on block updates: the model, its files, its training."""

from riebench.sae.store import find_saes, load_sae, save_sae
from riebench.sae.topk import TopKSAE

__all__ = ["TopKSAE", "find_saes", "load_sae", "save_sae"]
