"""SAE feature transfer (RIEBench): move the features that tell source from base."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from riebench.methods import Observed, Plan, k_of_share, method, rank, spread
from riebench.methods.choosing import Score, masked_mean
from riebench.methods.options import K, OnlyAdd, ScoreStep, Spatial

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_SHARE = 160 / 20_480
"""Of the candidates: the second k of the published sweep, over all features of the four blocks. It is RIEBench's own
middle way between few features and many, and of the same size as the published SAEs' k. At one LPIPS k matters little
(results/mini)."""


class Moved(NamedTuple):
    """What SAE transfer moves at one site.

    Attributes:
        site: its name.
        add: indices of the features that are added.
        remove: indices of those that are removed.
        gained: codes of the source run at its mask ``[steps, positions, features]``, 0 elsewhere.
        lost: codes of the base run at its mask.
    """

    site: str
    add: Tensor
    remove: Tensor
    gained: Tensor
    lost: Tensor


def choose(seen: Observed, k: int | None, score: Score, spatial: bool) -> tuple[list[Moved], int]:
    """What is moved at each site, and the k that was used."""
    sites, codes = seen.sites, [(seen.codes("source", site), seen.codes("base", site)) for site in seen.sites]
    masks = [(seen.source_masks[site], seen.base_masks[site]) for site in sites]
    source, base = (
        [masked_mean(z[run], mask[run], score) for z, mask in zip(codes, masks, strict=True)] for run in (0, 1)
    )
    k = k or k_of_share(DEFAULT_SHARE, sum(map(len, source)))
    features = zip(*rank(source, base, k, seen.protocol.shares), strict=True)
    moved = [
        Moved(site, add, remove, *(spread(z, mask, spatial) for z, mask in zip(both, at, strict=True)))
        for site, (add, remove), both, at in zip(sites, features, codes, masks, strict=True)
    ]
    return moved, k


@method("sae", needs_sae=True, takes_transcoders=True)
class SAETransfer:
    """Adds k features of the source at its mask and removes k of the base at its own (PROTOCOL.md, Methods)."""

    k: K = None
    score: ScoreStep = "first"
    only_add: OnlyAdd = False
    spatial: Spatial = True

    def plan(self, seen: Observed) -> Plan:
        chosen, k = choose(seen, self.k, self.score, self.spatial)
        changes = {}
        for site, add, remove, gained, lost in chosen:
            changes[site] = seen.saes[site].directions(gained, add)
            if not self.only_add:
                changes[site] = changes[site] - seen.saes[site].directions(lost, remove)
        return Plan(changes, notes={"k": k})
