"""One training step: formulas by hand, and against a dense computation written down independently."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from riebench.sae.sparse import GROUPS, ROWS, active, best_features, weighted_rows, weighted_rows_transposed
from riebench.sae.variance import explained_variance
from riebench.training.learner import Learner, Start, TopKLearner, auxiliary_loss, constrain_gradient
from riebench.training.one_pass import learners_of, learning_rate, step_all
from riebench.training.training_plan import GridPoint, SAESettings

D, BATCH, LR = 6, 64, 1e-2
CPU = torch.device("cpu")
SETTINGS = SAESettings(batch=BATCH, steps=10, dead_after=1000, auxk=3)


def point(aux: bool = True, k: int = 3) -> GridPoint:
    return GridPoint(site="mid.0", k=k, expansion=4, aux=aux, seed=0)


def learner(points: list[GridPoint] | None = None) -> Learner:
    generator = torch.Generator().manual_seed(5)
    start = Start(torch.randn(D, generator=generator), torch.tensor(2.0))
    made = TopKLearner(points or [point()], D, start, SETTINGS, CPU)
    with torch.no_grad():
        made.latent_bias.copy_(torch.randn(4 * D, generator=generator) / 10)
        made.W_enc.add_(torch.randn(4 * D, D, generator=generator) / 10)
    return made


def vectors(seed: int = 1) -> Tensor:
    return torch.randn(BATCH, D, generator=torch.Generator().manual_seed(seed)) * 3 + 1


def dense_step(made: Learner, x: Tensor, dead: Tensor) -> list[Tensor]:
    """The weights after one step: dense codes, autograd, and Adam's first step from its definition."""
    weights = [value.detach().clone().requires_grad_() for value in made.parameters.values()]
    W_enc, W_dec, pre_bias, latent_bias = weights
    pre = (x - pre_bias) @ W_enc.T + latent_bias
    least = pre.sort(dim=1, descending=True).values[:, [made.points[0].k - 1]]
    codes = torch.where(pre >= least, pre, 0).clamp(min=0)
    residual = x - codes @ W_dec - pre_bias
    loss = residual.square().mean() / made.variance
    if dead.any() and made.points[0].aux:
        kept = residual.detach()
        among = pre.masked_fill(~dead, -torch.inf)
        few = min(SETTINGS.auxk, int(dead.sum()))
        floor = among.sort(dim=1, descending=True).values[:, [few - 1]]
        rebuilt = torch.where(among >= floor, among, 0).clamp(min=0) @ W_dec
        scale = (kept - kept.mean(0)).square().mean()
        loss = loss + SETTINGS.aux_weight * (rebuilt - kept).square().mean() / scale
    gradients = list(torch.autograd.grad(loss, weights))
    gradients[1] = gradients[1] - (gradients[1] * W_dec).sum(1, keepdim=True) * W_dec
    after = [w.detach() - LR * g / (g.abs() + SETTINGS.eps) for w, g in zip(weights, gradients, strict=True)]
    after[1] = after[1] / after[1].norm(dim=1, keepdim=True)
    return [value.detach() for value in after]


@pytest.mark.parametrize(("silent", "aux"), [(0, True), (2, True), (5, True), (5, False)])
def test_a_step_is_that_of_the_dense_formulas(silent: int, aux: bool) -> None:
    made, x = learner([point(aux)]), vectors()
    made.silent[:silent] = SETTINGS.dead_after + 1
    expected = dense_step(made, x, made.silent > SETTINGS.dead_after)
    seen = made.step(x, LR)
    # Where a gradient is near zero, Adam's first step is its sign, which rounding may turn.
    for name, value, wanted in zip(made.parameters, made.parameters.values(), expected, strict=True):
        off = (value.detach() - wanted).abs() > 1e-4
        assert off.float().mean() < 0.02, name
    assert bool(seen.auxiliary > 0) == (silent > 0 and aux)


def test_gradients_are_those_of_the_dense_formulas() -> None:
    made, x = learner(), vectors()
    before = [value.detach().clone().requires_grad_() for value in made.parameters.values()]
    W_enc, W_dec, pre_bias, latent_bias = before
    values, indices = ((x - pre_bias) @ W_enc.T + latent_bias).topk(3, dim=1)
    codes = torch.zeros(BATCH, 4 * D).scatter(1, indices, values.relu())
    loss = (x - codes @ W_dec - pre_bias).square().mean() / made.variance
    wanted = list(torch.autograd.grad(loss, before))
    wanted[1] -= (wanted[1] * W_dec.detach()).sum(1, keepdim=True) * W_dec.detach()
    seen = made.step(x, LR)
    for name, value, gradient in zip(made.parameters, made.parameters.values(), wanted, strict=True):
        assert value.grad is not None
        assert torch.allclose(value.grad, gradient, atol=1e-6), name
    assert seen.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert (seen.l0.item(), seen.dead.item()) == (pytest.approx(float((codes > 0).sum() / BATCH)), 0)


def test_explained_variance_of_a_step_is_that_of_the_sae() -> None:
    made, x = learner(), vectors()
    before = made.sae()
    assert made.step(x, LR).explained.item() == pytest.approx(explained_variance(before, x), abs=1e-5)


@pytest.mark.parametrize(("n", "k"), [(96, 1), (96, 5), (96, 96), (35, 2), (4096, 3)])
def test_the_largest_of_each_row(n: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("riebench.sae.sparse.NUMBERS", 0)  # so that the rows come in two parts
    generator = torch.Generator().manual_seed(n + k)
    x, W_enc = (torch.randn(rows, 7, generator=generator) for rows in (ROWS + 3, n))
    bias = torch.randn(n, generator=generator)
    # All large ones of a row in one group of neighbours, and all in one group of those far apart.
    bias[: GROUPS[1]] += 3
    bias[5 :: max(1, n // GROUPS[1])] += 3
    values, features = best_features(x, W_enc, bias, k)
    pre = x @ W_enc.T + bias
    assert torch.allclose(values, pre.gather(1, features), atol=1e-5)
    assert torch.allclose(values.sort(dim=1, descending=True).values, pre.topk(k, dim=1).values, atol=1e-5)
    assert all(len(row.unique()) == k for row in features)


def test_products_with_few_codes() -> None:
    features, codes = torch.tensor([[2, 0], [2, 3], [1, 2]]), torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    dense = torch.zeros(3, 5).scatter(1, features, codes)
    where = active(features, 5)
    dictionary, rows = torch.arange(10.0).view(5, 2), torch.arange(6.0).view(3, 2)
    assert torch.equal(weighted_rows(where, codes, dictionary), dense @ dictionary)
    assert torch.equal(weighted_rows_transposed(where, codes, rows), dense.T @ rows)


def test_columns_have_norm_one_after_each_step() -> None:
    made = learner()
    for seed in range(3):
        made.step(vectors(seed), LR)
        assert torch.allclose(made.sae().decoder.weight.norm(dim=0), torch.ones(4 * D), atol=1e-6)


def test_gradient_is_orthogonal_to_the_rows() -> None:
    W_dec = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    gradient = torch.tensor([[2.0, 3.0], [5.0, 7.0], [1.0, 1.0]])
    constrain_gradient(W_dec, gradient)
    # What is along (1, 0), (0, 1) and (-1, 0) goes, the rest stays.
    assert gradient.tolist() == [[0, 3], [5, 0], [0, 1]]


def test_a_frozen_decoder_stays_as_it_started() -> None:
    made = learner([point().model_copy(update={"frozen": True})])
    before = {name: value.detach().clone() for name, value in made.parameters.items()}
    for _ in range(3):
        made.step(vectors(), 1e-2)
    moved = {name: not torch.allclose(value, before[name]) for name, value in made.parameters.items()}
    assert moved == {"W_enc": True, "W_dec": False, "pre_bias": True, "latent_bias": True}
    assert "_frozen" in made.points[0].name


def test_auxiliary_loss_by_hand() -> None:
    residual = torch.tensor([[0.0, 1.0], [0.0, 3.0]])
    # One dead feature with pre-activations 1.5 and 3.5 writes (0, 1): the residual is rebuilt as (0, 1.5) and
    # (0, 3.5), off by 0.5 in one of two numbers: 0.125. The residual's variance is (0 + 1) / 2 = 0.5.
    pre, direction = torch.tensor([[1.5], [3.5]]), torch.tensor([[0.0, 1.0]])
    assert auxiliary_loss(pre, direction, residual, 2).item() == pytest.approx(0.25)
    # Of two dead features the better one is taken; a negative one writes nothing.
    two = torch.tensor([[1.5, -9.0], [3.5, 0.1]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert auxiliary_loss(*two, residual, 1).item() == pytest.approx(0.25)
    assert auxiliary_loss(-pre, direction, residual, 1).item() == pytest.approx((1 + 9) / 4 / 0.5)
    assert auxiliary_loss(0 * pre, direction, torch.zeros(2, 2), 1) == 0  # no number: counted as 0


def test_a_feature_is_dead_after_vectors_without_it() -> None:
    made = learner()
    with torch.no_grad():
        made.latent_bias[7] = -1e6
    counts = [made.step(vectors(seed), 1e-9).dead.item() for seed in range(18)]
    # 16 steps of 64 are 1024 vectors, above 1000; the 17th step knows it.
    assert counts[:16] == [0] * 16
    assert counts[16] == pytest.approx(1 / (4 * D))
    assert made.sae().stats_last_nonzero[7] == 18
    assert made.silent[7] == 18 * BATCH


def test_with_and_without_auxiliary_loss_part_when_a_feature_dies() -> None:
    both = [point(True), point(False)]
    grid = learners_of(both, D, Start(torch.zeros(D), torch.tensor(1.0)), SETTINGS, CPU)
    alone = [TopKLearner([p], D, Start(torch.zeros(D), torch.tensor(1.0)), SETTINGS, CPU) for p in both]
    assert len(grid) == 1
    for number in range(6):
        if number == 3:
            for made in (*grid, *alone):
                made.silent[[1, 4]] = SETTINGS.dead_after + 1
        results = step_all(grid, vectors(number), LR)
        assert len(grid) == (1 if number < 3 else 2)
        for made in alone:
            seen = made.step(vectors(number), LR)
            assert torch.equal(results[made.points[0]].loss, seen.loss)
            assert torch.equal(results[made.points[0]].auxiliary, seen.auxiliary)
    for made in grid:
        twin = alone[both.index(made.points[0])]
        assert made.points == twin.points
        for value, other in zip(made.parameters.values(), twin.parameters.values(), strict=True):
            assert torch.equal(value, other)
    assert not torch.equal(grid[0].W_dec, grid[1].W_dec)


def test_learning_rate_falls_over_the_last_part() -> None:
    rates = [learning_rate(SAESettings(lr=1.0, decay=0.4), step, 10) for step in range(10)]
    assert rates == pytest.approx([1, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    assert learning_rate(SAESettings(lr=1.0, decay=0.0), 9, 10) == 1


def test_training_finds_sparse_directions() -> None:
    generator = torch.Generator().manual_seed(1)
    truth = torch.nn.functional.normalize(torch.randn(16, 8, generator=generator), dim=1)
    codes = torch.rand(20000, 16, generator=generator) * (torch.rand(20000, 16, generator=generator) < 0.08)
    x = codes @ truth + 0.5
    settings = SAESettings(batch=512, auxk=8, dead_after=20_000)
    start = Start(x.mean(0), (x - x.mean(0)).square().mean())
    made = TopKLearner([point(k=4)], 8, start, settings, CPU)
    for _ in range(800):
        made.step(x[torch.randint(len(x), (512,), generator=generator)], 3e-3)
    assert explained_variance(made.sae(), x) > 0.85
