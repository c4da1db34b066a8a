"""Neuron transfer: move the feed-forward neurons that tell source from base."""

import torch

from riebench.methods import Observed, Place, Plan, k_of_share, method
from riebench.methods.choosing import Score
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
        source, base = means(seen, "source", self.score), means(seen, "base", self.score)
        k = self.k or k_of_share(SHARE, sum(map(len, source)))
        additions: dict[Place, torch.Tensor] = {}
        for place, gained, lost in zip(seen.neuron_places, *seen.rank(source, base, k), strict=True):
            delta = torch.zeros_like(seen.source.neurons[place])
            add_chosen(delta, seen.source.neurons[place], seen.source_masks[place.block], gained, 1, self.spatial)
            if not self.only_add:
                add_chosen(delta, seen.base.neurons[place], seen.base_masks[place.block], lost, -1, self.spatial)
            additions[place] = delta
        return Plan(additions, notes={"k": k})


def means(seen: Observed, run: str, score: Score) -> list[torch.Tensor]:
    """Mean activations ``[neurons]`` that are ranked, of every layer in order; worked out once for all k."""
    activations, masks = (seen.source, seen.source_masks) if run == "source" else (seen.base, seen.base_masks)
    return seen.once(
        ("neuron means", run, score, seen.blocks),
        lambda: [normalized_mean(activations.neurons[p], masks[p.block], score) for p in seen.neuron_places],
    )


def normalized_mean(neurons: torch.Tensor, mask: torch.Tensor, score: Score) -> torch.Tensor:
    """Mean over the mask ``[height, width]`` of neurons ``[steps, height * width, neurons]``.

    Each neuron is first divided, step by step, by its norm over the mask's positions. Gives ``[neurons]``.
    """
    steps = neurons[:1] if score == "first" else neurons
    inside = steps[:, mask.flatten()].float()
    return (inside.mean(1) / inside.norm(dim=1).clamp(min=1e-12)).mean(0)


def add_chosen(
    delta: torch.Tensor, neurons: torch.Tensor, mask: torch.Tensor, chosen: torch.Tensor, sign: int, spatial: bool
) -> None:
    """Add some neurons at a mask's positions to ``delta``, in place; all are ``[steps, height * width, neurons]``."""
    positions = mask.flatten()
    if not spatial:
        neurons = neurons[:, positions].mean(1, keepdim=True).expand_as(delta)
    columns = delta.new_zeros(delta.shape[-1])
    columns[chosen] = 1
    # One pass over memory; indexing rows and columns apart takes several.
    delta.addcmul_(neurons, positions[:, None] * columns, value=sign)
