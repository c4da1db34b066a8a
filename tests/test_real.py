"""The whole real path on stand-ins: real classes, real loading code, real layouts, random weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from riebench.catalog import entry_named
from riebench.cli import main
from riebench.engine import load_instruments
from riebench.util.errors import UserError
from riebench.instruments import Instruments
from riebench.lens import FOUR
from riebench.spec.protocols import PAPER, RIEBENCH
from riebench.spec.settings import Settings, parse_settings
from riebench.standin.write import write_standin
from riebench.weights.places import STANDIN

pytest.importorskip("groundingdino", reason="the extra gsam is not installed")
pytest.importorskip("sam2", reason="the extra gsam is not installed")
SMALL = ("masker.short_side=224", "masker.long_side=373")
PAIRS = [
    {
        "id": f"p{category}",
        "editing_type_id": str(category),
        "original_prompt": "a [newt] in a hat",
        "editing_prompt": "a [toad] in a hat",
        "original_gsam_prompt": base,
        "editing_gsam_prompt": source,
    }
    for category, base, source in ((1, "newt", "toad"), (3, "newt", "hat"), (9, "#everything", "#everything"))
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """On tiny models a second thread costs more than it gives."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    for _ in write_standin(root, "sdxl-turbo", "tiny", seed=1):
        pass
    return root


@pytest.fixture(scope="module")
def real(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Instruments:
    settings = parse_settings(SMALL, weights=tiny, masker__cache=tmp_path_factory.mktemp("masks"))
    return load_instruments(entry_named("sdxl-turbo"), 4, settings)


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(words))
    return int(left.value.code or 0)


def test_the_whole_path(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pairs.json").write_text(json.dumps(PAIRS))
    words = ["run", "--model", "sdxl-turbo", "--weights", str(tiny), "--pairs", "pairs.json", "--block", "all"]
    words += ["--method", "sae", "--method", "neurons", "--method", "steering", "--strength", "1", "--steps", "2"]
    words += ["--protocol", "paper", "--out", "out", "--set", f"masker.cache={tmp_path / 'm'}"]
    words += [part for setting in SMALL for part in ("--set", setting)]
    assert command(*words) == 0, capsys.readouterr().err
    records = [json.loads(line) for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines()]
    assert [r["status"] for r in records] == ["ok"] * 9
    for r in records:
        assert r["protocol"] == "paper"
        assert r["parts"]["model"].startswith("standin-sdxl-turbo-")
        assert r["conditions"]["size"] == 512
        assert r["conditions"]["masker.box_threshold"] == 0.25
        assert r["conditions"]["masks.fallback"] == "touched"
        assert r["metrics"]["lpips_base"] > 0
        assert r["setting"]["steps"] == 2
    assert json.loads((tmp_path / "out" / "run.json").read_text())["metric_names"]["lpips"] == "lpips"


def test_blocks_are_read_from_the_model(real: Instruments) -> None:
    denoiser = real.denoiser
    assert list(denoiser.lens.blocks) == [
        *("down.1.0", "down.1.1", "down.2.0", "down.2.1", "mid.0"),
        *("up.0.0", "up.0.1", "up.0.2", "up.1.0", "up.1.1", "up.1.2"),
    ]
    assert [denoiser.grid(b) for b in FOUR] == [(16, 16)] * 4
    assert denoiser.size == 512
    assert {real.sae(b).n_features for b in FOUR} == {256}


def test_the_image_is_the_pipelines_own(real: Instruments) -> None:
    denoiser = real.denoiser
    (run,) = denoiser.generate(["a newt"], [42], 1)
    own = denoiser.pipeline(
        "a newt",
        num_inference_steps=1,
        guidance_scale=0.0,
        generator=torch.Generator("cpu").manual_seed(42),
        output_type="np",
    ).images[0]
    assert np.array_equal(run.image, (own * 255).round().astype(np.uint8))


def test_protocols_choose_the_threshold(tiny: Path, tmp_path: Path) -> None:
    found = {}
    for protocol in (PAPER, RIEBENCH):
        settings = parse_settings([], weights=tiny, masker__cache=tmp_path)
        found[protocol.name] = load_instruments(entry_named("sdxl-turbo"), 1, settings, protocol).conditions
    assert found["paper"]["masker.box_threshold"] == 0.25
    assert found["riebench"]["masker.box_threshold"] == 0.35
    assert found["riebench"]["masks.blur_kernel"] == 31
    own = parse_settings(["masker.box_threshold=0"], weights=tiny, masker__cache=tmp_path)
    assert load_instruments(entry_named("sdxl-turbo"), 1, own).conditions["masker.box_threshold"] == 0


def test_clip_has_openais_activation(real: Instruments) -> None:
    layers = real.scorers.clip.model.visual.transformer.resblocks
    assert type(layers[0].mlp.gelu).__name__ == "QuickGELU"
    embedded = real.scorers.clip.images([np.zeros((512, 512, 3), np.uint8)])
    assert embedded.norm().item() == pytest.approx(1, abs=1e-5)


def test_batched_scoring_is_one_by_one_scoring(real: Instruments, rng: np.random.Generator) -> None:
    images = [rng.integers(0, 256, (512, 512, 3)).astype(np.uint8) for _ in range(3)]
    clip, lpips = real.scorers.clip, real.scorers.lpips
    together = clip.images(images)
    alone = torch.cat([clip.images([image]) for image in images])
    assert torch.allclose(together @ together.T, alone @ alone.T, atol=1e-4)
    features = lpips.features(images)
    single = [lpips.features([image])[0] for image in images]
    assert lpips.distance(features[0], features[2]) == pytest.approx(lpips.distance(single[0], single[2]), abs=1e-4)
    # By the package's own call, too.
    x = [torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1 for image in images]
    with torch.no_grad():
        own = lpips.model(x[0], x[2]).item()
    assert lpips.distance(features[0], features[2]) == pytest.approx(own, abs=1e-4)


def test_half_precision_keeps_the_vae_in_float32(tiny: Path) -> None:
    from riebench.models.sdxl import load_pipeline
    from riebench.spec.settings import ModelSettings

    pipeline = load_pipeline(tiny / "sdxl-turbo", ModelSettings(dtype="float16", device="cpu"))
    assert pipeline.unet.dtype == torch.float16
    assert pipeline.vae.dtype == torch.float32
    assert load_pipeline(tiny / "sdxl-turbo", ModelSettings(dtype="bfloat16", device="cpu")).vae.dtype == torch.bfloat16
    with pytest.raises(UserError, match="offload=model needs a GPU"):
        load_pipeline(tiny / "sdxl-turbo", ModelSettings(device="cpu", offload="model"))


def test_damage_is_said_in_a_line(tiny: Path, tmp_path: Path) -> None:
    import shutil

    root = tmp_path / "weights"
    shutil.copytree(tiny, root)
    entry, settings = entry_named("sdxl-turbo"), Settings(weights=root)
    # Without the note that they are stand-ins, the trunk must have the hash that its name says.
    (root / STANDIN).unlink()
    with pytest.raises(UserError, match=r"alexnet-owt-7be5be79\.pth is damaged"):
        load_instruments(entry, 1, settings)
    (root / "sdxl-turbo" / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_instruments(entry, 1, settings)
    (root / "lpips" / "alexnet-owt-7be5be79.pth").unlink()
    with pytest.raises(UserError, match=r"1 of 7 parts are missing[\s\S]*no alexnet-owt-7be5be79\.pth"):
        load_instruments(entry, 1, settings)


def test_doctor_finds_the_parts(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("doctor", "--model", "sdxl-turbo", "--weights", str(tiny)) == 0
    said = capsys.readouterr().out
    assert "random stand-ins" in said
    assert said.count("ok ") >= 12
    assert command("doctor", "--model", "sdxl-turbo", "--weights", "nowhere") == 1
    missing = capsys.readouterr().out
    assert "riebench fetch sdxl-turbo --part segmenter --weights nowhere" in missing
    assert "13.9 GB" in missing
