"""K-steering (arXiv 2505.24535): values follow the gradient of a small network that tells the concept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import Field

from riebench.methods import Change, Observed, method

from .contrasted import ConceptMethod, Seed, Shown, at_masks
from .loreft import Epochs, Rate, at_mask

if TYPE_CHECKING:
    from torch import Tensor

Hidden = Annotated[int, Field(gt=0, description="Neurons of the network's one hidden layer.")]


class Classifier(NamedTuple):
    """A network with one hidden layer of ReLUs, on values that are centred and divided by a scale.

    Attributes:
        centre: of the values, ``[width]``.
        scale: a number.
        first: weights of the hidden layer, ``[hidden, width]``.
        bias: of the hidden layer, ``[hidden]``.
        last: weights of the difference of the two logits, with the concept minus without it, ``[hidden]``.
        length: factor on the gradient.
    """

    centre: Tensor
    scale: Tensor
    first: Tensor
    bias: Tensor
    last: Tensor
    length: Tensor

    def gradient(self, values: Tensor) -> Tensor:
        """The gradient of the difference of the logits at values ``[positions, width]``, times ``length``."""
        hidden = (values - self.centre) / self.scale @ self.first.T + self.bias
        return ((hidden > 0) * self.last) @ self.first * self.length


def train_classifier(
    without: Tensor, having: Tensor, hidden: int, epochs: int, rate: float, seed: int
) -> tuple[Classifier, list[float]]:
    """A network that tells values with the concept from those without it, each ``[n, width]``; the loss of each epoch.

    ``length`` is such that the gradient is as long at the values without the concept, in the mean, as the difference of
    the two sets' means.
    """
    import torch

    x, labels = torch.cat([without, having]), torch.cat([without.new_zeros(len(without)), having.new_ones(len(having))])
    centre, scale = x.mean(0), x.std().clamp_min(1e-12)
    weights = torch.cat([1 / labels.new_full((len(side),), 2 * len(side)) for side in (without, having)])
    generator, losses = torch.Generator().manual_seed(seed), []
    starts = [torch.randn(hidden, x.shape[1], generator=generator) / x.shape[1] ** 0.5, torch.zeros(hidden)]
    starts += [torch.randn(hidden, generator=generator) / hidden**0.5, torch.zeros(())]
    with torch.enable_grad():
        first, bias, last, offset = (start.to(x).requires_grad_() for start in starts)
        optimizer = torch.optim.Adam([first, bias, last, offset], lr=rate)
        for _ in range(epochs):
            logits = torch.relu((x - centre) / scale @ first.T + bias) @ last + offset
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, weights, reduction="sum")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    made = Classifier(centre, scale, first.detach(), bias.detach(), last.detach(), torch.ones(()).to(x))
    wanted, now = (having.mean(0) - without.mean(0)).norm(), made.gradient(without).norm(dim=1).mean()
    return made._replace(length=wanted / now.clamp_min(1e-12)), losses


@method("k-steer")
class KSteering(ConceptMethod):
    """Adds the gradient of a network's logits, concept minus no concept, at the values that pass."""

    hidden: Hidden = 64
    epochs: Epochs = 100
    rate: Rate = 0.01
    seed: Seed = 0
    name = "k-steer"

    def learn(self, seen: Observed, shown: Sequence[Shown]) -> dict[str, Tensor]:
        import torch

        learnt: dict[str, Tensor] = {}
        ends: list[float] = []
        for site in seen.sites:
            made, losses = train_classifier(*at_masks(shown, site), self.hidden, self.epochs, self.rate, self.seed)
            learnt |= {f"{part}@{site}": tensor for part, tensor in made._asdict().items()}
            ends.append(losses[-1])
        return {**learnt, "loss": torch.tensor(sum(ends) / len(ends))}

    def change(self, seen: Observed, site: str, learnt: Mapping[str, Tensor]) -> Change:
        made = Classifier(*(learnt[f"{part}@{site}"] for part in Classifier._fields))
        return at_mask(made.gradient, None if self.everywhere else seen.base_masks[site])
