"""The concept methods: what each learns against its definition, and small runs of all of them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import riebench
from riebench.engine import pair_work
from riebench.engine.pair_worker import PairWorker
from riebench.engine.request import resolve
from riebench.engine.run_options import RunOptions
from riebench.instruments.loading import HandedIn, Instruments
from riebench.methods import Observed
from riebench.methods.registry import find
from riebench.mini.grammar import contrasts, held_out, parse
from riebench.models import Edit, Run
from riebench.models.mini import ENTANGLED, PAIRS
from riebench.pairs import Pair, load_pairs
from riebench.pairs.contrast_writing import write_contrasts
from riebench.sae.baselines import random_dictionary
from riebench.sae.linear import JumpReLU, LinearSAE
from riebench.util.errors import PairError, UserError
from riebench_baselines.caa import ContrastiveAddition
from riebench_baselines.contrasted import FIRST_SEED, RecentRuns, Shown, contrasts_of, written_by_grammar
from riebench_baselines.k_steer import train_classifier
from riebench_baselines.loreft import train_map
from riebench_baselines.pca import PrincipalComponent, first_component
from riebench_baselines.per import Replacement, best_finder, box_of, partners
from riebench_baselines.probe import logistic_normal
from riebench_baselines.sae_feature import Feature, SingleFeature, auroc, best_detector, largest
from riebench_baselines.sae_sum import FeatureSum

PAIR = Pair(
    id="p",
    editing_type_id=6,
    original_prompt="a [red] heart",
    editing_prompt="a [blue] heart",
    original_gsam_prompt="heart",
    editing_gsam_prompt="heart",
)
SITE, WIDTH, FEATURES = "mid.0", 6, 12
MASK = torch.tensor([True, True, False, False])
CONCEPT = torch.nn.functional.normalize(torch.tensor([3.0, 0, 4, 0, 0, 0]), dim=0)
"""The direction in which values with the concept differ, in the model of these tests."""
CONCEPT_METHODS = ("pca", "probe", "sae-feature", "sae-sum", "loreft", "k-steer", "per")


class Runs:
    """Further runs: noise of the seed everywhere, and twice the concept inside the mask where the prompt is blue."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def __call__(
        self, prompts: Sequence[str], seeds: Sequence[int], capture: Collection[str], edits: Sequence[Edit] = ()
    ) -> Iterator[Run]:
        for number, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            self.asked.append((prompt, seed))
            values = torch.randn(1, 4, WIDTH, generator=torch.Generator().manual_seed(seed))
            if "blue" in prompt:
                values = values + 2 * CONCEPT * MASK[:, None]
            for site, change in edits[number].changes.items() if edits else ():
                assert site == SITE
                values = values + change
            # The picture is the mean over the mask along the concept, which the CLIP of these tests reads.
            shade = float(values[0, MASK].mean(0) @ CONCEPT)
            yield Run(np.full((2, 2, 3), np.clip(100 + 10 * shade, 0, 255), np.uint8), dict.fromkeys(capture, values))


def similarity(pictures: Sequence[Any], prompt: str) -> list[float]:
    return [float(picture.mean()) * (1 if "blue" in prompt else -1) for picture in pictures]


@pytest.fixture
def seen() -> Observed:
    sae = random_dictionary(WIDTH, FEATURES, 3, seed=1)
    sae.decoder.weight.data[:, 5] = CONCEPT
    sae.encoder.weight.data[5] = CONCEPT
    base = torch.randn(1, 4, WIDTH, generator=torch.Generator().manual_seed(9))
    return Observed(
        pair=PAIR,
        sites=(SITE,),
        base={SITE: base},
        source={},  # the source run is not looked at
        base_masks={SITE: MASK},
        source_masks={},
        saes={SITE: sae},
        seed=3,
        pictures={"base": np.zeros((2, 2, 3), np.uint8)},
        generate=Runs(),
        locate=lambda pair, base, source: ({SITE: MASK}, {SITE: MASK}),
        similarity=similarity,
    )


def change_of(plan: riebench.methods.Plan, now: Tensor | None = None) -> Tensor:
    change = plan.changes[SITE]
    return change if isinstance(change, Tensor) else change(now if now is not None else torch.zeros(4, WIDTH), 0)[None]


def test_the_first_component_is_that_of_the_singular_values() -> None:
    rows = torch.tensor([[4.0, 0, 0], [2, 0, 0], [0, 1, 0]])  # uncentred: the axis is the first coordinate
    assert torch.allclose(first_component(rows), torch.tensor([2.0, 0, 0]), atol=1e-6)
    assert torch.allclose(first_component(-rows), torch.tensor([-2.0, 0, 0]), atol=1e-6)  # its sign is the mean's


def test_the_probe_is_where_the_loss_of_logistic_regression_is_least() -> None:
    draw = torch.Generator().manual_seed(0)
    without, having = (
        torch.randn(300, 3, generator=draw),
        torch.randn(100, 3, generator=draw) + torch.tensor([1.0, 0, 0]),
    )
    normal = logistic_normal(without, having, 0.01)
    assert normal.norm().item() == pytest.approx(1)
    assert normal[0] > 0.95  # that of two Gaussians with one covariance is along the difference of their means
    moved = logistic_normal(7 * without + 5, 7 * having + 5, 0.01)
    assert torch.allclose(moved, normal, atol=1e-4)
    assert torch.allclose(logistic_normal(having, without, 0.01), -normal, atol=1e-4)
    # The gradient vanishes there: residuals, weighted to be balanced, are orthogonal to the values but for the penalty.
    x = torch.cat([without, having]).double()
    x = (x - x.mean(0)) / x.std()
    labels = torch.cat([torch.zeros(300), torch.ones(100)]).double()
    weights = torch.where(labels > 0, 1 / 200, 1 / 600)

    def loss(length: float, offset: float, at: Tensor) -> float:
        logits = x @ (at.double() * length) + offset
        fit = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, weights, reduction="sum")
        return fit.item() + 0.005 * length**2

    grid = [(length, offset) for length in np.linspace(0.5, 4, 30) for offset in np.linspace(-2, 2, 30)]
    best = min(loss(*at, normal) for at in grid)
    for axis in torch.eye(3):
        turned = torch.nn.functional.normalize(normal + 0.2 * axis, dim=0)
        assert min(loss(*at, turned) for at in grid) >= best - 1e-4


def test_auroc_counts_pairs_and_half_of_ties() -> None:
    without, having = torch.tensor([[0.0, 1], [0, 2], [1, 3]]), torch.tensor([[1.0, 0], [2, 2]])
    assert auroc(without, having).tolist() == pytest.approx([(2.5 + 3) / 6, (0 + 1.5) / 6])
    assert largest({"a": torch.tensor([1.0, -3]), "b": torch.tensor([2.0])}, 2) == [
        (Feature("a", 1), -3.0),
        (Feature("b", 0), 2.0),
    ]


def test_loreft_learns_a_low_rank_change_and_its_loss_falls() -> None:
    draw = torch.Generator().manual_seed(0)
    without = torch.randn(200, WIDTH, generator=draw)
    having = without + CONCEPT * (without @ torch.tensor([1.0, 0, -1, 0, 0, 2]))[:, None] + 3 * CONCEPT
    made, losses = train_map(without, having, rank=1, epochs=400, rate=0.05, seed=0)
    assert losses[-1] < 1e-3 < losses[0]
    assert all(later < earlier for earlier, later in zip(losses[::100], losses[100::100], strict=False))
    assert torch.allclose(made.change(without), having - without, atol=0.1)
    assert torch.allclose(made.rows @ made.rows.T, torch.eye(1), atol=1e-5)
    again, _ = train_map(without, having, rank=1, epochs=400, rate=0.05, seed=0)
    assert torch.equal(again.rows, made.rows)


def test_k_steering_follows_the_gradient_of_its_network() -> None:
    draw = torch.Generator().manual_seed(0)
    without = torch.randn(100, WIDTH, generator=draw)
    having = torch.randn(100, WIDTH, generator=draw) + 2 * CONCEPT
    made, losses = train_classifier(without, having, hidden=16, epochs=60, rate=0.02, seed=0)
    assert losses[-1] < losses[0] / 2
    at = without.clone().requires_grad_()
    logits = torch.relu((at - made.centre) / made.scale @ made.first.T + made.bias) @ made.last
    (gradient,) = torch.autograd.grad(logits.sum(), at)
    assert torch.allclose(made.gradient(without), gradient * made.scale * made.length, rtol=1e-4, atol=1e-6)
    length = (having.mean(0) - without.mean(0)).norm()
    assert made.gradient(without).norm(dim=1).mean().item() == pytest.approx(length.item(), rel=1e-4)
    assert torch.nn.functional.cosine_similarity(made.gradient(without).mean(0), CONCEPT, dim=0) > 0.8


def test_replacement_lays_box_on_box() -> None:
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[1:3, 2:4] = True
    assert box_of(mask.flatten(), (4, 4)).tolist() == [1, 2, 2, 2]
    same = torch.tensor([1, 2, 2, 2])
    assert partners(same, same, (4, 4)).tolist() == list(range(16))
    doubled = partners(torch.tensor([0, 0, 4, 4]), same, (4, 4)).view(4, 4)  # two positions to each of the box
    assert doubled[0].tolist() == [6, 6, 7, 7]
    assert doubled[3].tolist() == [10, 10, 11, 11]
    codes = torch.tensor([[1.0, 1, 0], [0, 1, 1], [0, 1, 0]])
    assert best_finder(codes, torch.tensor([True, False, False])) == (0, 1.0)
    assert best_finder(codes, torch.tensor([True, True, True]))[0] == 1


@pytest.mark.parametrize("name", CONCEPT_METHODS)
def test_a_method_finds_the_concept_of_the_contrasts(name: str, seen: Observed) -> None:
    method = riebench.methods.create(name, {"count": 16})
    plan = method.plan(seen)
    assert plan.notes["contrasts"] == 16
    change = change_of(plan, seen.base[SITE][0])
    if name != "per":
        assert not change[:, ~MASK].any()
        assert torch.nn.functional.cosine_similarity(change[0, MASK].mean(0), CONCEPT, dim=0) > 0.8
        assert change[0, MASK].norm(dim=1).mean() > 0.3
        everywhere = riebench.methods.create(name, {"count": 16, "everywhere": True}).plan(seen)
        assert change_of(everywhere, seen.base[SITE][0])[:, ~MASK].any()
    asked = seen.generate.asked  # type: ignore[attr-defined]
    assert all(seed >= FIRST_SEED and prompt not in ("a red heart", "a blue heart") for prompt, seed in asked)
    runs = len(asked)
    method.plan(replace(seen, _kept={}, base_masks={SITE: ~MASK}))  # learnt once for all pairs with this edit
    assert len(asked) == runs
    assert runs >= 32


def test_one_feature_is_chosen_by_what_it_detects_or_does(seen: Observed) -> None:
    for choose in ("detection", "effect"):
        plan = SingleFeature(choose=choose, count=16).plan(replace(seen, _kept_for_all={}))
        assert (plan.notes["feature"], plan.notes["site"]) == (5, SITE)
    other = replace(seen, saes={SITE: random_dictionary(WIDTH, FEATURES, 3, seed=2)}, _kept={}, _kept_for_all={})
    tried = SingleFeature(choose="effect", count=16, candidates=FEATURES).plan(other)
    along = (other.saes[SITE].W_dec @ CONCEPT).abs()
    assert along[int(tried.notes["feature"])] >= along.topk(3).values.min()  # the picture shows what is added along it


def test_a_feature_of_the_lost_value_is_taken_away(seen: Observed) -> None:
    back = PAIR.model_copy(update={"original_prompt": "a [blue] heart", "editing_prompt": "a [red] heart"})
    plan = SingleFeature(count=16).plan(replace(seen, pair=back))
    assert torch.nn.functional.cosine_similarity(change_of(plan)[0, 0], -CONCEPT, dim=0) > 0.99
    (feature, area) = best_detector(
        seen, [Shown(PAIR, {SITE: a}, {SITE: b}, {SITE: MASK}, {SITE: MASK}) for a, b in _both(seen)]
    )
    assert (feature, area > 0.9) == (Feature(SITE, 5), True)


def test_an_sae_may_be_of_any_kind(seen: Observed) -> None:
    sae = LinearSAE(WIDTH, FEATURES, JumpReLU(torch.full((FEATURES,), 0.5)))
    sae.load_state_dict({**sae.state_dict(), **seen.saes[SITE].state_dict()}, strict=False)
    other = replace(seen, saes={SITE: sae.requires_grad_(False)})
    assert not torch.equal(sae.encode(seen.base[SITE]), seen.saes[SITE].encode(seen.base[SITE]))
    assert SingleFeature(count=16).plan(other).notes["feature"] == 5
    for method in (FeatureSum(k=2, count=16), SingleFeature(choose="effect", count=16)):
        change = change_of(method.plan(replace(other, _kept_for_all={})))
        assert torch.nn.functional.cosine_similarity(change[0, 0], CONCEPT, dim=0) > 0.8
    assert Replacement(count=4).plan(other).changes


def _both(seen: Observed) -> list[tuple[Tensor, Tensor]]:
    seeds = list(range(20))
    runs = [[run.values[SITE] for run in seen.generate([text] * 20, seeds, (SITE,))] for text in ("red", "blue")]
    return list(zip(*runs, strict=True))


def test_the_sum_of_all_features_is_that_of_the_differences(seen: Observed) -> None:
    plan = FeatureSum(k=FEATURES, count=16).plan(seen)
    one = FeatureSum(k=1, count=16).plan(seen)
    column = SingleFeature(count=16).plan(seen)
    assert plan.notes == {"contrasts": 16, "k": FEATURES}
    assert torch.allclose(change_of(one), change_of(column), atol=1e-5)
    assert not torch.allclose(change_of(plan), change_of(one), atol=1e-3)


def test_contrasts_never_have_prompts_or_seeds_of_reported_pairs() -> None:
    for file in (PAIRS, ENTANGLED):
        pairs = load_pairs(file)
        reported = {parse(text) for pair in pairs for text in (pair.original_prompt, pair.editing_prompt)}
        for pair in {pair.editing_type_id: pair for pair in pairs}.values():
            written = written_by_grammar(pair, 128)
            assert len(written) == 128
            scenes = {parse(text) for _, both in written for text in both}
            assert not any(map(held_out, scenes))
            assert not scenes & reported
        assert all(held_out(scene) for scene in reported)
        assert all((pair.seed or 0) + 1000 < FIRST_SEED for pair in pairs)


def test_caa_keeps_its_scenes_but_never_has_prompts_of_its_set(seen: Observed) -> None:
    pairs = load_pairs(ENTANGLED)
    reported = {parse(text) for pair in pairs for text in (pair.original_prompt, pair.editing_prompt)}
    by_name = {pair.id: pair for pair in pairs}
    for name, count in (("entangled-6-05", 128), ("entangled-7-00", 32)):  # its own prompt; that of entangled-8-18
        pair = by_name[name]
        written = contrasts(pair.original_prompt, pair.editing_prompt, count)
        among = [both for both in written if reported & set(map(parse, both))]
        assert among  # the grammar's training scenes with one value changed may be held out
        found = ContrastiveAddition(count=count).contrasts(replace(seen, pair=pair))
        assert [one[:2] for one in found] == [both for both in written if both not in among]
    for pair in {pair.editing_type_id: pair for pair in load_pairs(PAIRS)}.values():  # whose records exist already
        found = ContrastiveAddition().contrasts(replace(seen, pair=pair))
        assert [one[:2] for one in found] == contrasts(pair.original_prompt, pair.editing_prompt, 32)
    assert [one[:2] for one in ContrastiveAddition(count=128).contrasts(seen)] == contrasts(
        "a [red] heart", "a [blue] heart", 128
    )


def test_contrasts_that_a_method_is_judged_on_are_refused(seen: Observed, tmp_path: Path) -> None:
    duck = PAIR.model_copy(update={"original_prompt": "a [duck] at home", "editing_prompt": "a [swan] at home"})
    (tmp_path / "c.tsv").write_text("two [duck]s\ttwo [swan]s\na [duck]  at Home.\ta [swan] in bed\n")
    asked: dict[str, Any] = {"model": "toy_family:toy", "pairs": [duck], "options": {"contrasts": "c.tsv"}}
    for name in ("caa", "pca"):
        with pytest.raises(
            UserError, match=r"c\.tsv has the prompt 'a duck at Home\.', which is one of pair 'p'; contra"
        ):
            resolve(RunOptions(name, "layer.2", **asked))
    with pytest.raises(UserError, match="the method 'pca' needs prompts for each edit; give --option contrasts=FILE"):
        resolve(RunOptions("pca", "layer.2", model="toy_family:toy", pairs=[duck]))
    with pytest.raises(PairError, match=f"the seed {FIRST_SEED} is that of a contrast"):
        contrasts_of(replace(seen, seed=FIRST_SEED), None, 4)
    number, (before, after) = written_by_grammar(PAIR, 3)[0]
    among = PAIR.model_copy(update={"original_prompt": before, "editing_prompt": after, "id": "q"})
    with pytest.raises(UserError, match=rf"contrast {number} of pair 'q' is a prompt of a pair that is reported"):
        resolve(RunOptions("pca", "mid.0", pairs=[PAIR, among], options={"count": 3}))


def test_a_file_of_contrasts_may_have_phrases(seen: Observed, tmp_path: Path) -> None:
    (tmp_path / "c.tsv").write_text("a [red] cat\ta [blue] cat\tcat\tblue cat\na [red] dog\ta [blue] dog\n")
    first, second = contrasts_of(seen, "c.tsv", 8)
    assert (first.original_gsam_prompt, first.editing_gsam_prompt) == ("cat", "blue cat")
    assert (second.original_prompt, second.editing_gsam_prompt) == ("a red dog", "heart")
    assert (first.seed, second.seed, first.editing_type_id) == (FIRST_SEED, FIRST_SEED + 1, 6)
    assert len(contrasts_of(seen, "c.tsv", 1)) == 1
    (tmp_path / "bad.tsv").write_text("a cat\ta dog\tcat\n")
    with pytest.raises(UserError, match=r"line 1 of the file of contrasts bad\.tsv has 3 parts"):
        contrasts_of(seen, "bad.tsv", 1)


def test_only_the_last_runs_are_kept(seen: Observed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("riebench_baselines.contrasted.MOST_KEPT", 3 * 4 * 4 * WIDTH)  # three runs
    recent, asked = RecentRuns(), seen.generate.asked  # type: ignore[attr-defined]
    prompted = [("a blue cat", seed) for seed in range(4)]
    first = recent.of(seen, prompted)
    assert [run.values[SITE].sum() for run in recent.of(seen, prompted[1:])] == [
        r.values[SITE].sum() for r in first[1:]
    ]
    assert asked == prompted
    recent.of(seen, prompted[:1])
    assert asked == [*prompted, prompted[0]]


def test_a_contrast_without_its_phrase_is_left_out(seen: Observed) -> None:
    def locate(pair: Pair, base: Any, source: Any) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        if pair.seed != FIRST_SEED + written_by_grammar(PAIR, 4)[2][0]:
            raise PairError("the masker finds no 'heart'", "masks")
        return {SITE: MASK}, {SITE: MASK}

    assert PrincipalComponent(count=4).plan(replace(seen, locate=locate)).notes == {"contrasts": 1}
    with pytest.raises(PairError, match="no contrast shows what its phrases name: the masker finds no 'heart'"):
        PrincipalComponent(count=2).plan(replace(seen, locate=locate))
    with pytest.raises(PairError, match="no feature finds the thing in the base run"):
        Replacement(count=2).plan(replace(seen, base={SITE: torch.zeros(1, 4, WIDTH)}))


def test_every_method_runs_on_mini_and_finds_what_it_learnt_again(
    mini: Instruments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def work(
        strength: float, site: str = "up.0.1", names: Sequence[str] = CONCEPT_METHODS, count: int = 2
    ) -> list[Any]:
        asked = RunOptions(list(names), site, strength=strength, limit=1, category="colour", options={"count": count})
        request, pairs = resolve(asked)
        worker = PairWorker(request, HandedIn(mini.model, scorers=mini.scorers), tmp_path)
        return worker.work(worker.recorder.task(pairs[0])).records

    records = work(4)
    assert {record.status for record in records} == {"ok"}, [record.reason for record in records]
    assert {record.notes["contrasts"] for record in records} <= {1, 2}  # the masker does not find every object
    assert len({record.metrics["clip_text_edit"] for record in records}) == len(CONCEPT_METHODS)
    files = sorted((tmp_path / "learnt").iterdir())
    assert len(files) == len(CONCEPT_METHODS)
    with monkeypatch.context() as patch:
        patch.setattr(pair_work, "_generate", lambda *_: 1 / 0)  # nothing is generated but base, source and edited runs
        again = work(8)
        assert {record.status for record in again} == {"ok"}, [record.reason for record in again]
        assert [record.notes for record in again] == [record.notes for record in records]
        assert {record.status for record in work(8, count=3)} == {"failed"}  # which was not learnt
    files[0].write_bytes(b"torn")
    with caplog.at_level(logging.WARNING):
        mended = work(8)
    assert "cannot be read" in caplog.text
    for before, after in zip(again, mended, strict=True):
        assert after.metrics == pytest.approx(before.metrics, abs=2e-3)  # one is learnt anew, up to rounding
    plain = [name for name in CONCEPT_METHODS if not find(name).needs_sae]  # the model has SAEs of updates alone
    of_operation = work(4, "up.0.1/mlp.0", plain)
    assert {record.status for record in of_operation} == {"ok"}, [record.reason for record in of_operation]
    assert not {r.metrics["lpips_base"] for r in of_operation} & {r.metrics["lpips_base"] for r in records}


def test_caa_keeps_its_keys_and_takes_the_new_name(mini: Instruments, tmp_path: Path) -> None:
    (tmp_path / "c.tsv").write_text("a [red] heart\ta [blue] heart\n")
    pair = PAIR.model_copy(update={"original_prompt": "a [red] cross", "editing_prompt": "a [blue] cross"})

    def task(**more: Any) -> Any:
        request, pairs = resolve(RunOptions("caa", "mid.0", strength=1, pairs=[pair], **more))
        return PairWorker(request, HandedIn(mini.model, scorers=mini.scorers)).recorder, pairs[0]

    recorder, one = task()
    assert recorder.methods[0].code == "5bb6318e6f2c39be"  # that of the records before concept methods
    keys = []
    for name in ("contrasts", "prompts"):
        recorder, one = task(options={name: "c.tsv"})
        keys.append(recorder.task(one).settings[0].key)
        assert recorder.request.conditions[0].options["prompts"] == "c.tsv"
    assert keys[0] == keys[1]
    with pytest.raises(UserError, match="option 'contrasts' of method 'caa' is 'prompts'; give one of them"):
        task(options={"contrasts": "c.tsv", "prompts": "c.tsv"})


def test_contrasts_are_written_from_the_words_of_pairs() -> None:
    def pair(name: str, original: str, edit: str, *phrases: str, kind: int = 1) -> Pair:
        return Pair(
            id=name,
            editing_type_id=kind,
            original_prompt=original,
            editing_prompt=edit,
            original_gsam_prompt=phrases[0],
            editing_gsam_prompt=phrases[-1],
        )

    pairs = [
        pair("a", "a cute [duck] with eyes", "a cute [otter] with eyes", "duck", "otter"),
        pair("b", "a girl and a [dog] in a field.", "a girl and a [monkey] in a field.", "dog", "monkey"),
        pair("c", "a [duck] here and [there]", "a [dog] here and [now]", "duck", "dog"),
        pair("d", "an [old] boat", "a [new] boat", "old boat", "new boat", kind=6),
        pair("e", "my [red] car", "my [blue] car", "red car", "blue car", kind=6),
        pair("f", "a cat", "a cat [wearing a hat]", "cat", "hat", kind=2),
        pair("g", "a man", "a man [with a beard]", "man", "beard", kind=2),
        pair("h", "a man", "a woman", "man", "woman"),
    ]
    lines, left_out = write_contrasts(pairs, 8)
    assert lines["a"] == [("a girl and a [duck] in a field.", "a girl and an [otter] in a field.", "duck", "otter")]
    assert lines["d"] == [("my [old] car", "my [new] car", "car", "car")]
    # The sentence alone is a prompt of a pair, here of its own.
    assert sorted(lines["f"]) == [
        ("a photo of a man", "a photo of a man [wearing a hat]", "man", "hat"),
        ("a view of a cat", "a view of a cat [wearing a hat]", "cat", "hat"),
    ]
    assert left_out.keys() == {"c", "h"}
    assert "square brackets" in left_out["h"]
    assert write_contrasts(pairs, 8) == (lines, left_out)


def test_an_entangled_pair_asks_for_one_of_two_changes(mini: Instruments) -> None:
    pairs = load_pairs(ENTANGLED)
    assert [sum(pair.editing_type_id == kind for pair in pairs) for kind in range(1, 10)] == [20] * 9
    assert not {pair.seed for pair in pairs} & {pair.seed for pair in load_pairs(PAIRS)}
    for pair in pairs:
        changed = parse(pair.original_prompt).differences(parse(pair.editing_prompt))
        assert len(changed) == 2
        (other,) = set(changed) - {parse_asked(pair)}
        assert other in ("colour", "material", "pose", "inside")
    request, (pair, *_) = resolve(
        RunOptions(["prompt", "none"], "mid.0", pairs="mini:entangled", strength=1, category=6)
    )
    assert str(request.pair_file) == "mini:entangled"
    assert request.pairs()[0] == pair
    worker = PairWorker(request, HandedIn(mini.model, scorers=mini.scorers))
    whole, nothing = worker.work(worker.recorder.task(pair)).records
    assert (whole.metrics["edit_success"], nothing.metrics["edit_success"]) == (1, 0)
    assert (nothing.metrics["kept"], whole.metrics["kept"]) == (1, pytest.approx(6 / 7))  # the other one came along
    with pytest.raises(UserError, match="unknown set of pairs 'mini:tangled'"):
        resolve(RunOptions("none", "mid.0", pairs="mini:tangled"))


def parse_asked(pair: Pair) -> str:
    from riebench.mini.grammar import asked_attribute

    return asked_attribute(pair.original_prompt, pair.editing_prompt)
