"""The normal of a linear probe that tells values with the concept from values without it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from riebench.methods import Observed, method

from .contrasted import ConceptMethod, Shown, at_masks

if TYPE_CHECKING:
    from torch import Tensor

Penalty = Annotated[float, Field(gt=0, description="On half the squared length of the normal, values scaled to 1.")]
ITERATIONS = 100


def logistic_normal(without: Tensor, having: Tensor, penalty: float) -> Tensor:
    """The unit normal ``[width]`` of logistic regression between two sets of values, each ``[n, width]``.

    The values are centred and divided by one number, their standard deviation over all coordinates. The loss is convex
    and is minimised by L-BFGS from zero, so that nothing is drawn at random.
    """
    import torch

    x, labels = (
        torch.cat([without, having]).double(),
        torch.cat([without.new_zeros(len(without)), having.new_ones(len(having))]),
    )
    x = (x - x.mean(0)) / x.std().clamp_min(1e-12)
    weights = torch.cat([1 / labels.new_full((len(side),), 2 * len(side)) for side in (without, having)]).double()
    with torch.enable_grad():
        normal = torch.zeros(x.shape[1] + 1, dtype=x.dtype, device=x.device, requires_grad=True)
        optimizer = torch.optim.LBFGS([normal], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            logits = x @ normal[:-1] + normal[-1]
            fit = torch.nn.functional.binary_cross_entropy_with_logits(
                logits, labels.double(), weights, reduction="sum"
            )
            total: Tensor = fit + penalty / 2 * (normal[:-1] ** 2).sum()
            total.backward()
            return total

        optimizer.step(loss)
    return torch.nn.functional.normalize(normal.detach()[:-1], dim=0).to(without.dtype)


@method("probe")
class LinearProbe(ConceptMethod):
    """Adds the normal of logistic regression on positions inside the masks, as long as the means differ along it."""

    penalty: Penalty = 0.01
    name = "probe"

    def learn(self, seen: Observed, shown: Sequence[Shown]) -> dict[str, Tensor]:
        learnt = {}
        for site in seen.sites:
            without, having = at_masks(shown, site)
            normal = logistic_normal(without, having, self.penalty)
            along = (having.mean(0) - without.mean(0)) @ normal
            learnt[f"direction@{site}"] = (along * normal).expand(len(seen.base[site]), -1)
        return learnt
