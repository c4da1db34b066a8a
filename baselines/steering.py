"""Activation steering: the source's whole update in, the base's whole update out."""

from riebench.methods import Observed, Plan, method, spread
from riebench.methods.options import OnlyAdd, Spatial


@method("steering")
class Steering:
    """Adds the source's update at the source mask, takes away the base's at the base mask (PROTOCOL.md, Methods)."""

    only_add: OnlyAdd = False
    spatial: Spatial = True

    def plan(self, seen: Observed) -> Plan:
        changes = {}
        for site in seen.sites:
            delta = spread(seen.source[site], seen.source_masks[site], self.spatial)
            if not self.only_add:
                delta = delta - spread(seen.base[site], seen.base_masks[site], self.spatial)
            changes[site] = delta
        return Plan(changes)
