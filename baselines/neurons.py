"""Neuron transfer: move the feed-forward neurons that tell source from base."""

import torch

from riebench.methods import Observed, Place, Plan, k_of_share, method, rank, spread
from riebench.methods.choosing import Score, masked_mean
from riebench.methods.options import K, OnlyAdd, ScoreStep, Spatial

SHARE = 1 / 10.24  # of the candidates: the middle k of the published sweep over all neurons of the four blocks


@method("neurons", needs_neurons=True)
class NeuronTransfer:
    """Adds k neurons of the source and removes k of the base at the GEGLU outputs (PROTOCOL: Methods)."""

    k: K = None
    score: ScoreStep = "first"
    only_add: OnlyAdd = False
    spatial: Spatial = True

    def plan(self, seen: Observed) -> Plan:
        places = seen.neuron_places
        maps = {p: (as_map(seen, p, "source"), as_map(seen, p, "base")) for p in places}
        source = [normalized_mean(maps[p][0], seen.source_masks[p.block], self.score) for p in places]
        base = [normalized_mean(maps[p][1], seen.base_masks[p.block], self.score) for p in places]
        k = self.k or k_of_share(SHARE, sum(map(len, source)))
        additions: dict[Place, torch.Tensor] = {}
        for place, gained, lost in zip(places, *rank(source, base, k), strict=True):
            gain, loss = (
                spread(values, masks[place.block], self.spatial)
                for values, masks in zip(maps[place], (seen.source_masks, seen.base_masks), strict=True)
            )
            delta = torch.zeros_like(gain)
            delta[:, gained] += gain[:, gained]
            if not self.only_add:
                delta[:, lost] -= loss[:, lost]
            additions[place] = delta.flatten(2).transpose(1, 2)
        return Plan(additions, notes={"k": k})


def as_map(seen: Observed, place: Place, run: str) -> torch.Tensor:
    """Neurons of a layer as ``[steps, neurons, height, width]``."""
    height, width = seen.base_masks[place.block].shape
    neurons = (seen.source if run == "source" else seen.base).neurons[place]
    return neurons.transpose(1, 2).unflatten(2, (height, width))


def normalized_mean(values: torch.Tensor, mask: torch.Tensor, score: Score) -> torch.Tensor:
    """Mean over the mask of each neuron divided, step by step, by its norm over the mask's positions, ``[neurons]``."""
    norm = values.flatten(2)[..., mask.flatten()].norm(dim=2).clamp(min=1e-12)
    return masked_mean(values / norm[..., None, None], mask, score)
