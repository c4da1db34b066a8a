"""The protocols, the presets and the plan of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_masks import grid_by_hand

from riebench.cli import main
from riebench.engine.forecast import forecast
from riebench.engine.pair_task import PairResult
from riebench.engine.pair_worker import PairWorker
from riebench.engine.presets import PRESETS
from riebench.engine.request import resolve
from riebench.engine.run_options import RunOptions
from riebench.instruments.loading import HandedIn, Instruments
from riebench.instruments.mini_instruments import MiniInstruments
from riebench.masks import MaskRules, Region, pair_regions, to_grid
from riebench.methods import Observed, Plan, method, relative_score
from riebench.methods.registry import METHODS
from riebench.models import Edit, Run
from riebench.models.mini import PAIRS
from riebench.models.sdxl import FOUR
from riebench.pairs import Pair, load_pairs, select
from riebench.records import read_records
from riebench.settings.protocols import PAPER, PROTOCOLS, RIEBENCH, Protocol
from riebench.settings.settings import described, parse_settings
from riebench.util.errors import UserError

PUBLISHED = Path(__file__).parents[2] / "shared" / "data" / "riebench.json"


def test_signed_sums(rng: np.random.Generator) -> None:
    source, base = torch.tensor([3.0, -2.9, 0.5]), torch.tensor([-1.0, -1.0, -2.0])
    # Sums .6 and -4: the published shares of the base turn their signs round.
    published = [3 / 0.6 - 1 / 4, -2.9 / 0.6 - 1 / 4, 0.5 / 0.6 - 2 / 4]
    assert relative_score(source, base, "sum").tolist() == pytest.approx(published)
    sound = [3 / 6.4 + 1 / 4, -2.9 / 6.4 + 1 / 4, 0.5 / 6.4 + 2 / 4]
    assert relative_score(source, base, "absolute").tolist() == pytest.approx(sound)
    source, base = (torch.from_numpy(rng.random(9)) for _ in range(2))  # as codes are
    assert torch.equal(relative_score(source, base, "sum"), relative_score(source, base, "absolute"))


def test_fallbacks() -> None:
    mask = np.zeros((1, 64, 64), bool)
    mask[0, 14:18, 0:3] = True  # two cells, the upper one by 2 rows, the lower one by 2
    mask[0, 18, 0] = True
    largest, touched = (MaskRules(blur_kernel=1, fallback=fallback) for fallback in ("largest", "touched"))
    assert np.argwhere(to_grid(Region(mask), 4, 4, largest)).tolist() == [[1, 0]]
    assert np.argwhere(to_grid(Region(mask), 4, 4, touched)).tolist() == [[0, 0], [1, 0]]
    assert (PAPER.fallback, RIEBENCH.fallback) == ("touched", "largest")


def test_union_before_the_grid() -> None:
    apart = np.zeros((2, 64, 64), bool)
    apart[0, 33, 33], apart[1, 0:32, 0:32] = True, True
    rules = (MaskRules(blur_kernel=1, union=union) for union in ("instances", "before"))
    alone, before = (to_grid(Region(apart), 4, 4, rule) for rule in rules)
    assert alone[2, 2]  # the small one falls back on its cell
    assert not before[2, 2]  # as part of the union it is lost


def phrased(category: int, original: str, editing: str) -> Pair:
    return load_pairs(PAIRS)[0].model_copy(
        update={"editing_type_id": category, "original_gsam_prompt": original, "editing_gsam_prompt": editing}
    )


def test_category_rules_can_be_changed() -> None:
    class Everywhere:
        name, fingerprint = "everywhere", "0"

        def find(self, image: np.ndarray, phrase: str) -> np.ndarray:
            mask = np.zeros((1, 8, 8), bool)
            mask[0, len(phrase), int(image[0, 0, 0])] = True
            return mask

    base, source = np.zeros((8, 8, 3), np.uint8), np.ones((8, 8, 3), np.uint8)
    for category, rules in ((2, MaskRules(add_object="both")), (3, MaskRules(delete_object="both"))):
        pair = phrased(category, "hat", "toad")
        plain = pair_regions(Everywhere(), MaskRules(), pair, base, source)
        assert np.array_equal(plain[0].instances, plain[1].instances)
        apart = pair_regions(Everywhere(), rules, pair, base, source)
        assert [np.argwhere(region.pixels()).tolist() for region in apart] == [[[4, 1]], [[3, 0]]]
    pair = phrased(9, "#every", "~a")
    word = pair_regions(Everywhere(), MaskRules(special_phrases=False), pair, base, source)
    assert [np.argwhere(region.pixels()).tolist() for region in word] == [[[2, 1]], [[6, 0]]]


def worker_of(mini: Instruments, pair: Pair, protocol: Protocol, **asked: Any) -> PairWorker:
    wanted: dict[str, Any] = {"method": "steering", "block": "all", "strength": 1, "steps": 1} | asked
    request, _ = resolve(RunOptions(pairs=[pair], protocol=protocol.name, **wanted))
    return PairWorker(request, HandedIn(mini.model, scorers=mini.scorers))


def result_of(worker: PairWorker, pair: Pair) -> PairResult:
    result = worker.work(worker.recorder.task(pair)._replace(keep_images=True))
    for record in result.records:
        assert record.status == "ok", record.reason
        assert record.protocol == worker.request.protocol
    return result


def worked(
    mini: Instruments, pair: Pair, protocol: Protocol, options: dict[str, bool], method: str = "steering"
) -> dict[str, float | None]:
    (record,) = result_of(worker_of(mini, pair, protocol, options=options, method=method), pair).records
    return record.metrics


@pytest.mark.parametrize("method", ["steering", "sae", "neurons"])
def test_the_published_deletions_ignore_only_add(mini: Instruments, method: str) -> None:
    (pair,) = select(load_pairs(PAIRS), categories=[3], limit=1)

    def run(protocol: Protocol, pair: Pair, only_add: bool) -> dict[str, float | None]:
        return worked(mini, pair, protocol, {"only_add": only_add}, method)

    both, adds, published = run(PAPER, pair, False), run(RIEBENCH, pair, True), run(PAPER, pair, True)
    assert published == both
    assert run(RIEBENCH, pair, False)["lpips_base"] != adds["lpips_base"]
    (other,) = select(load_pairs(PAIRS), categories=[6], limit=1)
    assert run(PAPER, other, True)["lpips_base"] != run(PAPER, other, False)["lpips_base"]
    if method != "neurons":  # whose ranking differs between the protocols
        assert published["lpips_base"] == run(RIEBENCH, pair, False)["lpips_base"]
        assert run(PAPER, other, True)["lpips_base"] == run(RIEBENCH, other, True)["lpips_base"]


class TwoThings:
    """Finds a square of two by two cells and a stripe that lies between the pixels which a grid of eight samples."""

    name, fingerprint = "two-things", "0"
    asked: list[str]

    def __init__(self) -> None:
        self.asked = []

    def find(self, image: np.ndarray, phrase: str) -> np.ndarray:
        self.asked.append(phrase)
        found = np.zeros((2, 128, 128), bool)
        found[0, 64:96, 64:96] = True
        found[1, 15:18, 0:3] = True
        return found


@pytest.mark.parametrize("protocol", [PAPER, RIEBENCH])
@pytest.mark.parametrize("phrase", ["the background", "~ a thing"])
def test_complements_are_taken_on_the_grid_in_a_whole_run(
    mini: Instruments, protocol: Protocol, phrase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pair,) = select(load_pairs(PAIRS), categories=[8], limit=1)
    pair = pair.model_copy(update={"original_gsam_prompt": phrase, "editing_gsam_prompt": phrase})
    assert pair.seed is not None
    base, source = mini.model.generate([pair.base_prompt, pair.edit_prompt], [pair.seed] * 2, 1, capture=["mid.0"])
    used: list[Edit] = []
    generate = mini.model.generate

    def spied(*args: Any, edits: Sequence[Edit] = (), **kwargs: Any) -> list[Run]:
        used.extend(edits)
        return generate(*args, edits=edits, **kwargs)

    monkeypatch.setattr(mini.model, "generate", spied)
    worker = worker_of(mini, pair, protocol, block="mid.0", settings={"masker.blur_kernel": 1})
    things = TwoThings()
    worker.instruments.masks = partial(pair_regions, things, worker.instruments.rules)
    result = result_of(worker, pair)
    assert things.asked == ["foreground" if "background" in phrase else "a thing"] * 2
    # The grid is 8 x 8. Of the stripe no sampled pixel is left; the fallback takes every cell that it touches, or the
    # one with two of its three rows.
    keep = torch.ones(8, 8, dtype=torch.bool)
    keep[4:6, 4:6] = keep[1, 0] = False
    if protocol is PAPER:
        keep[0, 0] = False
    difference = source.values["mid.0"] - base.values["mid.0"]
    (edit,) = used
    change = edit.changes["mid.0"]
    assert isinstance(change, torch.Tensor)
    assert torch.allclose(change, difference * keep.flatten()[:, None], atol=1e-4)
    assert difference.abs().sum(-1).min() > 1e-2  # each cell counts
    (record,) = result.records
    (expected,) = generate([pair.base_prompt], [pair.seed], 1, edits=[edit])
    assert np.array_equal(result.images[record.key], expected.image)
    # In pixels, for the metrics, the region is everything but what was found.
    found = things.find(expected.image, "").any(0)
    assert np.array_equal(result.images["mask-base"] > 0, ~found)
    assert np.array_equal(result.images["mask-source"] > 0, ~found)


@pytest.mark.parametrize("protocol", [PAPER, RIEBENCH])
def test_backgrounds_of_minis_masker_on_every_grid(
    mini: Instruments, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(METHODS, "registered", dict(METHODS.registered))
    seen_masks: dict[str, np.ndarray] = {}

    @method("mask-reader")
    class MaskReader:
        def plan(self, seen: Observed) -> Plan:
            for side, masks in (("base", seen.base_masks), ("source", seen.source_masks)):
                for site in seen.sites:
                    seen_masks[f"{side} {site}"] = masks[site].numpy().copy()
            return Plan()

    (pair,) = select(load_pairs(PAIRS), categories=[8], limit=1)
    assert pair.original_gsam_prompt == pair.editing_gsam_prompt == "background"
    result = result_of(worker_of(mini, pair, protocol, method="mask-reader", block=["down.1.0", "mid.0"]), pair)
    grids = [mini.model.sites[site].grid for site in ("down.1.0", "mid.0")]
    assert grids[0] != grids[1]
    masker = MiniInstruments().masker()
    for side in ("base", "source"):
        objects = masker.find(result.images[side], "foreground")
        assert objects.any()
        for site, (cells, _) in zip(("down.1.0", "mid.0"), grids, strict=True):
            expected = ~grid_by_hand(objects, cells, 15)
            assert np.array_equal(seen_masks[f"{side} {site}"].reshape(cells, cells), expected)
            assert 0 < expected.sum() < cells * cells


def test_the_published_scorer_leaves_brackets_in(mini: Instruments) -> None:
    (pair,) = select(load_pairs(PAIRS), categories=[6], limit=1)
    assert "[" in pair.editing_prompt
    paper, mended = (worked(mini, pair, protocol, {}) for protocol in (PAPER, RIEBENCH))
    assert paper["clip_text_edit"] != mended["clip_text_edit"]
    assert paper["clip_image_base"] == mended["clip_image_base"]
    plain = pair.model_copy(update={"editing_prompt": pair.edit_prompt, "original_prompt": pair.base_prompt})
    assert worked(mini, plain, PAPER, {})["clip_text_edit"] == mended["clip_text_edit"]


def test_the_preset_is_the_published_sweep() -> None:
    paper = PRESETS["paper"]
    settings = {
        (name, sweep.options.get("score"), k, strength)
        for sweep in paper.sweeps
        for name in sweep.methods
        for k in sweep.k or (None,)
        for strength in sweep.strengths
    }
    assert len(settings) == 32
    assert ("neurons", "mean", 80000, 2) in settings
    assert ("sae", "first", 640, 1) in settings
    assert ("steering", None, None, 0.25) in settings
    assert PROTOCOLS[paper.protocol] is PAPER


def test_the_preset_of_flux_sets_what_the_authors_notebook_sets(tmp_path: Path) -> None:
    sae = tmp_path / "saes" / "double.18"
    sae.mkdir(parents=True)
    (sae / "config.json").write_text(json.dumps({"n_dirs_local": 12288, "d_model": 3072, "k": 20}))
    (sae / "state_dict.pth").touch()
    saes = {"sae.folder": str(tmp_path / "saes")}
    plain, _ = resolve(RunOptions(preset="paper", model="flux-schnell", pairs=PAIRS, settings=saes))
    flux, _ = resolve(RunOptions(preset="paper-flux", model="flux-schnell", pairs=PAIRS, settings=saes))
    assert (plain.steps, plain.settings.model.size, plain.settings.model.dtype) == (4, None, "float32")
    assert (flux.steps, flux.settings.model.size, flux.settings.model.dtype) == (1, 1024, "bfloat16")
    assert (flux.protocol, flux.conditions[0].sites) == ("paper", ("double.18",))
    assert [c.options for c in flux.conditions] == [c.options for c in plain.conditions]
    own = saes | {"size": 768, "model.dtype": "float16", "masker.short_side": 600}
    other, _ = resolve(RunOptions(preset="paper-flux", model="flux-schnell", pairs=PAIRS, settings=own, steps=2))
    assert (other.steps, other.settings.model.size, other.settings.model.dtype) == (2, 768, "float16")
    assert other.settings.masker.short_side == 600


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="needs the published pairs, which are not part of the project")
def test_the_plan_of_the_published_sweep() -> None:
    request, pairs = resolve(RunOptions(preset="paper", model="sdxl-turbo", pairs=PUBLISHED))
    assert len(pairs) == 296
    plan = forecast(request)
    assert (plan.pairs, plan.settings) == (296, 32)
    assert (plan.forwards, plan.plain) == (40_256, 116_032)
    assert plan.memory is not None
    assert 15e9 < plan.memory < 40e9


@pytest.mark.parametrize(
    ("model", "guidance", "passes"),
    [("sd1.5", None, 2), ("sd1.5", 1.0, 1), ("lcm", None, 1), ("flux-dev", None, 1), ("qwen-image", None, 2)],
)
def test_only_an_unconditional_part_doubles_the_passes_of_a_plan(
    model: str, guidance: float | None, passes: int
) -> None:
    settings = {} if guidance is None else {"guidance": guidance}
    chosen: dict[str, Any] = {"pairs": PAIRS, "limit": 1, "category": 1, "strength": (1, 2), "steps": 3}
    plan = forecast(resolve(RunOptions("steering", "all", model=model, settings=settings, **chosen))[0])
    assert plan.forwards == plan.pairs * 3 * (2 + 2) * passes


def test_what_is_named_twice_is_planned_once() -> None:
    twice = RunOptions(["sae", "sae"], ["mid.0", "mid.0"], strength=[1, 2, 1.0], k=[3, 3], limit=1, category=1)
    request, _ = resolve(twice)
    assert [condition.strengths for condition in request.conditions] == [(1.0, 2.0)]
    assert forecast(request).settings == 2


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(words))
    return int(left.value.code or 0)


def test_dry_run_needs_no_weights(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("run", "--model", "sdxl-turbo", "--preset", "paper-small", "--pairs", str(PAIRS), "--dry-run")
    assert command(*words, "--weights", "nowhere") == 0
    said = capsys.readouterr().out
    assert "54" in said
    assert "settings  9; 486 records" in said
    assert f"{54 * 4 * 11:,}" in said
    assert "protocol paper" in said


@pytest.mark.parametrize(("model", "steps"), [("sdxl-turbo", 4), ("sdxl-base", 25)])
def test_a_guided_model_keeps_its_own_steps_under_a_preset(model: str, steps: int) -> None:
    assert resolve(RunOptions(preset="paper", model=model, pairs=PAIRS))[0].steps == steps
    assert resolve(RunOptions(preset="paper", model=model, pairs=PAIRS, steps=3))[0].steps == 3


def test_a_preset_on_mini_keeps_its_shares(mini: Instruments) -> None:
    request, _ = resolve(RunOptions(preset="paper"))
    assert sum(len(c.strengths) for c in request.conditions) == 32
    features = sum(mini.model.sae(b).n_features for b in FOUR)
    assert [c.options["k"] for c in request.conditions if c.method == "sae"] == [
        round(k * features / 20480) for k in (80, 160, 320, 640)
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--preset", "papr"), "did you mean 'paper'"),
        (("--preset", "paper", "--method", "sae"), "leave out method or preset"),
        (("--method", "sae", "--block", "mid.0", "--protocol", "papers"), "did you mean 'paper'"),
        (
            ("--method", "sae", "--block", "mid.0", "--set", "masker.box_treshold=1"),
            "did you mean 'masker.box_threshold'",
        ),
        (("--method", "sae", "--block", "mid.0", "--set", "masker.box_threshold=2"), "masker.box_threshold is '2'"),
        (("--method", "sae", "--block", "mid.0", "--set", "masker.box_threshold=.3"), "is not for mini"),
        (("--method", "sae", "--block", "mid.0", "--set", "masker"), "'masker' is no name=value"),
        (("--method", "sae", "--block", "mid.0", "--device", "gpu"), "'gpu' is not known"),
        (
            ("--model", "sdxl-turbo", "--preset", "paper", "--pairs", str(PAIRS), "--weights", "nowhere"),
            "7 of 7 parts are missing",
        ),
    ],
)
def test_bad_input(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str) -> None:
    assert command("run", *words) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_settings_from_words() -> None:
    settings = parse_settings({"masker.short_side": "600", "sae.k": "20", "dtype": "bfloat16", "weights": None})
    assert (settings.masker.short_side, settings.sae.k, settings.model.dtype) == (600, 20, "bfloat16")
    changed = {"masker": {"short_side": 600}, "sae": {"k": 20}, "model": {"dtype": "bfloat16"}}
    assert settings.model_dump(exclude_defaults=True) == changed
    assert all(field.description for name, field in described() if "." in name)
    with pytest.raises(UserError, match=r"model\.dtype"):
        parse_settings({"model.dtype": "float8"})


def test_records_name_their_protocol_and_conditions(tmp_path: Path) -> None:
    words = ("run", "--method", "none", "--block", "mid.0", "--limit", "1", "--category", "6", "--out", "out")
    assert command(*words, "--set", "masker.blur_kernel=3", "--strength", "1") == 0
    record = json.loads(read_records(tmp_path / "out")[0].model_dump_json())
    assert record["protocol"] == "riebench"
    assert record["conditions"]["masks.blur_kernel"] == 3
    assert record["conditions"]["dtype"] == "float32"
