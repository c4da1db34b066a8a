"""Choosing and the baselines, each against its formula worked out by hand."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from riebench.methods import (
    Observed,
    create,
    find,
    k_of_share,
    method,
    method_names,
    rank,
    relative_score,
    spread,
)
from riebench.methods.choosing import masked_mean
from riebench.pairs import Pair
from riebench.sae.topk import TopKSAE
from riebench.settings.protocols import PAPER, RIEBENCH, Protocol
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
# On a grid of two rows and columns: the left column, and the upper row.
SOURCE_MASK = torch.tensor([True, False, True, False])
BASE_MASK = torch.tensor([True, True, False, False])
AT_SOURCE, AT_BASE = SOURCE_MASK[:, None], BASE_MASK[:, None]
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

    def values() -> dict[str, Tensor]:
        neurons = {f"{b}/neurons.{i}": torch.randn(2, 4, 5, generator=generator) for b in BLOCKS for i in range(2)}
        return neurons | {b: torch.rand(2, 4, 3, generator=generator) for b in BLOCKS}

    sites = tuple(values())
    return Observed(
        pair=PAIR,
        sites=BLOCKS,
        base=values(),
        source=values(),
        base_masks=dict.fromkeys(sites, BASE_MASK),
        source_masks=dict.fromkeys(sites, SOURCE_MASK),
        saes={block: identity_sae() for block in BLOCKS},
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
    values = torch.arange(16.0).view(2, 4, 2)
    # Left column: positions 0 and 2 of each step.
    assert masked_mean(values, SOURCE_MASK, "first").tolist() == [2, 3]
    assert masked_mean(values, SOURCE_MASK, "mean").tolist() == [6, 7]


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
    values = torch.arange(4.0).view(1, 4, 1)
    assert spread(values, SOURCE_MASK).flatten().tolist() == [0, 0, 2, 0]
    assert spread(values, SOURCE_MASK, spatial=False).flatten().tolist() == [1, 0, 1, 0]


def test_steering(seen: Observed) -> None:
    for block in BLOCKS:
        delta = fixed(Steering().plan(seen).changes[block])
        u_source, u_base = seen.source[block], seen.base[block]
        assert torch.equal(delta, u_source * AT_SOURCE - u_base * AT_BASE)
        only = fixed(Steering(only_add=True).plan(seen).changes[block])
        assert torch.equal(only, u_source * AT_SOURCE)


def test_sae_with_all_features_is_steering(seen: Observed) -> None:
    # With an identity SAE and positive updates, moving every feature moves the whole update.
    whole, steered = SAETransfer(k=6).plan(seen), Steering().plan(seen)
    for block in BLOCKS:
        assert torch.allclose(fixed(whole.changes[block]), fixed(steered.changes[block]), atol=1e-6)


def test_sae_moves_the_chosen_features_alone(seen: Observed) -> None:
    source = torch.cat([seen.source[b][:, [0, 2]].mean((0, 1)) for b in BLOCKS])
    base = torch.cat([seen.base[b][:, [0, 1]].mean((0, 1)) for b in BLOCKS])
    score = source / source.sum() - base / base.sum()
    best, worst = int(score.argmax()), int(score.argmin())
    plan = SAETransfer(k=1, score="mean").plan(seen)
    assert plan.notes == {"k": 1}
    for i, block in enumerate(BLOCKS):
        expected = torch.zeros(2, 4, 3)
        if best // 3 == i:
            expected[..., best % 3] += seen.source[block][..., best % 3] * SOURCE_MASK
        if worst // 3 == i:
            expected[..., worst % 3] -= seen.base[block][..., worst % 3] * BASE_MASK
        assert torch.allclose(fixed(plan.changes[block]), expected)


def test_adaptive_removes_what_passes(seen: Observed) -> None:
    plan = AdaptiveSAETransfer(k=6).plan(seen)
    delta = plan.changes["up.0.1"]
    assert callable(delta)
    now = torch.rand(4, 3)
    expected = seen.source["up.0.1"][1] * AT_SOURCE - now * AT_BASE
    assert torch.allclose(delta(now, 1), expected, atol=1e-6)


def unequal_shares(seen: Observed, protocol: Protocol) -> Observed:
    """With k = 3 the first block adds two features and removes one, the second adds one and removes two."""
    source = {"down.2.1": [6.0, 4.0, 1.0], "up.0.1": [5.0, 1.0, 1.0]}
    base = {"down.2.1": [1.0, 1.0, 6.0], "up.0.1": [1.0, 5.0, 4.0]}

    def values(levels: dict[str, list[float]]) -> dict[str, Tensor]:
        return {
            block: torch.tensor(row).expand(2, 4, 3) + torch.arange(4)[:, None] / 8 for block, row in levels.items()
        }

    return replace(seen, base=values(base), source=values(source), protocol=protocol, _kept={})


@pytest.mark.parametrize("only_add", [False, True])
@pytest.mark.parametrize("protocol", [PAPER, RIEBENCH])
def test_adaptive_as_published_removes_by_the_ratio_of_counts(
    seen: Observed, protocol: Protocol, only_add: bool
) -> None:
    seen = unequal_shares(seen, protocol)
    plan = AdaptiveSAETransfer(k=3, only_add=only_add).plan(seen)
    added = {"down.2.1": [0, 1], "up.0.1": [0]}
    removed = {"down.2.1": [2], "up.0.1": [1, 2]}
    now = torch.rand(4, 3, generator=torch.Generator().manual_seed(1))
    for block in BLOCKS:
        # The SAE's features are the coordinates. The last row of the base's mask is position 1, of the source's 2.
        expected = torch.zeros(4, 3)
        for position in (0, 2):
            for feature in added[block]:
                expected[position, feature] += seen.source[block][1, position, feature]
        factor = len(added[block]) / len(removed[block]) if protocol is PAPER else 1
        for position in (0, 1):
            for feature in removed[block]:
                if protocol is PAPER or not only_add:
                    expected[position, feature] -= factor * now[position, feature]
        change = plan.changes[block]
        found = change(now, 1) if callable(change) else change[1]
        assert torch.allclose(found, expected, atol=1e-6)


def test_the_published_ratio_is_of_norms_of_decoder_columns(seen: Observed) -> None:
    seen = unequal_shares(seen, PAPER)
    sae = copy.deepcopy(seen.saes["down.2.1"])
    with torch.no_grad():
        sae.decoder.weight.mul_(torch.tensor([1.5, 0.25, 0.5]))  # the norms of its columns
    seen = replace(seen, saes=dict(seen.saes) | {"down.2.1": sae})
    change = AdaptiveSAETransfer(k=3).plan(seen).changes["down.2.1"]
    assert callable(change)
    now = torch.rand(4, 3)
    removed = sae.directions(sae.encode(now), torch.tensor([2]))[0]
    added = sae.directions(seen.codes("source", "down.2.1")[1], torch.tensor([0, 1]))[0]
    assert torch.allclose(change(now, 1)[0], added - (1.5 + 0.25) / 0.5 * removed, atol=1e-5)


def test_adaptive_as_published_where_a_block_has_one_side_alone(seen: Observed) -> None:
    seen = unequal_shares(seen, PAPER)
    # One of each: the best of all is the first block's first, the worst the first block's last.
    plan = AdaptiveSAETransfer(k=1).plan(seen)
    now = torch.ones(4, 3)
    found = {block: change(now, 0) for block, change in plan.changes.items() if callable(change)}
    assert not found["up.0.1"].any()  # nothing chosen here; the ratio is not a division by 0
    assert found["down.2.1"][0].tolist() == [6, 0, -1]
    # Where features are removed and none added, the ratio is 0, and so is what is removed.
    flipped = replace(seen, source=dict(seen.source) | {"up.0.1": seen.source["up.0.1"] + 20}, _kept={})
    plan = AdaptiveSAETransfer(k=2).plan(flipped)
    change = plan.changes["down.2.1"]
    assert callable(change)
    chosen = SAETransfer(k=2).plan(replace(flipped, _kept={}))
    assert fixed(chosen.changes["down.2.1"]).any()  # as plain sae, the block loses something
    assert not change(now, 0).any()


def test_neurons_rank_by_norm_and_move_raw_values(seen: Observed) -> None:
    site = "up.0.1/neurons.1"
    one = replace(seen, sites=("up.0.1",))
    one.source[site][:, :, 4] = 50.0  # large everywhere, but that is its norm
    plan = NeuronTransfer(k=10).plan(one)
    assert list(plan.changes) == ["up.0.1/neurons.0", site]
    delta = fixed(plan.changes[site])
    # k covers all ten neurons of both layers: what is added is the source's, what is taken away the base's.
    expected = one.source[site] * SOURCE_MASK[None, :, None]
    expected = expected - one.base[site] * BASE_MASK[None, :, None]
    assert torch.allclose(delta, expected)
    scores = []
    for layer in range(2):
        for run, mask in ((one.source, SOURCE_MASK), (one.base, BASE_MASK)):
            x = run[f"up.0.1/neurons.{layer}"][0][mask]
            scores.append(x.mean(0) / x.norm(dim=0))
    source, base = torch.cat(scores[::2]), torch.cat(scores[1::2])
    best = int((source / source.abs().sum() - base / base.abs().sum()).argmax())
    first = NeuronTransfer(k=1, only_add=True).plan(one)
    moved = torch.cat([fixed(first.changes[f"up.0.1/neurons.{i}"]).abs().sum((0, 1)) for i in range(2)])
    assert moved.nonzero().flatten().tolist() == [best]


def test_random_has_the_norm_of_sae(seen: Observed) -> None:
    chance, real = RandomFeatures(k=2).plan(seen), SAETransfer(k=2).plan(seen)
    for block in BLOCKS:
        a, b = fixed(chance.changes[block]), fixed(real.changes[block])
        assert torch.allclose(a.norm(dim=-1), b.norm(dim=-1), atol=1e-6)
    again = RandomFeatures(k=2).plan(seen)
    assert torch.equal(fixed(chance.changes["up.0.1"]), fixed(again.changes["up.0.1"]))


def test_floor_and_ceiling(seen: Observed) -> None:
    assert not Nothing().plan(seen).changes
    assert Prompt().plan(seen).prompt == "a marmot"


def test_registry() -> None:
    known = {"none", "random", "prompt", "steering", "neurons", "sae", "sae-adaptive"}
    assert known <= set(method_names())
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
    with pytest.raises(UserError, match=r"unknown method 'SAETransfers' in .*\.sae; did you mean 'SAETransfer'"):
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
        u_source, u_base = seen.source[block], seen.base[block]
        # The source mask is the left column, the base mask the upper row.
        gain = u_source[:, [0, 2]].mean(1)[:, None] * AT_SOURCE
        loss = u_base[:, [0, 1]].mean(1)[:, None] * AT_BASE
        for made in (Steering(spatial=False), SAETransfer(k=6, spatial=False)):
            assert torch.allclose(fixed(made.plan(seen).changes[block]), gain - loss, atol=1e-6)
        adaptive = AdaptiveSAETransfer(k=6, spatial=False).plan(seen).changes[block]
        assert callable(adaptive)
        now = torch.rand(4, 3)
        lost = now[[0, 1]].mean(0) * AT_BASE
        assert torch.allclose(adaptive(now, 1), gain[1] - lost, atol=1e-6)


def test_neurons_over_all_steps_are_normalised_step_by_step() -> None:
    # Positions 0 and 2, the left column: (3, 4) with norm 5, mean .7; (0, -2) with norm 2, mean -.5; over both .1.
    values = torch.tensor([[[3.0], [9.0], [4.0], [9.0]], [[0.0], [9.0], [-2.0], [9.0]]])
    assert normalized_mean(values, SOURCE_MASK, "first").tolist() == pytest.approx([0.7])
    assert normalized_mean(values, SOURCE_MASK, "mean").tolist() == pytest.approx([0.1])
