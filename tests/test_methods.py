"""Choosing and the baselines, each against its formula worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from riebench.lens import Activations, Place
from riebench.methods import Observed, create, find, k_of_share, method, names, rank, relative_score, spread
from riebench.methods.choosing import masked_mean
from riebench.pairs import Pair
from riebench.sae import TopKSAE
from riebench.util.errors import UserError
from riebench_baselines.neurons import NeuronTransfer, normalized_mean
from riebench_baselines.none import Nothing
from riebench_baselines.prompt import Prompt
from riebench_baselines.random import RandomFeatures
from riebench_baselines.sae import SAETransfer
from riebench_baselines.sae_adaptive import AdaptiveSAETransfer
from riebench_baselines.steering import Steering

PAIR = Pair(
    id="p",
    editing_type_id=1,
    original_prompt="a [duck]",
    editing_prompt="a [marmot]",
    original_gsam_prompt="duck",
    editing_gsam_prompt="marmot",
)
SOURCE_MASK = torch.tensor([[True, False], [True, False]])
BASE_MASK = torch.tensor([[True, True], [False, False]])
BLOCKS = ("down.2.1", "up.0.1")


def identity_sae(d: int = 3) -> TopKSAE:
    """Features are the positive parts of the coordinates."""
    sae = TopKSAE(d, d, d)
    with torch.no_grad():
        sae.encoder.weight.copy_(torch.eye(d))
        sae.decoder.weight.copy_(torch.eye(d))
    return sae.requires_grad_(False)


@pytest.fixture
def seen() -> Observed:
    generator = torch.Generator().manual_seed(0)

    def activations() -> Activations:
        updates = {b: torch.rand(2, 3, 2, 2, generator=generator) for b in BLOCKS}
        neurons = {Place(b, i): torch.randn(2, 4, 5, generator=generator) for b in BLOCKS for i in range(2)}
        return Activations(updates, dict(updates), neurons)

    return Observed(
        pair=PAIR,
        blocks=BLOCKS,
        base=activations(),
        source=activations(),
        base_masks=dict.fromkeys(BLOCKS, BASE_MASK),
        source_masks=dict.fromkeys(BLOCKS, SOURCE_MASK),
        find_sae=lambda block: identity_sae(),
        seed=3,
    )


def fixed(value: object) -> Tensor:
    assert isinstance(value, Tensor)
    return value


def test_score_by_hand() -> None:
    score = relative_score(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0]))
    assert score.tolist() == [0.25, -0.25]
    assert relative_score(torch.zeros(2), torch.tensor([1.0, 3.0])).tolist() == [-0.25, -0.75]


def test_masked_mean_by_hand() -> None:
    values = torch.arange(16.0).view(2, 2, 2, 2)
    # Left column: positions 0 and 2 of each map.
    assert masked_mean(values, SOURCE_MASK, "first").tolist() == [1, 5]
    assert masked_mean(values, SOURCE_MASK, "mean").tolist() == [5, 9]


def test_blocks_are_ranked_jointly() -> None:
    source = [torch.tensor([8.0, 0.0]), torch.tensor([1.0, 1.0])]
    base = [torch.tensor([0.0, 0.0]), torch.tensor([1.0, 9.0])]
    # Shares: source .8 0 .1 .1, base 0 0 .1 .9; score .8 0 0 -.8.
    add, remove = rank(source, base, 1)
    assert [a.tolist() for a in add] == [[0], []]
    assert [r.tolist() for r in remove] == [[], [1]]
    with pytest.raises(UserError, match="k is 5, but there are 4"):
        rank(source, base, 5)
    assert k_of_share(1 / 32, 20480) == 640


def test_spread_keeps_positions_or_takes_their_mean() -> None:
    values = torch.arange(4.0).view(1, 1, 2, 2)
    assert spread(values, SOURCE_MASK).tolist() == [[[[0, 0], [2, 0]]]]
    assert spread(values, SOURCE_MASK, spatial=False).tolist() == [[[[1, 0], [1, 0]]]]


def test_steering(seen: Observed) -> None:
    for block in BLOCKS:
        delta = fixed(Steering().plan(seen).additions[Place(block)])
        u_source, u_base = seen.source.updates[block], seen.base.updates[block]
        assert torch.equal(delta, u_source * SOURCE_MASK - u_base * BASE_MASK)
        only = fixed(Steering(only_add=True).plan(seen).additions[Place(block)])
        assert torch.equal(only, u_source * SOURCE_MASK)


def test_sae_with_all_features_is_steering(seen: Observed) -> None:
    # With an identity SAE and positive updates, moving every feature moves the whole update.
    whole, steered = SAETransfer(k=6).plan(seen), Steering().plan(seen)
    for block in BLOCKS:
        assert torch.allclose(fixed(whole.additions[Place(block)]), fixed(steered.additions[Place(block)]), atol=1e-6)


def test_sae_moves_the_chosen_features_alone(seen: Observed) -> None:
    source = torch.cat([masked_mean(seen.source.updates[b], SOURCE_MASK, "mean") for b in BLOCKS])
    base = torch.cat([masked_mean(seen.base.updates[b], BASE_MASK, "mean") for b in BLOCKS])
    score = source / source.sum() - base / base.sum()
    best, worst = int(score.argmax()), int(score.argmin())
    plan = SAETransfer(k=1, score="mean").plan(seen)
    assert plan.notes == {"k": 1}
    for i, block in enumerate(BLOCKS):
        expected = torch.zeros(2, 3, 2, 2)
        if best // 3 == i:
            expected[:, best % 3] += seen.source.updates[block][:, best % 3] * SOURCE_MASK
        if worst // 3 == i:
            expected[:, worst % 3] -= seen.base.updates[block][:, worst % 3] * BASE_MASK
        assert torch.allclose(fixed(plan.additions[Place(block)]), expected)


def test_adaptive_removes_what_passes(seen: Observed) -> None:
    plan = AdaptiveSAETransfer(k=6).plan(seen)
    delta = plan.additions[Place("up.0.1")]
    assert callable(delta)
    now = torch.rand(3, 2, 2)
    expected = seen.source.updates["up.0.1"][1] * SOURCE_MASK - now * BASE_MASK
    assert torch.allclose(delta(now, 1), expected, atol=1e-6)


def test_neurons_rank_by_norm_and_move_raw_values(seen: Observed) -> None:
    place = Place("up.0.1", 1)
    one = replace(seen, blocks=("up.0.1",))
    one.source.neurons[place][:, :, 4] = 50.0  # large everywhere, but that is its norm
    plan = NeuronTransfer(k=10).plan(one)
    assert {p.block for p in plan.additions} == {"up.0.1"}
    delta = fixed(plan.additions[place])
    # k covers all ten neurons of both layers: what is added is the source's, what is taken away the base's.
    expected = one.source.neurons[place] * SOURCE_MASK.flatten()[None, :, None]
    expected = expected - one.base.neurons[place] * BASE_MASK.flatten()[None, :, None]
    assert torch.allclose(delta, expected)
    scores = []
    for layer in range(2):
        for run, mask in ((one.source, SOURCE_MASK), (one.base, BASE_MASK)):
            x = run.neurons[Place("up.0.1", layer)][0][mask.flatten()]
            scores.append(x.mean(0) / x.norm(dim=0))
    source, base = torch.cat(scores[::2]), torch.cat(scores[1::2])
    best = int((source / source.sum() - base / base.sum()).argmax())
    first = NeuronTransfer(k=1, only_add=True).plan(one)
    moved = torch.cat([fixed(first.additions[Place("up.0.1", i)]).abs().sum((0, 1)) for i in range(2)])
    assert moved.nonzero().flatten().tolist() == [best]


def test_random_has_the_norm_of_sae(seen: Observed) -> None:
    chance, real = RandomFeatures(k=2).plan(seen), SAETransfer(k=2).plan(seen)
    for block in BLOCKS:
        a, b = fixed(chance.additions[Place(block)]), fixed(real.additions[Place(block)])
        assert torch.allclose(a.norm(dim=1), b.norm(dim=1), atol=1e-6)
    again = RandomFeatures(k=2).plan(seen)
    assert torch.equal(fixed(chance.additions[Place("up.0.1")]), fixed(again.additions[Place("up.0.1")]))


def test_floor_and_ceiling(seen: Observed) -> None:
    assert not Nothing().plan(seen).additions
    assert Prompt().plan(seen).prompt == "a marmot"


def test_registry() -> None:
    assert {"none", "random", "prompt", "steering", "neurons", "sae", "sae-adaptive"} <= set(names())
    assert find("riebench_baselines.sae:SAETransfer") is find("sae")
    assert create("sae", {"k": "7", "only_add": "true"}) == SAETransfer(k=7, only_add=True)
    with pytest.raises(UserError, match="did you mean 'steering'"):
        find("stearing")
    with pytest.raises(UserError, match="did you mean 'only_add'"):
        create("sae", {"onlyadd": "1"})
    with pytest.raises(UserError, match="option 'k' of method 'sae' is 'many'"):
        create("sae", {"k": "many"})
    with pytest.raises(UserError, match="has no options"):
        create("none", {"k": "1"})
    with pytest.raises(UserError, match=r"unknown method in .*\.sae 'SAETransfers'; did you mean 'SAETransfer'"):
        find("riebench_baselines.sae:SAETransfers")
    with pytest.raises(UserError, match="cannot be loaded"):
        find("riebench_baselines.nobody:Nobody")
    with pytest.raises(UserError, match="is not a method"):
        find("riebench.pairs:Pair")
    with pytest.raises(ValueError, match="is taken by"):

        @method("sae")
        class Other:
            pass


def test_without_spatial_information_the_mean_stands_everywhere(seen: Observed) -> None:
    for block in BLOCKS:
        u_source, u_base = seen.source.updates[block], seen.base.updates[block]
        # The source mask is the left column, the base mask the upper row.
        gain = u_source[..., :, 0].mean(-1)[..., None, None] * SOURCE_MASK
        loss = u_base[..., 0, :].mean(-1)[..., None, None] * BASE_MASK
        for made in (Steering(spatial=False), SAETransfer(k=6, spatial=False)):
            assert torch.allclose(fixed(made.plan(seen).additions[Place(block)]), gain - loss, atol=1e-6)
        adaptive = AdaptiveSAETransfer(k=6, spatial=False).plan(seen).additions[Place(block)]
        assert callable(adaptive)
        now = torch.rand(3, 2, 2)
        lost = now[:, 0, :].mean(-1)[:, None, None] * BASE_MASK
        assert torch.allclose(adaptive(now, 1), gain[1] - lost, atol=1e-6)


def test_neurons_over_all_steps_are_normalised_step_by_step() -> None:
    values = torch.tensor([[[[3.0, 9.0], [4.0, 9.0]]], [[[0.0, 9.0], [-2.0, 9.0]]]])
    values = values.flatten(2).transpose(1, 2)  # to positions by neurons
    # Left column: (3, 4) with norm 5, mean .7; (0, -2) with norm 2, mean -.5; over both steps .1.
    assert normalized_mean(values, SOURCE_MASK, "first").tolist() == pytest.approx([0.7])
    assert normalized_mean(values, SOURCE_MASK, "mean").tolist() == pytest.approx([0.1])
