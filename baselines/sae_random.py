"""SAE feature transfer with an untrained SAE: what is owed to the transfer, and not to the features."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from riebench.methods import Observed, Plan, method

from .sae import SAETransfer

if TYPE_CHECKING:
    from riebench.sae import TopKSAE

Seed = Annotated[int, Field(ge=0, description="Of the random directions, which are the same for every pair.")]


@method("sae-random", needs_sae=True)
class UntrainedSAETransfer(SAETransfer):
    """As ``sae``, with SAEs of the same sizes and k whose directions are random, the encoder tied, without biases."""

    sae_seed: Seed = 0

    def plan(self, seen: Observed) -> Plan:
        untrained = {site: self.untrained(seen, site) for site in seen.sites}
        return SAETransfer.plan(self, replace(seen, saes=untrained))

    def untrained(self, seen: Observed, site: str) -> TopKSAE:
        """The untrained SAE of a site, drawn once for all pairs."""
        from riebench.sae.baselines import random_dictionary

        sae, seed = seen.saes[site], zlib.crc32(f"{self.sae_seed} {site}".encode())
        return seen.once(
            ("untrained", sae, seed),
            lambda: random_dictionary(sae.d_model, sae.n_features, sae.k, seed).to(sae.W_dec.device),
            for_all_pairs=True,
        )
