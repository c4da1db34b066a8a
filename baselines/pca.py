"""The first principal component of the differences that contrasts show (arXiv 2310.01405)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from riebench.methods import Observed, method

from .contrasted import ConceptMethod, Shown, mean_differences

if TYPE_CHECKING:
    from torch import Tensor


def first_component(differences: Tensor) -> Tensor:
    """The first right singular vector of rows ``[n, width]``, times the mean of their components along it.

    The rows are not centred, because their mean is what is looked for. The sign of the vector does not matter.
    """
    import torch

    vector = torch.linalg.svd(differences.double(), full_matrices=False).Vh[0]
    return ((differences.double() @ vector).mean() * vector).to(differences.dtype)


@method("pca")
class PrincipalComponent(ConceptMethod):
    """Adds the first component of the contrasts' differences of mean values at the masks."""

    name = "pca"

    def learn(self, seen: Observed, shown: Sequence[Shown]) -> dict[str, Tensor]:
        import torch

        return {
            f"direction@{site}": torch.stack(
                [first_component(step) for step in mean_differences(shown, site).unbind(1)]
            )
            for site in seen.sites
        }
