"""SAEs as detectors alone (arXiv 2606.31699): where a feature finds the thing, values of another run replace it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from riebench.methods import Change, Observed, Plan, method
from riebench.util.errors import PairError

from .contrasted import ConceptMethod, Shown

if TYPE_CHECKING:
    from torch import Tensor

Donors = Annotated[int, Field(gt=0, description="Contrasts whose run with the concept may give the values.")]


def best_finder(codes: Tensor, inside: Tensor) -> tuple[int, float]:
    """The feature that is active inside and silent outside, and its share inside minus that outside.

    Args:
        codes: ``[n, features]`` at n positions.
        inside: boolean ``[n]``: the positions of the thing. If it is everywhere, the share inside alone counts.
    """
    active = (codes > 0).float()
    informed = active[inside].mean(0) - (active[~inside].mean(0) if (~inside).any() else 0)
    index = int(informed.argmax())
    return index, informed[index].item()


def box_of(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """First row, first column, rows and columns ``[4]`` of the box around a mask ``[positions]``, never empty."""
    import torch

    rows, columns = torch.nonzero(mask.view(grid), as_tuple=True)
    return torch.stack([rows.min(), columns.min(), rows.max() - rows.min() + 1, columns.max() - columns.min() + 1])


def partners(box: Tensor, other: Tensor, grid: tuple[int, int]) -> Tensor:
    """The position at the same place of another box, for each position of a grid, ``[positions]``."""
    import torch

    lines = []
    for axis in (0, 1):
        at = torch.arange(grid[axis], device=box.device)
        place = (at - box[axis] + 0.5) / box[axis + 2] * other[axis + 2] + other[axis]
        lines.append(place.floor().long().clamp(0, grid[axis] - 1))
    return (lines[0][:, None] * grid[1] + lines[1][None]).flatten()


def grid_of(positions: int, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a grid with so many positions on a picture of a height and a width."""
    rows = round((positions * size[0] / size[1]) ** 0.5)
    return rows, positions // rows


@method("per", needs_sae=True, takes_transcoders=True)
class Replacement(ConceptMethod):
    """Where a feature finds the thing, values become those of a contrast's run with the concept, box on box.

    The run is the one whose thing was most like the pair's before the concept was added.
    """

    donors: Donors = 4
    name = "per"

    def learn(self, seen: Observed, shown: Sequence[Shown]) -> dict[str, Tensor]:
        import torch

        learnt: dict[str, Tensor] = {}
        informed: list[float] = []
        for site in seen.sites:
            sae = seen.saes[site]
            codes = torch.cat([sae.encode(one.without[seen.read_site(site)]).mean(0) for one in shown])
            inside = torch.cat([one.without_masks[site] for one in shown])
            index, score = best_finder(codes, inside)
            grid = grid_of(len(shown[0].without_masks[site]), seen.pictures["base"].shape[:2])
            few = shown[: self.donors]
            informed.append(score)
            learnt |= {
                f"finder@{site}": torch.tensor(index),
                f"values@{site}": torch.stack([one.having[site] for one in few]),
                f"box@{site}": torch.stack([box_of(one.having_masks[site], grid) for one in few]),
                f"before@{site}": torch.stack([one.without[site][:, one.without_masks[site]].mean(1) for one in few]),
            }
        return {**learnt, "informedness": torch.tensor(sum(informed) / len(informed))}

    def change(self, seen: Observed, site: str, learnt: Mapping[str, Tensor]) -> Change | None:
        thing = (seen.codes("base", site)[..., int(learnt[f"finder@{site}"])] > 0).any(0)
        if not thing.any():
            return None
        likeness = (learnt[f"before@{site}"] - seen.base[site][:, thing].mean(1)).norm(dim=-1).sum(1)
        donor, grid = int(likeness.argmin()), grid_of(len(thing), seen.pictures["base"].shape[:2])
        places = partners(box_of(thing, grid), learnt[f"box@{site}"][donor], grid)
        return replaced(learnt[f"values@{site}"][donor][:, places], thing)

    def plan(self, seen: Observed) -> Plan:
        plan = super().plan(seen)
        if not plan.changes:
            raise PairError("no feature finds the thing in the base run", "method")
        return plan


def replaced(values: Tensor, thing: Tensor) -> Callable[[Tensor, int], Tensor]:
    """The change that makes the values at a mask those of ``values`` ``[steps, positions, width]``."""

    def change(now: Tensor, step: int) -> Tensor:
        return (values[step] - now) * thing[:, None]

    return change
