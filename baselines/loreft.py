"""Low-rank representation finetuning (LoReFT, arXiv 2404.03592), trained on contrasts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import Field

from riebench.methods import Change, Observed, method

from .contrasted import ConceptMethod, Seed, Shown

if TYPE_CHECKING:
    from torch import Tensor

Rank = Annotated[int, Field(gt=0, description="Dimensions of the subspace in which values are changed.")]
Epochs = Annotated[int, Field(gt=0, description="Steps of Adam, each over all contrasts.")]
Rate = Annotated[float, Field(gt=0, description="Learning rate of Adam, on values scaled to 1.")]


class Map(NamedTuple):
    """``h + R^T (W h + b - R h)`` on values that are divided by a scale; R has orthonormal rows.

    Attributes:
        rows: R, ``[rank, width]``.
        weight: W, ``[rank, width]``.
        bias: b, ``[rank]``.
        scale: a number.
    """

    rows: Tensor
    weight: Tensor
    bias: Tensor
    scale: Tensor

    def change(self, values: Tensor) -> Tensor:
        """What the map adds to values ``[positions, width]``."""
        x = values / self.scale
        return (x @ (self.weight - self.rows).T + self.bias) @ self.rows * self.scale


def train_map(
    without: Tensor, having: Tensor, rank: int, epochs: int, rate: float, seed: int
) -> tuple[Map, list[float]]:
    """A map that predicts values with the concept from those without it at the same place, and the loss of each epoch.

    The loss is the mean squared error over the variance of the differences: 1 is what adding their mean leaves.

    Args:
        without: values ``[n, width]``.
        having: the values of the same places in the runs with the concept.
        rank: of the map; the width at most.
        epochs: steps of Adam.
        rate: its learning rate.
        seed: of the first subspace.
    """
    import torch

    width, scale = without.shape[1], torch.cat([without, having]).std().clamp_min(1e-12)
    generator = torch.Generator().manual_seed(seed)
    first = torch.linalg.qr(torch.randn(width, min(rank, width), generator=generator)).Q.to(without)
    x, y = without / scale, having / scale
    spread = (y - x).var(0, unbiased=False).mean().clamp_min(1e-12)
    losses = []
    with torch.enable_grad():
        columns = first.clone().requires_grad_()
        weight = first.T.clone().requires_grad_()
        bias = without.new_zeros(len(weight)).requires_grad_()
        optimizer = torch.optim.Adam([columns, weight, bias], lr=rate)
        for _ in range(epochs):
            rows = torch.linalg.qr(columns).Q.T
            loss = ((x + (x @ (weight - rows).T + bias) @ rows - y) ** 2).mean() / spread
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    rows = torch.linalg.qr(columns.detach()).Q.T.contiguous()
    return Map(rows, weight.detach(), bias.detach(), scale), losses


def same_places(shown: Sequence[Shown], site: str) -> tuple[Tensor, Tensor]:
    """The values without and with the concept at the same positions, those of either mask, each ``[n, width]``."""
    import torch

    masks = [one.without_masks[site] | one.having_masks[site] for one in shown]
    without = [one.without[site][:, mask].flatten(0, 1) for one, mask in zip(shown, masks, strict=True)]
    having = [one.having[site][:, mask].flatten(0, 1) for one, mask in zip(shown, masks, strict=True)]
    return torch.cat(without).clone(), torch.cat(having).clone()


@method("loreft")
class LowRankMap(ConceptMethod):
    """Changes values by a low-rank affine map, trained to make them what they are in runs with the concept."""

    rank: Rank = 4
    epochs: Epochs = 200
    rate: Rate = 0.02
    seed: Seed = 0
    name = "loreft"

    def learn(self, seen: Observed, shown: Sequence[Shown]) -> dict[str, Tensor]:
        import torch

        learnt: dict[str, Tensor] = {}
        ends: list[float] = []
        for site in seen.sites:
            made, losses = train_map(*same_places(shown, site), self.rank, self.epochs, self.rate, self.seed)
            learnt |= {f"{part}@{site}": tensor for part, tensor in made._asdict().items()}
            ends.append(losses[-1])
        return {**learnt, "loss": torch.tensor(sum(ends) / len(ends))}

    def change(self, seen: Observed, site: str, learnt: Mapping[str, Tensor]) -> Change:
        made = Map(*(learnt[f"{part}@{site}"] for part in Map._fields))
        return at_mask(made.change, None if self.everywhere else seen.base_masks[site])


def at_mask(change: Callable[[Tensor], Tensor], mask: Tensor | None) -> Callable[[Tensor, int], Tensor]:
    """A change of the values that pass, at the positions of a mask ``[positions]``, or at all."""

    def change_of(now: Tensor, step: int) -> Tensor:
        return change(now) if mask is None else change(now) * mask[:, None]

    return change_of
