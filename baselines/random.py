"""Random SAE features with the norm that SAE transfer would have had: what chance does."""

import torch

from riebench.methods import Observed, Place, Plan, method
from riebench.methods.options import K, OnlyAdd, ScoreStep, Spatial

from .sae import choose, transferred


@method("random", needs_sae=True)
class RandomFeatures:
    """As ``sae``, each block's delta replaced by random decoder directions of the same norm at each position."""

    k: K = None
    score: ScoreStep = "first"
    only_add: OnlyAdd = False
    spatial: Spatial = True

    def plan(self, seen: Observed) -> Plan:
        add, remove, k = choose(seen, self.k, self.score)
        generator = seen.generator()
        additions: dict[Place, torch.Tensor] = {}
        for block, gained, lost in zip(seen.blocks, add, remove, strict=True):
            real = transferred(seen, "source", block, gained, self.spatial)
            if not self.only_add:
                real = real - transferred(seen, "base", block, lost, self.spatial)
            sae = seen.sae(block)
            count = min(sae.n_features, max(1, len(gained) + len(lost)))
            features = torch.randperm(sae.n_features, generator=generator)[:count]
            signs = torch.randn(count, generator=generator)
            direction = sae.decoder.weight[:, features] @ signs
            norms = real.norm(dim=1, keepdim=True)
            additions[Place(block)] = norms * (direction / direction.norm())[:, None, None]
        return Plan(additions, notes={"k": k})
