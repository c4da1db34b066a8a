"""SAE feature transfer that removes what the edited run itself shows."""

from collections.abc import Callable

import torch

from riebench.methods import Addition, Observed, Place, Plan, method, spread
from riebench.methods.options import K, OnlyAdd, ScoreStep, Spatial

from .sae import choose, transferred


def adapted(
    gain: torch.Tensor, seen: Observed, block: str, lost: torch.Tensor, spatial: bool
) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """The addition of one block as a function of the update that passes ``[channels, height, width]``."""
    sae, mask = seen.sae(block), seen.base_masks[block]

    def delta(update: torch.Tensor, step: int) -> torch.Tensor:
        now = spread(sae.encode_map(update)[None], mask, spatial)[0]
        return gain[step] - sae.directions(now, lost)

    return delta


@method("sae-adaptive", needs_sae=True)
class AdaptiveSAETransfer:
    """As ``sae``, but the removed features are encoded from the edited run as it passes (PROTOCOL: Methods)."""

    k: K = None
    score: ScoreStep = "first"
    only_add: OnlyAdd = False
    spatial: Spatial = True

    def plan(self, seen: Observed) -> Plan:
        add, remove, k = choose(seen, self.k, self.score)
        additions: dict[Place, Addition] = {}
        for block, gained, lost in zip(seen.blocks, add, remove, strict=True):
            gain = transferred(seen, "source", block, gained, self.spatial)
            additions[Place(block)] = gain if self.only_add else adapted(gain, seen, block, lost, self.spatial)
        return Plan(additions, notes={"k": k})
