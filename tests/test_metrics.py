"""Metrics: closed forms, and what must hold of any trunk."""

from __future__ import annotations

from pathlib import Path

import lpips as lpips_package
import numpy as np
import pytest
import torch
import torchvision

from riebench.engine.instruments import Instruments
from riebench.metrics import METRICS, Reference, score_images
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
    within, maps = mini.scorers.lpips.means_within, [mini.scorers.lpips.layers(a, b)]
    ((inside,), (outside,)) = within(maps, region), within(maps, ~region)
    assert inside is not None
    assert outside is not None
    assert inside > 5 * outside
    assert within(maps, np.zeros((128, 128), bool)) == [None]


def test_scores_of_base_and_source(mini: Instruments) -> None:
    base, source = picture(BASE), picture(SOURCE)
    region = draw(BASE, layout_of_seed(1)).masks["object"]
    reference = Reference(base, source, "a blue heart against the sky", "a red heart against the sky", region)
    as_base, as_source, again = score_images(mini.scorers, reference, [base, source, base])
    assert as_base == again
    of_base = {"clip_text_edit_base", "clip_text_original_base", "clip_image_source_base", "lpips_source_base"}
    assert set(as_base) == set(METRICS) - {"edit_success", "kept"} | of_base
    (alone,) = score_images(mini.scorers, reference, [source])
    for name in of_base:
        assert as_source[name] == as_base[name] == pytest.approx(as_base[name.removesuffix("_base")], abs=1e-6)
        assert alone[name] == pytest.approx(as_base[name], abs=1e-6)
    assert as_base["lpips_base"] == 0
    assert as_source["lpips_source"] == 0
    assert as_base["clip_image_base"] == pytest.approx(1, abs=1e-5)
    assert as_source["clip_text_edit"] > as_base["clip_text_edit"]
    assert as_base["clip_text_original"] > as_source["clip_text_original"]
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
