"""The SAE features whose mean codes differ most between pictures with a concept and without it, together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from riebench.methods import Observed, k_of_share, method
from riebench.methods.options import K

from .contrasted import ConceptMethod, Shown
from .sae import DEFAULT_SHARE
from .sae_feature import differences, largest

if TYPE_CHECKING:
    from torch import Tensor


@method("sae-sum", needs_sae=True, takes_transcoders=True)
class FeatureSum(ConceptMethod):
    """Adds the k features with the largest difference of mean codes at the masks, each by its difference."""

    k: K = None
    name = "sae-sum"

    def learn(self, seen: Observed, shown: Sequence[Shown]) -> dict[str, Tensor]:
        import torch

        by_site = differences(seen, shown)
        k = self.k or k_of_share(DEFAULT_SHARE, sum(map(len, by_site.values())))
        directions = {site: seen.base[site].new_zeros(seen.base[site].shape[::2]) for site in seen.sites}
        for (site, index), difference in largest(by_site, k):
            directions[site] += difference * seen.saes[site].W_dec[index]
        return {"k": torch.tensor(k), **{f"direction@{site}": direction for site, direction in directions.items()}}

    def notes(self, seen: Observed, learnt: Mapping[str, Tensor]) -> dict[str, float | int | str]:
        return {name: int(learnt[name]) for name in ("contrasts", "k")}
