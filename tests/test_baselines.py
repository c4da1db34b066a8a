"""The baselines that look at pictures, at other prompts or at an untrained SAE, each against its definition."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_family
from torch import Tensor

import riebench
from riebench.engine.pair_worker import PairWorker
from riebench.engine.request import resolve
from riebench.engine.run_options import RunOptions
from riebench.instruments.loading import HandedIn, Instruments
from riebench.methods import Observed, Plan, method
from riebench.methods.registry import METHODS
from riebench.mini.grammar import contrasts, held_out, parse
from riebench.models import Run, entry_named
from riebench.pairs import Contrast, Pair, read_contrasts
from riebench.records import Record
from riebench.sae.baselines import random_dictionary
from riebench.sae.topk import TopKSAE
from riebench.settings.settings import Settings
from riebench.util.errors import PairError, UserError
from riebench_baselines.caa import ContrastiveAddition
from riebench_baselines.noise import Noise
from riebench_baselines.paste import Paste
from riebench_baselines.sae import SAETransfer
from riebench_baselines.sae_random import UntrainedSAETransfer
from riebench_baselines.sdedit import SDEdit

PAIR = Pair(
    id="p",
    editing_type_id=1,
    original_prompt="a [red] heart",
    editing_prompt="a [blue] heart",
    original_gsam_prompt="heart",
    editing_gsam_prompt="heart",
)
BASE_MASK, SOURCE_MASK = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
BLOCKS = ("mid.0", "up.0.1")


def draw(seed: int) -> Tensor:
    """Two steps, four positions, width three."""
    return torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def seen() -> Observed:
    base, source = (np.full((2, 2, 3), value, np.uint8) for value in (100, 200))
    return Observed(
        pair=PAIR,
        sites=BLOCKS,
        base={site: draw(number) for number, site in enumerate(BLOCKS)},
        source={site: draw(10 + number) for number, site in enumerate(BLOCKS)},
        base_masks=dict.fromkeys(BLOCKS, BASE_MASK),
        source_masks=dict.fromkeys(BLOCKS, SOURCE_MASK),
        saes={site: random_dictionary(3, 8, 2, seed=number) for number, site in enumerate(BLOCKS)},
        seed=3,
        pictures={"base": base, "source": source},
        regions={"base": BASE_MASK.view(2, 2).numpy(), "source": SOURCE_MASK.view(2, 2).numpy()},
    )


def test_paste_takes_the_source_inside_either_mask(seen: Observed) -> None:
    plan = Paste().plan(seen)
    assert plan.picture is not None
    assert plan.picture[..., 0].tolist() == [[200, 200], [200, 100]]
    assert not plan.changes


def test_strength_multiplies_what_a_picture_changes() -> None:
    base, picture = (np.array(row, np.uint8).reshape(1, 1, 3) for row in ([100, 100, 250], [200, 90, 255]))
    plan = Plan(picture=picture)
    expected = {0: [100, 100, 250], 0.5: [150, 95, 252], 1: [200, 90, 255], 2: [255, 80, 255], -1: [0, 110, 245]}
    for strength, row in expected.items():  # 252.5 is rounded to the even number
        assert plan.blended(base, strength).ravel().tolist() == row


def test_noise_changes_the_pixels_inside_either_mask_by_its_deviation(seen: Observed) -> None:
    size, inside = 200, np.zeros((200, 200), bool)
    inside[:, :150] = True
    grey = np.full((size, size, 3), 128, np.uint8)
    one = replace(seen, pictures={"base": grey, "source": grey}, regions={"base": inside, "source": inside[:, ::-1]})
    picture = Noise(deviation=20).plan(one).picture
    assert picture is not None
    change = picture.astype(float) - 128
    assert change.std() == pytest.approx(20, rel=0.02)
    assert change.mean() == pytest.approx(0, abs=0.3)
    half = Noise(deviation=20).plan(replace(one, regions={"base": inside, "source": inside})).picture
    assert half is not None
    assert (half[:, 150:] == 128).all()
    assert np.array_equal(half[:, :150], picture[:, :150])  # the seed is the pair's
    whole = Noise(deviation=20, everywhere=True).plan(replace(one, regions={"base": ~inside, "source": ~inside}))
    assert whole.picture is not None
    assert np.array_equal(whole.picture, picture)


def test_an_untrained_sae_takes_the_place_of_each(seen: Observed) -> None:
    trained = SAETransfer(k=3).plan(seen)  # its codes are kept for the pair, and must not be taken for the others'
    plan = UntrainedSAETransfer(k=3).plan(seen)
    untrained = {site: UntrainedSAETransfer(k=3).untrained(seen, site) for site in BLOCKS}
    assert all(type(sae) is TopKSAE for sae in untrained.values())
    assert {(sae.d_model, sae.n_features, sae.k) for sae in untrained.values()} == {(3, 8, 2)}
    assert torch.allclose(untrained["mid.0"].W_dec.norm(dim=1), torch.ones(8))
    assert not torch.equal(untrained["mid.0"].W_dec, untrained["up.0.1"].W_dec)
    expected = SAETransfer(k=3).plan(replace(seen, saes=untrained, _kept={}))
    for site in BLOCKS:
        found, wanted, real = (each.changes[site] for each in (plan, expected, trained))
        assert isinstance(found, Tensor)
        assert isinstance(wanted, Tensor)
        assert torch.equal(found, wanted)
        assert not torch.equal(found, real)  # type: ignore[arg-type]
    other = replace(seen, pair=PAIR.model_copy(update={"id": "q"}), seed=9, _kept={})
    assert UntrainedSAETransfer().untrained(other, "mid.0") is untrained["mid.0"]  # for all pairs


class Generator:
    """Further runs: a prompt's values are of its own seed."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int], capture: Collection[str]) -> Iterator[Run]:
        for prompt, seed in zip(prompts, seeds, strict=True):
            self.asked.append((prompt, seed))
            values = {site: draw(len(prompt) * 7 + seed % 100 + len(site)) for site in capture}
            yield Run(np.zeros((2, 2, 3), np.uint8), values)


LINES = "a [red] cat\ta [blue] cat\n\nthe [Red] sea\tthe [blue] sea\na [red] cat\ta [green] cat\na dog\ta wolf\n"


def test_caa_adds_the_difference_of_mean_updates_at_the_base_mask(seen: Observed, tmp_path: Path) -> None:
    (tmp_path / "prompts.tsv").write_text(LINES)
    generate = Generator()
    seen = replace(seen, generate=generate, source={})  # the source run is not looked at
    plan = ContrastiveAddition(prompts="prompts.tsv").plan(seen)
    assert plan.notes == {"prompts": 2}
    edits, originals = ["a blue cat", "the blue sea"], ["a red cat", "the red sea".replace("red", "Red")]
    assert sorted(prompt for prompt, _ in generate.asked) == sorted(edits + originals)
    seeds = dict(generate.asked)
    assert seeds["a blue cat"] == seeds["a red cat"] != seeds["the blue sea"]  # both sides have the same seeds
    for site in BLOCKS:
        means = {p: draw(len(p) * 7 + seed % 100 + len(site)).mean(1) for p, seed in generate.asked}
        direction = sum(means[p] for p in edits) / 2 - sum(means[p] for p in originals) / 2
        assert isinstance(direction, Tensor)
        found = plan.changes[site]
        assert isinstance(found, Tensor)
        for position in range(4):
            expected = direction if BASE_MASK[position] else direction * 0
            assert torch.allclose(found[:, position], expected, atol=1e-6)
        everywhere = ContrastiveAddition(prompts="prompts.tsv", everywhere=True).plan(seen).changes[site]
        assert isinstance(everywhere, Tensor)
        assert torch.allclose(everywhere[:, 3], direction, atol=1e-6)
    assert len(generate.asked) == 4  # once for all
    ContrastiveAddition(prompts="prompts.tsv").plan(replace(seen, _kept={}))
    assert len(generate.asked) == 4


def test_caa_takes_lines_without_brackets_for_every_other_edit(seen: Observed, tmp_path: Path) -> None:
    (tmp_path / "prompts.tsv").write_text(LINES)
    style = PAIR.model_copy(update={"original_prompt": "a heart", "editing_prompt": "a heart [in ink]"})
    method = ContrastiveAddition(prompts="prompts.tsv")
    assert method.contrasts(replace(seen, pair=style)) == [Contrast("a dog", "a wolf")]
    (tmp_path / "other.tsv").write_text("a [red] cat\ta [green] cat\n")
    with pytest.raises(PairError, match=r"other\.tsv has no prompts for this edit"):
        ContrastiveAddition(prompts="other.tsv").contrasts(seen)
    (tmp_path / "bad.tsv").write_text("a cat\n")
    with pytest.raises(UserError, match=r"line 1 of the file of contrasts bad\.tsv has 1 parts; expected the original"):
        read_contrasts(Path("bad.tsv"))


def test_the_grammar_writes_contrasts_of_one_attribute() -> None:
    found = contrasts("a [red] heart", "a [blue] heart", 12)
    assert len(set(found)) == 12
    for original, edit in found:
        before, after = parse(original), parse(edit)
        assert before.differences(after) == ("colour",)
        assert (before.colour, after.colour) == ("red", "blue")
        assert before.style != "sketch"  # which has no colours
    # The same scenes for another change of the attribute: a value's runs are made once.
    assert [edit for _, edit in contrasts("a green star", "a blue star", 12)] == [edit for _, edit in found]
    assert not any(held_out(parse(original)) and held_out(parse(edit)) for original, edit in found[:3])


def test_sdedit_does_a_share_of_the_steps_again(seen: Observed) -> None:
    plan = SDEdit().plan(seen)
    assert (plan.prompt, plan.redo, dict(plan.changes)) == ("a blue heart", 0.5, {})
    # Of four steps: none, one (half a step is one), one, two, three, all.
    assert [plan.first_step(m, 4) for m in (0, 0.25, 0.5, 1, 1.5, 2, 9, -1)] == [4, 3, 3, 2, 1, 0, 0, 4]
    assert Plan().first_step(1, 4) == 0


def worked(
    mini: Instruments, methods: Any, steps: int, strength: Any, **more: Any
) -> tuple[PairWorker, list[Record], Any]:
    request, pairs = resolve(
        RunOptions(methods, "up.0.1", strength=strength, steps=steps, limit=1, category="colour", **more)
    )
    worker = PairWorker(request, HandedIn(mini.model, scorers=mini.scorers))
    result = worker.work(worker.recorder.task(pairs[0])._replace(keep_images=True))
    return worker, result.records, result.images


def test_pictures_are_blended_by_strength(mini: Instruments) -> None:
    _, records, images = worked(mini, ["paste", "noise"], 1, [0, 0.5, 1])
    assert {record.status for record in records} == {"ok"}
    inside = (images["mask-base"] > 0) | (images["mask-source"] > 0)
    base, source = images["base"].astype(float), images["source"].astype(float)
    none, half, whole, silent, noisy, noisier = (images[record.key] for record in records)
    assert np.array_equal(none, images["base"])
    assert np.array_equal(silent, images["base"])
    assert np.array_equal(whole, np.where(inside[..., None], source, base))
    assert np.abs(half - (base + whole) / 2).max() <= 0.5
    assert np.array_equal(noisy[~inside], images["base"][~inside])
    lpips = [record.metrics["lpips_base"] for record in records[3:]]
    assert lpips == sorted(lpips, key=float)
    assert lpips[0] == 0
    assert not np.array_equal(noisy, noisier)


def test_a_picture_at_strength_1_is_itself_bit_for_bit() -> None:
    levels = np.arange(256, dtype=np.uint8)
    base, picture = np.meshgrid(levels, levels)  # every level on every other
    for strength in (1, 1.0):
        assert np.array_equal(Plan(picture=picture).blended(base, strength), picture)
    assert np.array_equal(Plan(picture=picture).blended(base, 0.0), base)


def test_an_interval_of_a_run_that_begins_late(mini: Instruments, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "registered", dict(METHODS.registered))
    method("late")(Late)
    _, records, images = worked(mini, "late", 4, 1, on_steps=["0-1", "2-3", "all"])
    assert [record.setting.on_steps for record in records] == [(0, 1), (2, 3), None]
    before, after, every = (images[record.key] for record in records)
    assert not np.array_equal(before, after)
    assert np.array_equal(after, every)
    _, (noised,), pictures = worked(mini, "late", 4, 1, options={"push": 0})
    # Batches of other sizes round otherwise.
    assert np.abs(before.astype(int) - pictures[noised.key]).max() <= 2 < np.abs(before.astype(int) - after).max()


class Late:
    """Does the last two of four steps again, with a change on top."""

    push: float = 50.0

    def plan(self, seen: Observed) -> Plan:
        return Plan({site: torch.full_like(seen.base[site], self.push) for site in seen.sites}, redo=0.5)


def test_sdedit_on_mini_lies_between_base_and_source(mini: Instruments) -> None:
    _, records, images = worked(mini, "sdedit", 4, [0, 0.5, 1, 2])
    assert {record.status for record in records} == {"ok"}, records[1].reason
    none, one, two, four = (images[record.key] for record in records)
    assert np.array_equal(none, images["base"])
    assert np.array_equal(four, images["source"])
    lpips = [record.metrics["lpips_base"] or 0 for record in records]
    assert 0 < lpips[1] < lpips[2]
    assert not any(np.array_equal(one, other) for other in (none, two, four))


def test_one_step_is_refused_or_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match="'sdedit' does some of the steps again and needs 2 or more; give --steps 4"):
        resolve(RunOptions("sdedit", "mid.0", steps=1))
    with caplog.at_level(logging.WARNING):
        request, _ = resolve(RunOptions("all", "mid.0", steps=1))
    assert "left out: the method 'sdedit'" in caplog.text
    methods = {condition.method for condition in request.conditions}
    assert {"paste", "noise", "caa", "sae-random"} <= methods
    assert "sdedit" not in methods
    assert "sdedit" in {condition.method for condition in resolve(RunOptions("all", "mid.0", steps=2))[0].conditions}


def test_caa_refuses_prompts_that_the_model_cannot_draw(mini: Instruments, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red heart\ta blue heart\na red qwertz\ta blue qwertz\n")
    options = {"prompts": str(tmp_path / "prompts.txt")}
    request, pairs = resolve(RunOptions("caa", "mid.0", category=6, limit=1, strength=1, options=options))
    worker = PairWorker(request, HandedIn(mini.model, scorers=mini.scorers))
    (record,) = worker.work(worker.recorder.task(pairs[0])).records
    assert record.status == "failed"
    assert "'qwertz'" in str(record.reason)


def test_caa_needs_prompts_where_there_is_no_grammar(tmp_path: Path) -> None:
    duck = PAIR.model_copy(update={"original_prompt": "a [duck]", "editing_prompt": "a [swan]"})
    asked: dict[str, Any] = {"model": "toy_family:toy", "pairs": [duck]}
    with pytest.raises(UserError, match="'caa' needs prompts for each edit; give --option prompts=FILE"):
        resolve(RunOptions("caa", "layer.2", **asked))
    with pytest.raises(UserError, match="there is no file of contrasts nowhere; 'riebench pairs contrasts' writes one"):
        resolve(RunOptions("caa", "layer.2", options={"prompts": "nowhere"}, **asked))
    (tmp_path / "ducks.tsv").write_text("two [duck]s\ttwo [swan]s\n")
    run: dict[str, Any] = {**asked, "options": {"prompts": "ducks.tsv"}, "strength": 1, "quiet": True}
    first = riebench.run("caa", "layer.2", out="out", **run).records
    assert [(record.status, record.notes) for record in first] == [("ok", {"acts": "inside", "prompts": 1})]
    (tmp_path / "ducks.tsv").write_text("two [duck]s\ttwo [swan]s\nthe [duck]\tthe [swan]\n")
    with pytest.raises(UserError, match="files that the method 'caa' reads"):  # which are part of the key
        riebench.run("caa", "layer.2", out="out", **run)
    (again,) = riebench.run("caa", "layer.2", out="other", **run).records
    assert again.notes == {"acts": "inside", "prompts": 2}
    assert again.key != first[0].key


class OddPlan:
    """Returns what is not a plan."""

    kind: int = 0

    def plan(self, seen: Observed) -> Plan:
        picture = seen.pictures["base"]
        if self.kind == 0:
            return Plan(picture=picture[:-1])
        if self.kind == 1:
            return Plan(picture=picture / 255)  # type: ignore[arg-type]
        if self.kind == 2:
            return Plan(picture=picture, prompt="a red heart")
        if self.kind == 3:
            return Plan(redo=1.5)
        picture[:] = 0
        return Plan(picture=picture)


ODD = (
    "returned a picture of uint8 [127, 128, 3], expected uint8 [128, 128, 3]",
    "returned a picture of float64 [128, 128, 3], expected uint8 [128, 128, 3]",
    "returned a Plan with a picture and changes, a prompt or redo; expected the picture alone",
    "returned a Plan whose redo is 1.5, expected a number above 0 and at most 1",
    "assignment destination is read-only",
)


def test_odd_plans_are_failures_with_a_reason(mini: Instruments, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "registered", dict(METHODS.registered))
    method("odd-plan")(OddPlan)
    for kind, reason in enumerate(ODD):
        _, (record,), _ = worked(mini, "odd-plan", 1, 1, options={"kind": kind})
        assert record.status == "failed"
        assert reason in str(record.reason)


def test_a_family_that_cannot_begin_from_a_picture_says_so(mini: Instruments) -> None:
    model = entry_named("toy_family:toy").load(Settings())
    assert isinstance(model, toy_family.ToyModel)
    pair = PAIR.model_copy(update={"original_prompt": "a [cat]", "editing_prompt": "a [dog]"})
    found = riebench.run("sdedit", "layer.2", model=model, pairs=[pair], strength=1, steps=2, out="out", quiet=True)
    assert [(record.status, record.where) for record in found.records] == [("failed", "method")]
    assert "toy cannot begin from a finished picture" in str(found.records[0].reason)


KEYS = {
    "caa": "3b128828",
    "neurons": "f6612217",
    "noise": "21bc9966",
    "none": "5117f19d",
    "paste": "af1290c2",
    "prompt": "a75245a3",
    "random": "69b492a0",
    "sae": "2162ca85",
    "sae-adaptive": "c523c71a",
    "sae-random": "b60cee5e",
    "sdedit": "1c069c93",
    "steering": "61d1b009",
}
"""Method to the beginning of the key of its record, as folders have it that exist already."""


def test_keys_of_earlier_folders_stay(mini: Instruments) -> None:
    """A change of a method's file that changes no number belongs into ``EARLIER_CODE``; one that does, here."""
    options = RunOptions(list(KEYS), "all", limit=1, category="colour", strength=1, steps=2)
    request, pairs = resolve(options)
    worker = PairWorker(request, HandedIn(mini.model, scorers=mini.scorers))
    settings = worker.recorder.task(pairs[0]).settings
    assert {one.setting.method: one.key[:8] for one in settings} == KEYS
