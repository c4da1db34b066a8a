"""SAE feature transfer (RIEBench): move the features that tell source from base."""

from __future__ import annotations

from typing import TYPE_CHECKING

from riebench.methods import Observed, Plan, k_of_share, method, spread
from riebench.methods.choosing import Score, masked_mean
from riebench.methods.interface import RunName
from riebench.methods.options import K, OnlyAdd, ScoreStep, Spatial

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_SHARE = 160 / 20_480
"""Of the candidates: the second k of the published sweep, over all features of the four blocks. It is RIEBench's own
middle way between few features and many, and of the same size as the published SAEs' k."""


def choose(seen: Observed, k: int | None, score: Score) -> tuple[list[Tensor], list[Tensor], int]:
    """Features to add and to remove at each site, and the k that was used."""
    codes = [(seen.codes("source", site), seen.codes("base", site)) for site in seen.sites]
    source = [masked_mean(z, seen.source_masks[s], score) for s, (z, _) in zip(seen.sites, codes, strict=True)]
    base = [masked_mean(z, seen.base_masks[s], score) for s, (_, z) in zip(seen.sites, codes, strict=True)]
    k = k or k_of_share(DEFAULT_SHARE, sum(map(len, source)))
    return *seen.rank(source, base, k), k


def transferred(seen: Observed, run: RunName, site: str, features: Tensor, spatial: bool) -> Tensor:
    """What some features write at the mask of a run: ``[steps, positions, width]``."""
    masks = seen.base_masks if run == "base" else seen.source_masks
    codes = spread(seen.codes(run, site), masks[site], spatial)
    return seen.saes[site].directions(codes, features)


@method("sae", needs_sae=True)
class SAETransfer:
    """Adds k features of the source at its mask and removes k of the base at its own (PROTOCOL.md, Methods)."""

    k: K = None
    score: ScoreStep = "first"
    only_add: OnlyAdd = False
    spatial: Spatial = True

    def plan(self, seen: Observed) -> Plan:
        add, remove, k = choose(seen, self.k, self.score)
        changes = {}
        for site, gained, lost in zip(seen.sites, add, remove, strict=True):
            delta = transferred(seen, "source", site, gained, self.spatial)
            if not self.only_add:
                delta = delta - transferred(seen, "base", site, lost, self.spatial)
            changes[site] = delta
        return Plan(changes, notes={"k": k})
