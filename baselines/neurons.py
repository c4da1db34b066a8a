"""Neuron transfer: move the feed-forward neurons that tell source from base."""

from __future__ import annotations

from typing import TYPE_CHECKING

from riebench.methods import Observed, Plan, k_of_share, method, rank
from riebench.methods.choosing import Score
from riebench.methods.interface import RunName
from riebench.methods.options import K, OnlyAdd, ScoreStep, Spatial

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_SHARE = 40_000 / 204_800
"""Of the candidates: the fourth k of the published sweep, over all neurons of the four blocks. It is the first of them
with which nearly all pairs of mini (168 of 180) cost LPIPS 0.05 at some strength; the third does with 152, and more
neurons than the fourth gain nothing (results/mini).
"""


@method("neurons", needs_neurons=True)
class NeuronTransfer:
    """Adds k neurons of the source and removes k of the base at the GEGLU outputs (PROTOCOL.md, Methods)."""

    k: K = None
    score: ScoreStep = "first"
    only_add: OnlyAdd = False
    spatial: Spatial = True

    def plan(self, seen: Observed) -> Plan:
        source, base = means(seen, "source", self.score), means(seen, "base", self.score)
        k = self.k or k_of_share(DEFAULT_SHARE, sum(map(len, source)))
        changes = {}
        chosen = rank(source, base, k, seen.protocol.shares)
        for site, gained, lost in zip(seen.neuron_sites, *chosen, strict=True):
            delta = seen.source[site].new_zeros(seen.source[site].shape)
            add_chosen(delta, seen.source[site], seen.source_masks[site], gained, 1, self.spatial)
            if not self.only_add:
                add_chosen(delta, seen.base[site], seen.base_masks[site], lost, -1, self.spatial)
            changes[site] = delta
        return Plan(changes, notes={"k": k})


def means(seen: Observed, run: RunName, score: Score) -> list[Tensor]:
    """Mean activations ``[neurons]`` that are ranked, of every layer in order; worked out once for all k."""
    values, masks = (seen.base, seen.base_masks) if run == "base" else (seen.source, seen.source_masks)
    return seen.once(
        ("neuron means", run, score, seen.sites),
        lambda: [normalized_mean(values[site], masks[site], score) for site in seen.neuron_sites],
    )


def normalized_mean(neurons: Tensor, mask: Tensor, score: Score) -> Tensor:
    """Mean ``[neurons]`` over the mask ``[positions]`` of neurons ``[steps, positions, neurons]``.

    Each neuron is first divided, step by step, by its norm over the mask's positions.
    """
    steps = neurons[:1] if score == "first" else neurons
    inside = steps[:, mask].float()
    return (inside.mean(1) / inside.norm(dim=1).clamp(min=1e-12)).mean(0)


def add_chosen(delta: Tensor, neurons: Tensor, mask: Tensor, chosen: Tensor, sign: int, spatial: bool) -> None:
    """Add some neurons at a mask's positions to ``delta``, in place; all are ``[steps, positions, neurons]``."""
    if not spatial:
        neurons = neurons[:, mask].mean(1, keepdim=True).expand_as(delta)
    columns = delta.new_zeros(delta.shape[-1])
    columns[chosen] = 1
    # One pass over memory; indexing rows and columns apart takes several.
    delta.addcmul_(neurons, mask[:, None] * columns, value=sign)
