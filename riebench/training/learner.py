"""One SAE under training: what the kinds have in common, and TopK, whose gradient goes through k features alone."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from riebench.sae.identities import SILENT, Parts, State, assembled, state_of
from riebench.sae.linear import LinearSAE, TopK
from riebench.sae.sparse import active, best_features, weighted_rows, weighted_rows_transposed
from riebench.training.training_plan import GridPoint, SAESettings

IN_CACHE = 256
"""Rows of a matrix that are worked on at a time where their products need not leave the processor's cache."""


class Start(NamedTuple):
    """The start of all SAEs of a site.

    Attributes:
        median: geometric median ``[d]`` of a sample of the vectors.
        variance: of a sample of the vectors, mean over dimensions.
    """

    median: Tensor
    variance: Tensor


class StepResult(NamedTuple):
    """The measures of a step, taken before it changed the weights; tensors without dimensions.

    Attributes:
        loss: mean squared error over the variance of the data.
        auxiliary: the auxiliary loss, 0 without dead features; of a kind with a penalty the penalty before its weight.
        explained: explained variance of the batch.
        l0: mean number of active features.
        dead: share of dead features.
    """

    loss: Tensor
    auxiliary: Tensor
    explained: Tensor
    l0: Tensor
    dead: Tensor


class Terms(NamedTuple):
    """What a kind's forward pass gives for a batch, without gradients.

    Attributes:
        loss: mean squared error over the variance of the data.
        auxiliary: as in :class:`StepResult`.
        explained: explained variance.
        active: number of active features, summed over the batch.
        fired: ``[n]``, whether each feature was active.
    """

    loss: Tensor
    auxiliary: Tensor
    explained: Tensor
    active: Tensor
    fired: Tensor


class Learner(ABC):
    """An SAE with its optimiser; a subclass is a kind.

    Two SAEs that differ in the auxiliary loss alone are the same until a feature has died; until then one learner
    trains both.

    Args:
        points: the SAEs that it trains.
        d_model: width d of the vectors.
        start: of the site.
        settings: of the training.
        device: where it is trained.

    Attributes:
        points: the SAEs that it trains.
        own: names of the trained tensors that the kind has beside the usual ones.
        counts: names of the tensors that it keeps and does not train.
        W_enc: ``[n, d]``.
        W_dec: ``[n, d]``, rows of norm 1.
        pre_bias: ``[d]``.
        latent_bias: ``[n]``.
        silent: ``[n]``, vectors since each feature was active.
        variance: of the vectors, mean over dimensions.
    """

    own: ClassVar[tuple[str, ...]] = ()
    counts: ClassVar[tuple[str, ...]] = ("silent",)

    def __init__(
        self, points: list[GridPoint], d_model: int, start: Start, settings: SAESettings, device: torch.device
    ) -> None:
        first = points[0]
        n_features = first.expansion * d_model
        generator = torch.Generator().manual_seed(first.seed)
        directions = normalize(torch.randn(n_features, d_model, generator=generator), dim=1).to(device)
        self.points, self.settings, self.variance = points, settings, start.variance.to(device)
        self.W_enc, self.W_dec = nn.Parameter(directions.clone()), nn.Parameter(directions)
        self.pre_bias = nn.Parameter(start.median.to(device, copy=True))
        self.latent_bias = nn.Parameter(torch.zeros(n_features, device=device))
        self.silent = torch.zeros(n_features, dtype=torch.long, device=device)
        self._add_own(n_features, device)
        self.optimizer = self._adam()

    def _add_own(self, n_features: int, device: torch.device) -> None:
        """Set the tensors of :attr:`own` and :attr:`counts`."""
        del n_features, device

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained tensors by name."""
        return {name: getattr(self, name) for name in ("W_enc", "W_dec", "pre_bias", "latent_bias", *self.own)}

    def _adam(self) -> torch.optim.Adam:
        # Fused: one pass over the memory, which is what bounds this step.
        return torch.optim.Adam(self.parameters.values(), lr=self.settings.lr, eps=self.settings.eps, fused=True)

    def fork(self) -> Learner | None:
        """A learner for the points without the auxiliary loss, once that makes a difference; None before."""
        off = [point for point in self.points if not point.aux]
        if not 0 < len(off) < len(self.points) or not bool(self._dead().any()):
            return None
        other = copy.copy(self)
        for name, value in self.parameters.items():
            setattr(other, name, nn.Parameter(value.detach().clone()))
        for name in self.counts:
            setattr(other, name, getattr(self, name).clone())
        other.optimizer = other._adam()
        other.optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        other.points, self.points = off, [point for point in self.points if point.aux]
        return other

    def step(self, x: Tensor, lr: float, warmth: float = 1.0) -> StepResult:
        """One step on vectors ``[batch, d]``, with a learning rate and the share of a penalty's weight that counts."""
        dead = self._dead()
        self.optimizer.zero_grad()
        terms = self._gradients(x, dead, warmth)
        self._update(lr)
        self.silent = torch.where(terms.fired, 0, self.silent + len(x))
        return StepResult(terms.loss, terms.auxiliary, terms.explained, terms.active / len(x), dead.float().mean())

    @abstractmethod
    def _gradients(self, x: Tensor, dead: Tensor, warmth: float) -> Terms:
        """Set the gradients of the parameters for vectors ``[batch, d]``; ``dead [n]`` says which features are."""

    def _auxiliary(self, x: Tensor, residual: Tensor, dead: Tensor) -> Tensor:
        """The auxiliary loss of dead features, whose gradient is added, weighted; 0 where there is none."""
        if not (self.points[0].aux and bool(dead.any())):
            return x.new_zeros(())
        chosen = dead.nonzero().squeeze(1)
        pre = (x - self.pre_bias) @ self.W_enc[chosen].T + self.latent_bias[chosen]
        auxiliary = auxiliary_loss(pre, self.W_dec[chosen], residual.detach(), self.settings.auxk)
        (self.settings.aux_weight * auxiliary).backward()
        return auxiliary.detach()

    @torch.no_grad()
    def _update(self, lr: float) -> None:
        assert self.W_dec.grad is not None
        constrain_gradient(self.W_dec, self.W_dec.grad)
        if self.points[0].frozen:
            self.W_dec.grad.zero_()  # Adam leaves alone what never had a gradient
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        # After the step, so that what is saved has norm 1.
        self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True))

    def _dead(self) -> Tensor:
        return self.silent > self.settings.dead_after

    def sae(self) -> LinearSAE:
        """The SAE as it is now, on the CPU; the silent time of its features in steps, as in the published files."""
        state = state_of(self.W_enc, self.W_dec, self.latent_bias, self.pre_bias)
        silent = {SILENT: self.silent // self.settings.batch}
        return assembled(self._parts({name: value.detach().cpu() for name, value in (state | silent).items()}))

    @abstractmethod
    def _parts(self, state: State) -> Parts:
        """The parts of the SAE as it is used; ``state`` is all but what the kind has of its own."""

    def found(self) -> dict[str, float]:
        """What the training found and the configuration of the SAE states."""
        return {}

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs."""
        return {
            "points": [point.model_dump() for point in self.points],
            "parameters": {name: value.detach() for name, value in self.parameters.items()},
            **{name: getattr(self, name) for name in self.counts},
            "optimizer": self.optimizer.state_dict(),
        }

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self.points = [GridPoint(**point) for point in state["points"]]
        for name, value in state["parameters"].items():
            getattr(self, name).copy_(value)
        for name in self.counts:
            getattr(self, name).copy_(state[name])
        self.optimizer.load_state_dict(state["optimizer"])


class TopKLearner(Learner):
    """``relu(topk(pre, k))`` (Gao et al., 2024; arXiv 2410.22366)."""

    @torch.no_grad()
    def _gradients(self, x: Tensor, dead: Tensor, warmth: float) -> Terms:
        k = self.points[0].k
        assert k is not None
        centred = x - self.pre_bias
        values, features = best_features(centred, self.W_enc, self.latent_bias, k)
        where, on = active(features, len(self.W_enc)), values > 0
        with torch.enable_grad():  # for the embedding bag's own derivative by its weights
            weights = values.relu().requires_grad_()
            rebuilt = weighted_rows(where, weights, self.W_dec.detach())
        residual = torch.sub(centred, rebuilt.detach(), out=rebuilt.detach())  # in place: large memory is slow
        # Derivatives of the mean squared error over the variance; few passes over [batch, d], which take time.
        scale = -2 / (residual.numel() * self.variance)
        of_pre = torch.autograd.grad(rebuilt, weights, residual)[0] * on * scale
        self.W_dec.grad = weighted_rows_transposed(where, weights.detach() * scale, residual)
        self.W_enc.grad = weighted_rows_transposed(where, of_pre, centred)
        self.latent_bias.grad = weighted_rows_transposed(where, of_pre, x.new_ones(len(x), 1)).squeeze(1)
        self.pre_bias.grad = residual.sum(0) * scale - self.latent_bias.grad @ self.W_enc
        error, mean = squares(residual), centred.mean(0)
        with torch.enable_grad():
            auxiliary = self._auxiliary(x, residual, dead)
        explained = 1 - error / (squares(centred) - len(x) * squares(mean))
        # Counted without weights: with these torch refuses on a GPU in its deterministic mode. n stands for no feature.
        n_features = len(self.silent)
        fired = features.masked_fill(~on, n_features).flatten().bincount(minlength=n_features + 1)[:-1] > 0
        return Terms(error / residual.numel() / self.variance, auxiliary, explained, on.sum(), fired)

    def _parts(self, state: State) -> Parts:
        assert self.points[0].k is not None
        return Parts(state, TopK(self.points[0].k))


def squares(x: Tensor) -> Tensor:
    """The sum of the squares of all numbers."""
    return x.flatten().dot(x.flatten())


def auxiliary_loss(pre: Tensor, W_dec: Tensor, residual: Tensor, auxk: int) -> Tensor:
    """Squared error of the residual ``[batch, d]`` rebuilt from the top dead features, over its variance.

    Args:
        pre: pre-activations of the dead features ``[batch, dead]``.
        W_dec: their directions ``[dead, d]``.
        residual: values less their reconstruction from the active features.
        auxk: how many rebuild it, at most.

    Returns:
        The loss; 0 where the ratio is no number, as published.
    """
    values, indices = pre.topk(min(auxk, pre.shape[1]), dim=1)
    codes = torch.zeros_like(pre).scatter(1, indices, values.relu())
    error = (codes @ W_dec - residual).square().mean()
    return (error / (residual - residual.mean(0)).square().mean()).nan_to_num(0, posinf=0)


@torch.no_grad()
def constrain_gradient(W_dec: Tensor, gradient: Tensor) -> None:
    """Take from the gradient ``[n, d]`` its part along the rows of ``W_dec``, which renormalising would undo."""
    for rows, directions in zip(gradient.split(IN_CACHE), W_dec.split(IN_CACHE), strict=True):
        rows.addcmul_((rows * directions).sum(1, keepdim=True), directions, value=-1)
