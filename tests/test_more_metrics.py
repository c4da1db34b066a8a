"""Optional metrics: against computations by hand, their choice, and the records that lack them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor
from torchmetrics.functional.image import learned_perceptual_image_patch_similarity

import riebench
from riebench.cli import main
from riebench.engine.request import resolve
from riebench.engine.run_options import RunOptions
from riebench.instruments.loading import Instruments
from riebench.instruments.published import PublishedInstruments
from riebench.metrics import METRICS, Reference, Scorers, chosen, measured_by, score_images
from riebench.metrics.dino import DinoScorer
from riebench.metrics.lpips import LpipsScorer
from riebench.models import entry_named
from riebench.records import RunFolder, read_records
from riebench.settings.protocols import PROTOCOLS
from riebench.settings.settings import parse_settings
from riebench.util.errors import UserError
from riebench.weights import SCORERS

SIDE = 40
PIXELS = ("psnr_outside", "ssim_outside", "mse_outside")


@pytest.fixture
def pictures(rng: np.random.Generator) -> list[np.ndarray]:
    """A base image, a source image, and an edited one near the base image."""
    base, source = (rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8) for _ in range(2))
    edited = np.clip(base.astype(int) + rng.integers(-40, 41, base.shape), 0, 255).astype(np.uint8)
    return [base, source, edited]


def reference_of(pictures: list[np.ndarray], region: np.ndarray | None = None) -> Reference:
    if region is None:
        region = np.zeros((SIDE, SIDE), bool)
        region[3:9, 5:20] = True
    return Reference(pictures[0], pictures[1], "a blue heart", "a red heart", region)


def ssim_by_hand(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over windows of 11 x 11 with Gaussian weights of sigma 1.5; the picture is mirrored at its border."""
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    weights = np.outer(line, line) / line.sum() ** 2
    a, b = (np.pad(image, ((5, 5), (5, 5), (0, 0)), mode="reflect") for image in (a, b))
    found = []
    for channel in range(3):
        for y in range(SIDE):
            for x in range(SIDE):
                p, q = (image[y : y + 11, x : x + 11, channel] for image in (a, b))
                mean_p, mean_q = (weights * p).sum(), (weights * q).sum()
                var_p, var_q = (weights * p * p).sum() - mean_p**2, (weights * q * q).sum() - mean_q**2
                both = (weights * p * q).sum() - mean_p * mean_q
                top = (2 * mean_p * mean_q + 0.01**2) * (2 * both + 0.03**2)
                found.append(top / ((mean_p**2 + mean_q**2 + 0.01**2) * (var_p + var_q + 0.03**2)))
    return float(np.mean(found))


def test_pixels_outside_the_region(mini: Instruments, pictures: list[np.ndarray]) -> None:
    base, _, edited = pictures
    reference = reference_of(pictures)
    found, same = score_images(mini.scorers, reference, [edited, base], PIXELS)
    a, b = (image / 255 * ~reference.region[..., None] for image in (edited, base))
    mse = ((a - b) ** 2).mean()  # over the whole picture, as PnPInversion has it
    assert found["mse_outside"] == pytest.approx(mse, rel=1e-9)
    assert found["psnr_outside"] == pytest.approx(10 * np.log10(1 / mse), rel=1e-6)
    assert found["ssim_outside"] == pytest.approx(ssim_by_hand(a, b), rel=1e-6)
    assert set(found) == set(PIXELS)
    assert same == {"mse_outside": 0, "psnr_outside": None, "ssim_outside": pytest.approx(1)}
    (inside,) = score_images(mini.scorers, reference, [np.where(reference.region[..., None], edited, base)], PIXELS)
    assert inside == same  # a change inside the region is no change
    full = reference_of(pictures, np.ones((SIDE, SIDE), bool))
    assert score_images(mini.scorers, full, [edited], PIXELS) == [dict.fromkeys(PIXELS)]


def test_squeeze_outside_is_that_of_torchmetrics(
    mini: Instruments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    torch.manual_seed(0)
    made = torchvision.models.squeezenet1_1()
    torch.save(made.state_dict(), tmp_path / "squeeze.pth")
    scorers = mini.scorers._replace(
        more={"lpips-squeeze": LpipsScorer("lpips-squeeze", tmp_path / "squeeze.pth", "0", "squeeze")}
    )
    base, edited = (rng.integers(0, 256, (64, 64, 3)).astype(np.uint8) for _ in range(2))
    region = np.zeros((64, 64), bool)
    region[:30, 10:40] = True
    reference = Reference(base, base, "a", "b", region)
    (found,) = score_images(scorers, reference, [edited], ["lpips_squeeze_outside"])
    monkeypatch.setattr(torchvision.models, "squeezenet1_1", lambda **_: made)  # it would fetch the published weights
    tensors = [
        torch.from_numpy(i * ~region[..., None]).permute(2, 0, 1)[None].float() / 127.5 - 1 for i in (edited, base)
    ]
    expected = learned_perceptual_image_patch_similarity(*tensors, net_type="squeeze")
    assert found["lpips_squeeze_outside"] == pytest.approx(expected.item(), rel=1e-4)
    full = reference._replace(region=np.ones((64, 64), bool))
    assert score_images(scorers, full, [edited], ["lpips_squeeze_outside"]) == [{"lpips_squeeze_outside": None}]


TINY = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 3, "num_classes": 0}


@timm.models.register_model
def vit_tiny_for_tests(pretrained: bool = False, **more: object) -> timm.models.VisionTransformer:
    model = timm.models.VisionTransformer(**{**TINY, "num_classes": more.get("num_classes", 0)})  # type: ignore[arg-type]
    model.pretrained_cfg = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    return model


def keys_by_hand(model: timm.models.VisionTransformer, picture: Tensor) -> Tensor:
    """Keys ``[5, 12]`` of the last layer for a normalised picture ``[3, 16, 16]``, from the weights alone."""
    weights = {name: value.double() for name, value in model.state_dict().items()}

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    patches = [picture[:, y : y + 8, x : x + 8].reshape(-1).double() for y in (0, 8) for x in (0, 8)]
    kernel = weights["patch_embed.proj.weight"].reshape(12, -1)
    tokens = torch.stack(patches) @ kernel.T + weights["patch_embed.proj.bias"]
    x = torch.cat([weights["cls_token"][0], tokens]) + weights["pos_embed"][0]
    for block in ("blocks.0", "blocks.1"):
        heads = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").reshape(5, 3, 3, 4)  # token, q k v, head, width
        q, k, v = heads.permute(1, 2, 0, 3)
        if block == "blocks.1":
            return k.permute(1, 0, 2).reshape(5, 12)  # the heads side by side
        mixed = torch.softmax(q @ k.transpose(1, 2) / 4**0.5, -1) @ v
        x = x + linear(mixed.permute(1, 0, 2).reshape(5, 12), f"{block}.attn.proj")
        hidden = torch.nn.functional.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
        x = x + linear(hidden, f"{block}.mlp.fc2")
    raise AssertionError


@pytest.fixture
def dino(tmp_path: Path) -> DinoScorer:
    torch.manual_seed(1)
    model = vit_tiny_for_tests()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    torch.save(model.state_dict(), tmp_path / "dino.pth")
    return DinoScorer("dino-tiny", tmp_path / "dino.pth", "0", "vit_tiny_for_tests")


@pytest.mark.parametrize("byte_range", [False, True])
def test_structure_distance_by_hand(
    mini: Instruments, dino: DinoScorer, rng: np.random.Generator, byte_range: bool
) -> None:
    dino.scale = 1.0 if byte_range else 255.0
    base, edited = (rng.integers(0, 256, (16, 16, 3)).astype(np.uint8) for _ in range(2))
    reference = Reference(base, base, "a", "b", np.ones((16, 16), bool))
    scorers = mini.scorers._replace(more={"dino": dino})
    found, same = score_images(scorers, reference, [edited, base], ["structure_distance"])
    maps = []
    for image in (edited, base):
        mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        picture = torch.from_numpy(((image / (1 if byte_range else 255)) - mean) / std).permute(2, 0, 1)
        keys = keys_by_hand(dino.model, picture).numpy()
        maps.append([[p @ q / np.linalg.norm(p) / np.linalg.norm(q) for p in keys] for q in keys])
    assert found["structure_distance"] == pytest.approx(np.mean(np.subtract(*maps) ** 2), rel=1e-4)
    assert same["structure_distance"] == 0
    (large,) = dino.self_similarities([np.full((50, 50, 3), 9, np.uint8)])  # brought to the network's size
    assert large.shape == (5, 5)


def test_wrong_weights_are_one_line(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "x.pth")
    for model in ("vit_tiny_for_tests", "no_such_network"):
        with pytest.raises(UserError, match=f"DINO '{model}' cannot be loaded from"):
            DinoScorer("x", tmp_path / "x.pth", "0", model)


def test_directional_similarity(mini: Instruments, pictures: list[np.ndarray]) -> None:
    base, _, edited = pictures
    reference, clip = reference_of(pictures), mini.scorers.clip
    found, same = score_images(mini.scorers, reference, [edited, base], ["clip_directional"])
    images, texts = clip.images([edited, base]).numpy(), clip.texts(["a blue heart", "a red heart"]).numpy()
    moved, wanted = images[0] - images[1], texts[0] - texts[1]
    cosine = moved @ wanted / np.linalg.norm(moved) / np.linalg.norm(wanted)
    assert found == {"clip_directional": pytest.approx(cosine, abs=1e-4)}
    assert same == {"clip_directional": None}


def test_only_what_is_needed_is_looked_at(
    mini: Instruments, pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    for name, scorer, call in (("clip", mini.scorers.clip, "images"), ("lpips", mini.scorers.lpips, "features")):
        asked = getattr(scorer, call)
        monkeypatch.setattr(
            scorer, call, lambda given, asked=asked, name=name: looks.append(f"{name} {len(given)}") or asked(given)
        )
    reference = reference_of(pictures)
    for names, expected in (
        (PIXELS, []),
        (["clip_directional"], ["clip 3"]),
        (chosen(["published"]), ["clip 3", "lpips 3"]),
        (None, ["clip 5", "lpips 3"]),
    ):
        looks.clear()
        score_images(mini.scorers, reference, [pictures[2]], names)
        assert looks == expected, names


def test_sets_of_metrics() -> None:
    default = [name for name, metric in METRICS.items() if not metric.optional]
    six = [name for name, metric in METRICS.items() if metric.published]
    assert len(six) == 6
    assert list(chosen(["default"])) == default
    assert set(chosen(["published"])) == {*six, "edit_success", "kept"}
    assert chosen(["mse_outside"]) == ("clip_text_edit", "lpips_base", "mse_outside")
    assert resolve(RunOptions("none", "mid.0"))[0].metrics is None
    assert resolve(RunOptions("none", "mid.0", protocol="paper"))[0].metrics == chosen(["published"])
    assert resolve(RunOptions("none", "mid.0", protocol="paper", metrics="default"))[0].metrics is None
    both = resolve(RunOptions("none", "mid.0", metrics="published, mse_outside"))[0].metrics
    assert both == chosen(["published", "mse_outside"])
    with pytest.raises(UserError, match="unknown metric 'psnr'; did you mean 'psnr_outside'"):
        resolve(RunOptions("none", "mid.0", metrics=["psnr"]))
    for name in ("structure_distance", "lpips_squeeze_outside"):
        with pytest.raises(UserError, match=rf"{name} needs a network for photographs .* of the pictures of mini"):
            resolve(RunOptions("none", "mid.0", metrics=name))


def test_networks_of_single_metrics_are_found_or_named(tmp_path: Path, dino: DinoScorer) -> None:
    for part in SCORERS:  # the weights folder of a model whose other parts are handed in
        (tmp_path / part.folder).mkdir(exist_ok=True)
    entry, protocol = entry_named("sdxl-turbo"), PROTOCOLS["riebench"]
    without = ("model", "sae", "detector", "text-encoder", "segmenter", "clip", "lpips")

    def own(**more: str | Path) -> PublishedInstruments:
        return PublishedInstruments(
            entry, parse_settings({"weights": tmp_path, "device": "cpu", **more}), protocol, without
        )

    for name, setting in (("dino", "dino.location"), ("lpips-squeeze", "lpips.squeeze")):
        with pytest.raises(UserError, match=rf"riebench fetch sdxl-turbo --part {name}.*--set {setting}=FILE"):
            own().scorer(name)
        with pytest.raises(
            UserError, match=f"there is no file .*nowhere; name the weights of {name} with --set {setting}"
        ):
            own(**{setting: "nowhere"}).scorer(name)
    squeeze = tmp_path / "squeezenet1_1-b8a52dc0.pth"
    torch.save(torchvision.models.squeezenet1_1().state_dict(), squeeze)
    with pytest.raises(UserError, match="is damaged"):
        own(**{"lpips.squeeze": squeeze}).scorer("lpips-squeeze")
    file = tmp_path / "dino.pth"
    found = own(**{"dino.location": file, "dino.model": "vit_tiny_for_tests", "dino.byte_range": "true"}).scorer("dino")
    assert (found.name, found.scale) == ("vit_tiny_for_tests-bytes", 1.0)
    by = measured_by(Scorers(None, None, {"dino": found}), ["structure_distance", "mse_outside"])  # type: ignore[arg-type]
    assert by == {"structure_distance": f"vit_tiny_for_tests-bytes-{found.fingerprint}"}


def lines(folder: Path) -> list[dict[str, dict[str, float | None]]]:
    return [json.loads(record.model_dump_json()) for record in read_records(folder)]


def test_a_record_keeps_the_metrics_of_an_earlier_one(tmp_path: Path) -> None:
    riebench.run("none", "mid.0", strength=1, category=6, limit=1, out=tmp_path / "r", quiet=True)
    (record,) = read_records(tmp_path / "r")
    assert "measured_by" not in lines(tmp_path / "r")[0]
    with RunFolder(tmp_path / "r") as folder:
        folder.append([record.model_copy(update={"metrics": {"new": 1.0}, "measured_by": {"new": "x"}})])
    (joined,) = read_records(tmp_path / "r")
    assert joined.metrics == {**record.metrics, "new": 1.0}
    assert joined.measured_by == {"new": "x"}
    assert lines(tmp_path / "r")[0]["measured_by"] == {"new": "x"}


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(words))
    return int(left.value.code or 0)


def test_the_list_of_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("metrics") == 0
    said = capsys.readouterr().out
    assert all(name in said for name in METRICS)
