"""SAE feature transfer that removes what the edited run itself shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from riebench.methods import Change, Observed, Plan, method, spread
from riebench.methods.options import K, OnlyAdd, ScoreStep, Spatial
from riebench.models.sae_sites import change_by_codes

from .sae import choose

if TYPE_CHECKING:
    from torch import Tensor

    from riebench.sae.sae import SAE


def adapted(gain: Tensor, seen: Observed, site: str, lost: Tensor, factor: float, spatial: bool) -> Change:
    """The change of one site as a function of the values that pass ``[positions, width]``."""
    sae, mask = seen.saes[site], seen.base_masks[site]

    def change(read: Tensor, now: Tensor, step: int) -> Tensor:
        codes = spread(sae.encode(read)[None], mask, spatial)[0]
        return gain[step] - factor * sae.directions(codes, lost)

    return change_by_codes(sae, change)


def published_ratio(sae: SAE, added: Tensor, removed: Tensor) -> float:
    """The sum of the norms of the added features' decoder columns over that of the removed ones; 0 without these."""
    norms = sae.W_dec.norm(dim=1)
    return (norms[added].sum() / norms[removed].sum()).item() if len(removed) else 0.0


@method("sae-adaptive", needs_sae=True, takes_transcoders=True)
class AdaptiveSAETransfer:
    """As ``sae``, but the removed features are encoded from the edited run as it passes (PROTOCOL.md, Methods)."""

    k: K = None
    score: ScoreStep = "first"
    only_add: OnlyAdd = False
    spatial: Spatial = True

    def plan(self, seen: Observed) -> Plan:
        chosen, k = choose(seen, self.k, self.score, self.spatial)
        as_published = seen.protocol.adaptive_ratio
        changes: dict[str, Change] = {}
        for site, add, remove, gained, _ in chosen:
            gain = seen.saes[site].directions(gained, add)
            factor = published_ratio(seen.saes[site], add, remove) if as_published else 1.0
            only_add = self.only_add and not as_published
            changes[site] = gain if only_add else adapted(gain, seen, site, remove, factor, self.spatial)
        return Plan(changes, notes={"k": k})
