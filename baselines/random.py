"""Random SAE features with the norm that SAE transfer would have had: what chance does."""

from riebench.methods import Observed, Plan, method
from riebench.methods.options import K, OnlyAdd, ScoreStep, Spatial

from .sae import choose, transferred


@method("random", needs_sae=True)
class RandomFeatures:
    """As ``sae``, each site's delta replaced by random decoder directions of the same norm at each position."""

    k: K = None
    score: ScoreStep = "first"
    only_add: OnlyAdd = False
    spatial: Spatial = True

    def plan(self, seen: Observed) -> Plan:
        import torch

        add, remove, k = choose(seen, self.k, self.score)
        generator = seen.generator()
        changes = {}
        for site, gained, lost in zip(seen.sites, add, remove, strict=True):
            real = transferred(seen, "source", site, gained, self.spatial)
            if not self.only_add:
                real = real - transferred(seen, "base", site, lost, self.spatial)
            sae = seen.saes[site]
            count = min(sae.n_features, max(1, len(gained) + len(lost)))
            features = torch.randperm(sae.n_features, generator=generator)[:count].to(real.device)
            signs = torch.randn(count, generator=generator).to(real.device)
            direction = sae.decoder.weight[:, features] @ signs
            changes[site] = real.norm(dim=-1, keepdim=True) * (direction / direction.norm())
        return Plan(changes, notes={"k": k})
