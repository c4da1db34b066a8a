"""Random SAE features with the norm that SAE transfer would have had: what chance does."""

from riebench.methods import Observed, Plan, method
from riebench.methods.options import K, OnlyAdd, ScoreStep, Spatial

from .sae import choose


@method("random", needs_sae=True, takes_transcoders=True)
class RandomFeatures:
    """As ``sae``, each site's delta replaced by random decoder directions of the same norm at each position."""

    k: K = None
    score: ScoreStep = "first"
    only_add: OnlyAdd = False
    spatial: Spatial = True

    def plan(self, seen: Observed) -> Plan:
        import torch

        chosen, k = choose(seen, self.k, self.score, self.spatial)
        generator = seen.generator()
        changes = {}
        for site, add, remove, gained, lost in chosen:
            sae = seen.saes[site]
            real = sae.directions(gained, add)
            if not self.only_add:
                real = real - sae.directions(lost, remove)
            count = min(sae.n_features, max(1, len(add) + len(remove)))
            features = torch.randperm(sae.n_features, generator=generator)[:count].to(real.device)
            signs = torch.randn(count, generator=generator).to(real.device)
            direction = sae.W_dec.T[:, features] @ signs
            changes[site] = real.norm(dim=-1, keepdim=True) * (direction / direction.norm())
        return Plan(changes, notes={"k": k})
