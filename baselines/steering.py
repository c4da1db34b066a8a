"""Activation steering: the source's whole update in, the base's whole update out."""

import torch

from riebench.methods import Observed, Place, Plan, method, spread
from riebench.methods.options import OnlyAdd, Spatial


@method("steering")
class Steering:
    """Adds the source's update at the source mask, takes away the base's at the base mask (PROTOCOL: Methods)."""

    only_add: OnlyAdd = False
    spatial: Spatial = True

    def plan(self, seen: Observed) -> Plan:
        additions: dict[Place, torch.Tensor] = {}
        for block in seen.blocks:
            delta = spread(seen.source.updates[block], seen.source_masks[block], self.spatial)
            if not self.only_add:
                delta = delta - spread(seen.base.updates[block], seen.base_masks[block], self.spatial)
            additions[Place(block)] = delta
        return Plan(additions)
