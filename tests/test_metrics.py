"""Metrics: closed forms, and what must hold of any trunk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import lpips as lpips_package
import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image

import riebench
from riebench.cli import main
from riebench.engine.bench import difference, plain_setting
from riebench.engine.pair_worker import PairWorker
from riebench.engine.request import resolve
from riebench.engine.run_options import RunOptions
from riebench.instruments.loading import HandedIn, Instruments
from riebench.metrics import METRICS, Reference, Seen, metric, score_images
from riebench.metrics.catalogue import OF_SOURCE
from riebench.metrics.lpips import Features, LpipsScorer
from riebench.mini.grammar import Scene
from riebench.mini.layout import layout_of_seed
from riebench.mini.render import draw
from riebench.util.errors import UserError


def picture(scene: Scene, seed: int = 1) -> np.ndarray:
    return np.round(draw(scene, layout_of_seed(seed)).image * 255).astype(np.uint8)


def distance(scorer: LpipsScorer, a: Features, b: Features) -> float:
    return scorer.totals([scorer.layers(a, b)])[0]


BASE = Scene(shape="heart", colour="red", background="sky")
SOURCE = BASE.changed(colour="blue")


def test_lpips_is_zero_for_equal_images(mini: Instruments) -> None:
    a, b = mini.scorers.lpips.features([picture(BASE), picture(BASE)])
    assert distance(mini.scorers.lpips, a, b) == 0.0


def test_lpips_agrees_with_the_package(mini: Instruments) -> None:
    images = [picture(BASE), picture(SOURCE.changed(shape="star"))]
    a, b = mini.scorers.lpips.features(images)
    tensors = [torch.from_numpy(i).permute(2, 0, 1)[None].float() / 127.5 - 1 for i in images]
    with torch.no_grad():
        expected = mini.scorers.lpips.model(*tensors).item()
    assert isinstance(mini.scorers.lpips.model, lpips_package.LPIPS)
    assert distance(mini.scorers.lpips, a, b) == pytest.approx(expected, rel=1e-5)


def test_lpips_grows_with_the_change(mini: Instruments, rng: np.random.Generator) -> None:
    clean = picture(BASE)
    noise = rng.normal(0, 1, clean.shape)
    noisy = [np.clip(clean + s * noise, 0, 255).astype(np.uint8) for s in (0, 4, 10, 25, 60)]
    changed = [
        Scene(),
        Scene(colour="blue"),
        Scene(colour="blue", shape="star"),
        Scene("star", "blue", "striped", style="inverted"),
    ]
    for images in (noisy, [picture(s) for s in changed]):
        first, *others = mini.scorers.lpips.features(images)
        distances = [distance(mini.scorers.lpips, f, first) for f in others]
        assert distances == sorted(distances)
        assert distances[0] > 0


def test_lpips_by_region_finds_the_change(mini: Instruments) -> None:
    clean = picture(BASE)
    dirty = clean.copy()
    dirty[:40, :40] = 255 - dirty[:40, :40]
    region = np.zeros((128, 128), bool)
    region[:40, :40] = True
    a, b = mini.scorers.lpips.features([clean, dirty])
    by_region, maps = mini.scorers.lpips.means_by_region, [mini.scorers.lpips.layers(a, b)]
    ((inside,), (outside,)) = by_region(maps, region)
    assert inside is not None
    assert outside is not None
    assert inside > 5 * outside
    assert by_region(maps, np.zeros((128, 128), bool))[0] == [None]
    assert by_region(maps, np.ones((128, 128), bool))[1] == [None]


def test_scores_of_base_and_source(mini: Instruments) -> None:
    base, source = picture(BASE), picture(SOURCE)
    region = draw(BASE, layout_of_seed(1)).masks["object"]
    reference = Reference(base, source, "a blue heart against the sky", "a red heart against the sky", region)
    as_base, as_source, again = score_images(mini.scorers, reference, [base, source, base])
    assert as_base == again
    of_base = {"clip_text_edit_base", "clip_text_original_base", "clip_image_source_base", "lpips_source_base"}
    default = {name for name, known in METRICS.items() if not known.optional}
    assert set(as_base) == default - {"edit_success", "kept"} | of_base | {OF_SOURCE}
    assert as_base[OF_SOURCE] == as_source[OF_SOURCE] == pytest.approx(as_source["clip_text_edit"], abs=1e-6)
    (alone,) = score_images(mini.scorers, reference, [source])
    for name in of_base:
        assert as_source[name] == as_base[name] == pytest.approx(as_base[name.removesuffix("_base")], abs=1e-6)
        assert alone[name] == pytest.approx(as_base[name], abs=1e-6)
    assert as_base["lpips_base"] == 0
    assert as_source["lpips_source"] == 0
    assert as_base["clip_image_base"] == pytest.approx(1, abs=1e-5)
    for name, sign in (("clip_text_edit", 1), ("clip_text_original", -1)):
        of_source, of_base_picture = as_source[name], as_base[name]
        assert of_source is not None
        assert of_base_picture is not None
        assert sign * of_source > sign * of_base_picture
    clip = mini.scorers.clip
    by_hand = float(clip.images([source])[0] @ clip.text("a blue heart against the sky"))
    assert as_source["clip_text_edit"] == pytest.approx(by_hand, abs=1e-4)
    masked = float(clip.images([source * region[..., None]])[0] @ clip.text("a blue heart against the sky"))
    assert as_source["clip_text_edit_inside"] == pytest.approx(masked, abs=1e-4)
    full = Reference(base, source, "a", "b", np.ones((128, 128), bool))
    assert score_images(mini.scorers, full, [base])[0]["clip_text_edit_outside"] is None


@pytest.mark.parametrize("net", ["vgg", "squeeze"])
def test_other_trunks_from_torchvisions_file(net: str, tmp_path: Path, rng: np.random.Generator) -> None:
    torch.manual_seed(0)
    made = torchvision.models.vgg16() if net == "vgg" else torchvision.models.squeezenet1_1()
    torch.save({f"features.{k}": v for k, v in made.features.state_dict().items()}, tmp_path / "trunk.pth")
    scorer = LpipsScorer(f"lpips-{net}", tmp_path / "trunk.pth", "0", net)
    images = [rng.integers(0, 256, (64, 64, 3)).astype(np.uint8) for _ in range(2)]
    a, b = scorer.features(images)
    x = [torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1 for image in images]
    with torch.no_grad():
        assert distance(scorer, a, b) == pytest.approx(scorer.model(*x).item(), abs=1e-5)
        # The convolutions are the file's, not random ones.
        layers = made.features[:4] if net == "vgg" else made.features[:2]
        own = layers(scorer.model.scaling_layer(x[0]))
        assert torch.allclose(scorer.model.net(scorer.model.scaling_layer(x[0]))[0], own, atol=1e-5)
    with pytest.raises(UserError, match="does not hold the trunk 'alex'"):
        LpipsScorer("lpips", tmp_path / "trunk.pth", "0", "alex")


@pytest.fixture
def toy() -> Iterator[list[int]]:
    """Two metrics of a stranger's, known as long as the test runs; the list gets the pictures of each call."""
    calls: list[int] = []

    @metric("redness", "mean of the red channel", of_base=True)
    def redness(seen: Seen) -> Sequence[float | None]:
        return [float(picture[..., 0].mean()) for picture in seen.pictures]

    @metric("calls", "how often it was asked")
    def count(seen: Seen) -> Sequence[float | None]:
        calls.append(len(seen.pictures))
        return [float(len(calls))] * len(seen.pictures)

    yield calls
    for name in ("redness", "calls"):
        METRICS.pop(name, None)


def test_a_metric_is_one_function(
    mini: Instruments, toy: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="'redness' is taken"):
        metric("redness", "again")(lambda seen: [])
    done = riebench.run(
        ["steering", "none"],
        "mid.0",
        strength=[1, 2],
        model=mini.model,
        scorers=mini.scorers,
        limit=1,
        category=6,
        steps=1,
        out=tmp_path / "run",
        quiet=True,
    )
    assert len(done.records) == 4
    assert toy == [3]  # the base picture and two edited ones, looked at together
    base = next(r.metrics["redness"] for r in done.records if r.setting.method == "none")
    for record in done.records:
        kept = np.asarray(Image.open(tmp_path / "run" / "images" / f"{record.pair_id}-{record.key}.png"))
        assert record.metrics["redness"] == pytest.approx(kept[..., 0].mean())
        assert record.metrics["redness_base"] == base
        assert record.metrics["calls"] == 1
        assert "calls_base" not in record.metrics
    frame = riebench.load_records(tmp_path / "run")
    assert frame["redness"].tolist() == [record.metrics["redness"] for record in done.records]
    assert frame["redness_base"].unique().tolist() == [base]
    with pytest.raises(SystemExit) as left:
        main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "report"), "--no-figures", "--no-page"])
    assert not left.value.code, capsys.readouterr().err
    for name, column in (("curves.csv", "redness_mean"), ("leaderboard.csv", "held_out_redness")):
        assert column in pd.read_csv(tmp_path / "report" / name), name
    steering = [r.metrics["redness"] for r in done.records if r.setting.method == "steering"]
    curves = pd.read_csv(tmp_path / "report" / "curves.csv")
    chosen = curves[(curves["method"] == "steering") & (curves["category"] == "all")]
    assert chosen.sort_values("strength")["redness_mean"].tolist() == pytest.approx(steering)


def test_the_bench_compares_every_metric(mini: Instruments, toy: list[int]) -> None:
    request, (pair, *_) = resolve(RunOptions("steering", "mid.0", strength=1, steps=1, limit=1, category=6))
    worker = PairWorker(request, HandedIn(mini.model, scorers=mini.scorers))
    task = worker.recorder.task(pair)
    (record,) = worker.work(task).records
    plain = plain_setting(worker, task, task.settings[0])
    default = {name for name, known in METRICS.items() if not known.optional}
    assert (
        set(plain)
        == set(record.metrics)
        == default | {f"{m.name}_base" for m in METRICS.values() if m.of_base} | {OF_SOURCE}
    )
    # All agree but the one that counts how often it was asked.
    assert difference(record.metrics, plain) == pytest.approx(1, abs=1e-3)
    del METRICS["calls"]
    assert difference(worker.work(task).records[0].metrics, plain_setting(worker, task, task.settings[0])) < 1e-3


@pytest.mark.parametrize("category", [1, 3, 8, 9])
def test_every_record_knows_the_base_picture(mini: Instruments, category: int) -> None:
    methods = ["none", "steering", "sae", "prompt"]
    request, (pair, *_) = resolve(RunOptions(methods, "all", strength=[0.5, 2], steps=1, limit=1, category=category))
    worker = PairWorker(request, HandedIn(mini.model, scorers=mini.scorers))
    task = worker.recorder.task(pair)
    records = worker.work(task).records
    assert all(record.status == "ok" for record in records)
    nothing = next(record.metrics for record in records if record.setting.method == "none")
    names = ("clip_text_edit", "clip_text_original", "clip_image_source", "lpips_source")
    assert {f"{name}_base" for name in names} <= set(nothing)
    for record in records:
        for name in names:
            assert record.metrics[f"{name}_base"] == pytest.approx(nothing[name], abs=1e-6)
    edited = [record.metrics for record in records if record.setting.method == "steering"]
    assert all(metrics["clip_text_edit"] != metrics["clip_text_edit_base"] for metrics in edited)
    # A task with one setting alone, as in a resumed run, knows it too.
    (last,) = worker.work(task._replace(settings=task.settings[-1:])).records
    for name in names:
        assert last.metrics[f"{name}_base"] == pytest.approx(nothing[name], abs=1e-6)


def test_scores_by_independent_computations(mini: Instruments, rng: np.random.Generator) -> None:
    base, source = picture(BASE), picture(SOURCE)
    edited = [picture(BASE.changed(shape="star")), rng.integers(0, 256, (128, 128, 3)).astype(np.uint8), source]
    region = draw(BASE, layout_of_seed(1)).masks["object"]
    words = ("a blue heart against the sky", "a red heart against the sky")
    clip, lpips = mini.scorers.clip, mini.scorers.lpips

    def unit(embedding: torch.Tensor) -> torch.Tensor:
        return embedding[0].double() / embedding[0].double().norm()

    # What the published scorer gives each picture to.
    _, _, preprocess = open_clip.create_model_and_transforms(clip.name)

    def embed(image: np.ndarray) -> torch.Tensor:
        return unit(clip.model.encode_image(preprocess(Image.fromarray(image))[None]))

    def tensor(image: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1

    spatial = lpips_package.LPIPS(net="alex", pnet_rand=True, verbose=False, spatial=True).eval()
    spatial.load_state_dict(lpips.model.state_dict())
    found = score_images(mini.scorers, Reference(base, source, *words, region), edited)
    inside = torch.from_numpy(region)
    with torch.no_grad():
        edit, original = (unit(clip.model.encode_text(clip.tokenizer([prompt]))) for prompt in words)
        for image, scores in zip(edited, found, strict=True):
            maps = spatial(tensor(image), tensor(base))[0, 0].double()
            expected = {
                "clip_text_edit": embed(image) @ edit,
                "clip_text_original": embed(image) @ original,
                "clip_image_source": embed(image) @ embed(source),
                "clip_image_base": embed(image) @ embed(base),
                "lpips_base": lpips.model(tensor(image), tensor(base)),
                "lpips_source": lpips.model(tensor(image), tensor(source)),
                "clip_text_edit_inside": embed(image * region[..., None]) @ edit,
                "clip_text_edit_outside": embed(image * ~region[..., None]) @ edit,
                "lpips_base_inside": maps[inside].mean(),
                "lpips_base_outside": maps[~inside].mean(),
                "clip_text_edit_base": embed(base) @ edit,
                "clip_text_original_base": embed(base) @ original,
                "clip_text_edit_source": embed(source) @ edit,
                "clip_image_source_base": embed(base) @ embed(source),
                "lpips_source_base": lpips.model(tensor(base), tensor(source)),
            }
            assert scores == pytest.approx({name: float(value) for name, value in expected.items()}, abs=1e-5)
