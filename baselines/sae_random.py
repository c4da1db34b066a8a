"""SAE feature transfer with an untrained SAE: what is owed to the transfer, and not to the features."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from riebench.methods import Observed, Plan, method
from riebench.methods.interface import RunName

from .sae import SAETransfer

if TYPE_CHECKING:
    from riebench.sae import TopKSAE

RUNS: tuple[RunName, ...] = ("base", "source")
Seed = Annotated[int, Field(ge=0, description="Of the random directions, which are the same for every pair.")]


@method("sae-random", needs_sae=True, takes_transcoders=True)
class UntrainedSAETransfer(SAETransfer):
    """As ``sae``, with TopK SAEs of the same sizes whose directions are random, the encoder tied, without biases.

    Their k is that of the trained SAE; where it has none, the mean number of its features that are active at a position
    of the pair's two runs.
    """

    sae_seed: Seed = 0

    def plan(self, seen: Observed) -> Plan:
        untrained = {site: self.untrained(seen, site) for site in seen.sites}
        return SAETransfer.plan(self, replace(seen, saes=untrained))

    def untrained(self, seen: Observed, site: str) -> TopKSAE:
        """The untrained SAE of a site; its directions are the same for all pairs."""
        from riebench.sae.baselines import random_dictionary

        sae, seed = seen.saes[site], zlib.crc32(f"{self.sae_seed} {site}".encode())
        k = sae.k or active_features(seen, site)
        return seen.once(
            ("untrained", sae, seed, k),
            lambda: random_dictionary(sae.d_model, sae.n_features, k, seed).to(sae.device),
            for_all_pairs=True,
        )


def active_features(seen: Observed, site: str) -> int:
    """The mean number of features that are active at a position of the base and the source run, rounded; at least 1."""
    active = [(seen.codes(run, site) > 0).sum(-1).float().mean() for run in RUNS]
    return max(1, round(float(sum(active) / len(active))))
