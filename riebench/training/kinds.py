"""The other kinds of SAEs under training, each as its paper trains it, with decoder rows of norm 1."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from riebench.sae.identities import Parts, State, gated
from riebench.sae.linear import JumpReLU
from riebench.training.learner import Learner, Start, StepResult, Terms, TopKLearner, squares
from riebench.training.training_plan import GridPoint, SAESettings, penalty_of

FOLLOWED = 0.01
"""Share of the newest batch in the running mean of the least kept value."""
STEERED, FASTEST, AHEAD, NEWEST = 0.02, 0.005, 100, 0.1
"""Steering of a penalty: how much its logarithm changes in a step for each unit of the logarithm of L0 over k that is
expected so many steps ahead, and at most; and the share of the newest step in the trend of that logarithm."""
STARTS = {"l1": 0.3, "l0": 0.005}
"""Weights of penalties from which steering begins."""


class Codes(NamedTuple):
    """The codes of a batch in training.

    Attributes:
        codes: ``[batch, n]``.
        penalty: before its weight; None for a kind without one.
        more: what is minimised beside the errors of the reconstruction.
    """

    codes: Tensor
    penalty: Tensor | None
    more: Tensor


class DenseLearner(Learner):
    """A kind whose codes are dense in training, and whose gradient is torch's."""

    @abstractmethod
    def _codes(self, x: Tensor, warmth: float) -> Codes:
        """The codes of vectors ``[batch, d]``, and what is minimised beside the errors of their reconstruction."""

    def _gradients(self, x: Tensor, dead: Tensor, warmth: float) -> Terms:
        codes, penalty, more = self._codes(x, warmth)
        residual, total, first = x - self.pre_bias, more, 0
        for end in self._ends():
            residual = residual - codes[:, first:end] @ self.W_dec[first:end]
            total, first = total + residual.square().mean() / self.variance, end
        total.backward()
        residual, on = residual.detach(), codes.detach() > 0
        error = squares(residual)
        auxiliary = self._auxiliary(x, residual, dead) if penalty is None else penalty.detach()
        explained = 1 - error / squares(x - x.mean(0))
        return Terms(error / residual.numel() / self.variance, auxiliary, explained, on.sum(), on.any(0))

    def _ends(self) -> list[int]:
        """Numbers of features, the last all, of which each reconstructs the vectors alone."""
        return [len(self.W_dec)]


class PenalisedLearner(DenseLearner):
    """A kind with a penalty that makes its codes sparse.

    As in the papers it sees vectors whose mean squared distance from their mean is 1, so that weights of penalties,
    thresholds and learning rates mean the same at every site; the saved SAE is of the vectors as they are.

    Without a weight, it is steered so that the mean number of active features becomes k, see :data:`STEERED`. This
    number follows a weight late and features that died seldom return, so the weight looks ahead.

    Attributes:
        unit: root mean squared distance of the vectors from their mean, by which they are divided.
        weight: of the penalty.
        ratio: logarithm of L0 over k in the last step; not a number before the first.
        trend: running mean of its change in a step.
    """

    counts = ("silent", "weight", "ratio", "trend")

    def __init__(
        self, points: list[GridPoint], d_model: int, start: Start, settings: SAESettings, device: torch.device
    ) -> None:
        name = penalty_of(points[0].kind)
        given = getattr(points[0], name)
        start_weight = STARTS[name] if given is None else given
        self.weight, self.ratio, self.trend = torch.tensor([start_weight, torch.nan, 0.0], device=device)
        self.unit = float((d_model * start.variance).sqrt())
        scaled = Start(start.median / self.unit, start.variance / self.unit**2)
        super().__init__(points, d_model, scaled, settings, device)

    def step(self, x: Tensor, lr: float, warmth: float = 1.0) -> StepResult:
        """One step on vectors ``[batch, d]``, with a learning rate and the share of the weight of its penalty."""
        return super().step(x / self.unit, lr, warmth)

    def found(self) -> dict[str, float]:
        """The weight of the penalty as it is now, where it is steered."""
        return {} if self.points[0].k is None else {penalty_of(self.points[0].kind): self.weight.item()}

    def _gradients(self, x: Tensor, dead: Tensor, warmth: float) -> Terms:
        terms = super()._gradients(x, dead, warmth)
        if (k := self.points[0].k) is not None:
            self._steer((terms.active.clamp(min=1) / len(x) / k).log())
        return terms

    def _steer(self, ratio: Tensor) -> None:
        self.trend = torch.lerp(self.trend, (ratio - self.ratio).nan_to_num(0), NEWEST)
        change = STEERED * (ratio + AHEAD * self.trend)
        self.weight, self.ratio = self.weight * change.clamp(-FASTEST, FASTEST).exp(), ratio

    def _projected(self, x: Tensor) -> Tensor:
        """``W_enc (x - pre_bias)`` ``[batch, n]``."""
        return (x - self.pre_bias) @ self.W_enc.T

    def _parts(self, state: State) -> Parts:
        return self._own_parts(state | {name: state[name] * self.unit for name in ("pre_bias", "latent_bias")})

    @abstractmethod
    def _own_parts(self, state: State) -> Parts:
        """As :meth:`_parts`, with the biases of ``state`` those of the vectors as they are."""


class ReLULearner(PenalisedLearner):
    """``relu(pre)`` with a penalty on the sum of the codes (Bricken et al., 2023).

    Rows of the decoder have norm 1, so that the penalty cannot be evaded by small codes of long directions.
    """

    def _codes(self, x: Tensor, warmth: float) -> Codes:
        codes = (self._projected(x) + self.latent_bias).relu()
        penalty = codes.sum(1).mean()
        return Codes(codes, penalty, warmth * self.weight * penalty)

    def _own_parts(self, state: State) -> Parts:
        return Parts(state, JumpReLU(torch.zeros(len(self.silent))))


class GatedLearner(PenalisedLearner):
    """Gates say which features are active, magnitudes how much; both share their directions (arXiv 2404.16014).

    The penalty is on the gates, which also reconstruct the vectors alone, by a decoder that this does not train.

    Attributes:
        gate_bias: ``[n]``.
        log_scale: ``[n]``, of the magnitudes' encoder over that of the gates.
    """

    own = ("gate_bias", "log_scale")

    def _add_own(self, n_features: int, device: torch.device) -> None:
        self.gate_bias = nn.Parameter(torch.zeros(n_features, device=device))
        self.log_scale = nn.Parameter(torch.zeros(n_features, device=device))

    def _codes(self, x: Tensor, warmth: float) -> Codes:
        projected = self._projected(x)
        gates = projected + self.gate_bias
        codes = (projected * self.log_scale.exp() + self.latent_bias).relu() * (gates > 0)
        gates = gates.relu()
        by_gates = x - gates @ self.W_dec.detach() - self.pre_bias.detach()
        penalty = gates.sum(1).mean()
        return Codes(codes, penalty, warmth * self.weight * penalty + by_gates.square().mean() / self.variance)

    def _own_parts(self, state: State) -> Parts:
        return gated(state, self.gate_bias.detach().cpu() * self.unit, self.log_scale.detach().cpu())


class JumpReLULearner(PenalisedLearner):
    """``relu(pre)`` above a learnt threshold, with a penalty on the number of active features (arXiv 2407.14435).

    Attributes:
        threshold: ``[n]``, kept at 0 or above.
    """

    own = ("threshold",)

    def _add_own(self, n_features: int, device: torch.device) -> None:
        self.threshold = nn.Parameter(torch.full((n_features,), self.settings.threshold, device=device))

    def _codes(self, x: Tensor, warmth: float) -> Codes:
        pre = (self._projected(x) + self.latent_bias).relu()
        penalty = Step.apply(pre, self.threshold, self.settings.bandwidth).sum(1).mean()
        codes = Jump.apply(pre, self.threshold, self.settings.bandwidth)
        return Codes(codes, penalty, warmth * self.weight * penalty)

    @torch.no_grad()
    def _update(self, lr: float) -> None:
        super()._update(lr)
        self.threshold.clamp_(min=0)

    def _own_parts(self, state: State) -> Parts:
        return Parts(state, JumpReLU(self.threshold.detach().cpu() * self.unit), "jumprelu")


class Jump(torch.autograd.Function):
    """``apply(pre, threshold, width)``: ``pre [batch, n]`` where it is above ``threshold [n]``, else 0.

    The derivative by the threshold is that of the straight-through estimator with a rectangle of this width.
    """

    @staticmethod
    def forward(context: Any, pre: Tensor, threshold: Tensor, width: float) -> Tensor:
        context.save_for_backward(pre, threshold)
        context.width = width
        return pre * (pre > threshold)

    @staticmethod
    @once_differentiable
    def backward(context: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pre, threshold = context.saved_tensors
        of_threshold = -threshold / context.width * (grad * within(pre, threshold, context.width)).sum(0)
        return grad * (pre > threshold), of_threshold, None


class Step(torch.autograd.Function):
    """``apply(pre, threshold, width)``: 1 where ``pre`` is above the threshold, else 0; derivatives as :class:`Jump`.

    By the pre-activations it is 0.
    """

    @staticmethod
    def forward(context: Any, pre: Tensor, threshold: Tensor, width: float) -> Tensor:
        context.save_for_backward(pre, threshold)
        context.width = width
        return (pre > threshold).to(pre)

    @staticmethod
    @once_differentiable
    def backward(context: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pre, threshold = context.saved_tensors
        return None, -(grad * within(pre, threshold, context.width)).sum(0) / context.width, None


def within(pre: Tensor, threshold: Tensor, width: float) -> Tensor:
    """Whether each pre-activation ``[batch, n]`` is less than half a width away from its threshold ``[n]``."""
    return (pre - threshold).abs() < width / 2


class BatchTopKLearner(DenseLearner):
    """The ``k * batch`` largest codes of a batch are kept (arXiv 2412.06410).

    With prefixes it is a Matryoshka SAE (arXiv 2503.17547): the first features alone, for each prefix, reconstruct the
    vectors as well, and the errors of all are summed. Used on single vectors, it is a JumpReLU SAE whose threshold is a
    running mean of the least kept code.

    Attributes:
        ends: of the prefixes, in features; the last is all.
        least: running mean of the least kept code; below 0 before the first step.
    """

    counts = ("silent", "least")

    def _add_own(self, n_features: int, device: torch.device) -> None:
        shares = self.settings.prefixes if self.points[0].kind == "matryoshka" else ()
        self.ends = sorted({max(1, round(share * n_features)) for share in shares} | {n_features})
        self.least = torch.tensor(-1.0, device=device)

    def _codes(self, x: Tensor, warmth: float) -> Codes:
        assert self.points[0].k is not None
        pre = ((x - self.pre_bias) @ self.W_enc.T + self.latent_bias).relu()
        codes, least = largest(pre, self.points[0].k * len(x))
        self._follow(least)
        return Codes(codes, None, x.new_zeros(()))

    def _ends(self) -> list[int]:
        return self.ends

    @torch.no_grad()
    def _follow(self, least: Tensor) -> None:
        moved = self.least + FOLLOWED * (least - self.least)
        self.least = torch.where(self.least < 0, least, moved)

    def _parts(self, state: State) -> Parts:
        threshold = self.least.clamp(min=0).cpu().expand(len(self.silent)).clone()
        return Parts(state, JumpReLU(threshold), self.points[0].kind)


def largest(pre: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest of non-negative pre-activations ``[batch, n]``, 0 elsewhere, and the least above 0 of them.

    The least is 0 where none is above 0.
    """
    values, indices = pre.flatten().topk(count, sorted=False)
    codes = torch.zeros_like(pre).flatten().scatter(0, indices, values).view_as(pre)
    above = values.detach()[values.detach() > 0]
    return codes, above.min() if len(above) else above.new_zeros(())


LEARNERS: dict[str, type[Learner]] = {
    "topk": TopKLearner,
    "batchtopk": BatchTopKLearner,
    "matryoshka": BatchTopKLearner,
    "jumprelu": JumpReLULearner,
    "relu": ReLULearner,
    "gated": GatedLearner,
}


def learner_of(
    points: list[GridPoint], d_model: int, start: Start, settings: SAESettings, device: torch.device
) -> Learner:
    """The learner for points of one kind; the arguments are those of :class:`Learner`."""
    return LEARNERS[points[0].kind](points, d_model, start, settings, device)
