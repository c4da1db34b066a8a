"""SAE feature transfer (RIEBench): move the features that tell source from base."""

import torch

from riebench.methods import Observed, Place, Plan, k_of_share, method, spread
from riebench.methods.choosing import Score, masked_mean
from riebench.methods.options import K, OnlyAdd, ScoreStep, Spatial

SHARE = 1 / 128  # of the candidates: the second k of the published sweep over all features of the four blocks


def choose(seen: Observed, k: int | None, score: Score) -> tuple[list[torch.Tensor], list[torch.Tensor], int]:
    """Features to add and to remove in each block, and the k that was used."""
    source = [masked_mean(seen.codes("source", b), seen.source_masks[b], score) for b in seen.blocks]
    base = [masked_mean(seen.codes("base", b), seen.base_masks[b], score) for b in seen.blocks]
    k = k or k_of_share(SHARE, sum(map(len, source)))
    return *seen.rank(source, base, k), k


def transferred(seen: Observed, run: str, block: str, features: torch.Tensor, spatial: bool) -> torch.Tensor:
    """What some features write at the mask of a run: ``[steps, channels, height, width]``."""
    masks = seen.source_masks if run == "source" else seen.base_masks
    codes = spread(seen.codes(run, block), masks[block], spatial)
    return seen.sae(block).directions(codes, features)


@method("sae", needs_sae=True)
class SAETransfer:
    """Adds k features of the source at its mask and removes k of the base at its own (PROTOCOL: Methods)."""

    k: K = None
    score: ScoreStep = "first"
    only_add: OnlyAdd = False
    spatial: Spatial = True

    def plan(self, seen: Observed) -> Plan:
        add, remove, k = choose(seen, self.k, self.score)
        additions: dict[Place, torch.Tensor] = {}
        for block, gained, lost in zip(seen.blocks, add, remove, strict=True):
            delta = transferred(seen, "source", block, gained, self.spatial)
            if not self.only_add:
                delta = delta - transferred(seen, "base", block, lost, self.spatial)
            additions[Place(block)] = delta
        return Plan(additions, notes={"k": k})
