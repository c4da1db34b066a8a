"""The whole real path on stand-ins: real classes, real loading code, real layouts, random weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import load_file
from torch.nn import functional as F

from riebench.cli import main
from riebench.instruments.loading import Instruments, load_instruments
from riebench.instruments.published import PublishedInstruments
from riebench.metrics.clip import ClipScorer
from riebench.metrics.lpips import Features, LpipsScorer
from riebench.models import entry_named
from riebench.models.diffusers_entry import open_pipeline
from riebench.models.sdxl import FOUR, SDXL, TURBO
from riebench.records import read_records
from riebench.settings.protocols import PROTOCOLS
from riebench.settings.settings import parse_settings
from riebench.standin.write import write_standin
from riebench.util.errors import UserError
from riebench.weights.places import STANDIN

pytest.importorskip("groundingdino", reason="the extra gsam is not installed")
pytest.importorskip("sam2", reason="the extra gsam is not installed")
SMALL = {"masker.short_side": 224, "masker.long_side": 373}
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


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    for _ in write_standin(root, "sdxl-turbo", "tiny", seed=1):
        pass
    return root


def instruments(settings: Mapping[str, Any], protocol: str = "riebench") -> Instruments:
    parsed = parse_settings(settings)
    return load_instruments("sdxl-turbo", parsed, protocol)


@pytest.fixture(scope="module")
def real(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Instruments:
    return instruments({"weights": tiny, "masker.cache": tmp_path_factory.mktemp("masks"), **SMALL})


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(words))
    return int(left.value.code or 0)


def test_the_whole_path(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pairs.json").write_text(json.dumps(PAIRS))
    words = ["run", "--model", "sdxl-turbo", "--weights", str(tiny), "--pairs", "pairs.json", "--block", "all"]
    words += ["--method", "sae", "--method", "neurons", "--method", "steering", "--strength", "1", "--steps", "2"]
    words += ["--protocol", "paper", "--out", "out", "--set", f"masker.cache={tmp_path / 'm'}"]
    words += [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
    assert command(*words) == 0, capsys.readouterr().err
    records = [json.loads(record.model_dump_json()) for record in read_records(tmp_path / "out")]
    assert [r["status"] for r in records] == ["ok"] * 9
    for r in records:
        assert r["protocol"] == "paper"
        assert r["parts"]["model"].startswith("standin-sdxl-turbo-")
        assert r["conditions"]["size"] == 512
        assert r["conditions"]["masker.box_threshold"] == 0.25
        assert r["conditions"]["masks.fallback"] == "touched"
        assert r["conditions"]["clip.quick_gelu"] is False
        assert r["metrics"]["lpips_base"] > 0
        assert r["setting"]["steps"] == 2
    assert json.loads((tmp_path / "out" / "run.json").read_text())["metric_names"]["lpips"] == "lpips"


def test_blocks_are_read_from_the_model(real: Instruments) -> None:
    model = real.model
    assert [site for site in model.sites if "/" not in site] == [
        *("down.1.0", "down.1.1", "down.2.0", "down.2.1", "mid.0"),
        *("up.0.0", "up.0.1", "up.0.2", "up.1.0", "up.1.1", "up.1.2"),
    ]
    assert [model.sites[b].grid for b in FOUR] == [(16, 16)] * 4
    assert model.size == 512
    assert {model.sae(b).n_features for b in FOUR} == {256}


def test_the_image_is_the_pipelines_own(real: Instruments) -> None:
    model = real.model
    (run,) = model.generate(["a newt"], [42], 1)
    own = model.pipeline(  # type: ignore[attr-defined]
        "a newt",
        num_inference_steps=1,
        guidance_scale=0.0,
        generator=torch.Generator("cpu").manual_seed(42),
        output_type="np",
    ).images[0]
    assert np.array_equal(run.image, (own * 255).round().astype(np.uint8))


def test_protocols_choose_the_threshold(tiny: Path, tmp_path: Path) -> None:
    where = {"weights": tiny, "masker.cache": tmp_path}
    found = {protocol: instruments(where, protocol).conditions for protocol in ("paper", "riebench")}
    assert found["paper"]["masker.box_threshold"] == 0.25
    assert found["riebench"]["masker.box_threshold"] == 0.35
    assert found["riebench"]["masks.blur_kernel"] == 31
    own = instruments({"masker.box_threshold": 0, **where})
    assert own.conditions["masker.box_threshold"] == 0


def activation(scorer: ClipScorer) -> str:
    return type(scorer.model.visual.transformer.resblocks[0].mlp.gelu).__name__


def test_clip_has_openais_activation(real: Instruments) -> None:
    assert activation(real.scorers.clip) == "QuickGELU"
    embedded = real.scorers.clip.images([np.zeros((512, 512, 3), np.uint8)])
    assert embedded.norm().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("given", [None, True, False])
@pytest.mark.parametrize(("protocol", "own"), [("paper", False), ("riebench", True)])
def test_the_activation_of_clip(tiny: Path, protocol: str, own: bool, given: bool | None) -> None:
    settings = parse_settings({"weights": tiny} if given is None else {"weights": tiny, "clip.quick_gelu": given})
    parts = PublishedInstruments(entry_named("sdxl-turbo"), settings, PROTOCOLS[protocol], ())
    wanted = own if given is None else given
    assert dict(parts.conditions) == {"clip.quick_gelu": wanted}
    scorer = parts.clip()
    assert activation(scorer) == ("QuickGELU" if wanted else "GELU")
    # The embeddings are those of that activation, by open_clip's own class.
    folder = tiny / "clip" / "ViT-L-14-openai"
    plain = CLIP(**json.loads((folder / "open_clip_config.json").read_text())["model_cfg"], quick_gelu=wanted)
    plain.load_state_dict(load_file(folder / "open_clip_model.safetensors"))
    tokens = scorer.tokenizer(["a newt in a hat"])
    with torch.no_grad():
        expected = F.normalize(plain.eval().encode_text(tokens), dim=-1)
    assert torch.allclose(scorer.texts(["a newt in a hat"]), expected, atol=1e-6)


def test_the_activation_of_clip_stands_in_records_and_moves_scores(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.json").write_text(json.dumps(PAIRS[2:]))
    words = ["run", "--model", "sdxl-turbo", "--weights", str(tiny), "--pairs", "pairs.json", "--block", "mid.0"]
    words += ["--method", "none", "--strength", "1", "--steps", "1", "--set", f"masker.cache={tmp_path / 'm'}"]
    asked = {
        ("riebench", None): True,
        ("paper", None): False,
        ("riebench", "false"): False,
        ("paper", "true"): True,
    }
    keys, scores = set(), {}
    for (protocol, given), wanted in asked.items():
        more = [] if given is None else ["--set", f"clip.quick_gelu={given}"]
        out = f"{protocol}-{given}"
        assert command(*words, "--protocol", protocol, "--out", out, *more) == 0
        record = json.loads(read_records(tmp_path / out)[0].model_dump_json())
        assert record["conditions"]["clip.quick_gelu"] is wanted
        keys.add(record["key"])
        scores[protocol, given] = record["metrics"]
    assert len(keys) == 4
    images = {asked[case]: score["clip_image_source"] for case, score in scores.items()}
    for case, score in scores.items():
        assert score["clip_image_source"] == images[asked[case]]
        assert score["lpips_source"] == scores["paper", None]["lpips_source"]
    assert images[True] != images[False]


def distance(scorer: LpipsScorer, a: Features, b: Features) -> float:
    return scorer.totals([scorer.layers(a, b)])[0]


def test_batched_scoring_is_one_by_one_scoring(real: Instruments, rng: np.random.Generator) -> None:
    images = [rng.integers(0, 256, (512, 512, 3)).astype(np.uint8) for _ in range(3)]
    clip, lpips = real.scorers.clip, real.scorers.lpips
    together = clip.images(images)
    alone = torch.cat([clip.images([image]) for image in images])
    assert torch.allclose(together @ together.T, alone @ alone.T, atol=1e-4)
    features = lpips.features(images)
    single = [lpips.features([image])[0] for image in images]
    assert distance(lpips, features[0], features[2]) == pytest.approx(distance(lpips, single[0], single[2]), abs=1e-4)
    # By the package's own call, too.
    x = [torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1 for image in images]
    with torch.no_grad():
        own = lpips.model(x[0], x[2]).item()
    assert distance(lpips, features[0], features[2]) == pytest.approx(own, abs=1e-4)


def test_half_precision_keeps_the_vae_in_float32(tiny: Path) -> None:
    def loaded(**settings: str) -> Any:
        return open_pipeline(TURBO, tiny / "sdxl-turbo", parse_settings(settings), torch.device("cpu"))

    def decoded_in(pipeline: Any) -> torch.dtype:
        found = []
        pipeline.vae.decoder.register_forward_pre_hook(lambda _, args: found.append(args[0].dtype))
        SDXL(pipeline, TURBO, parse_settings({"device": "cpu", "size": 64}), "half").generate(["a newt"], [1], 1)
        (dtype,) = found
        return dtype

    half, brain = loaded(dtype="float16"), loaded(dtype="bfloat16")
    assert (half.unet.dtype, brain.unet.dtype) == (torch.float16, torch.bfloat16)
    assert (decoded_in(half), decoded_in(brain)) == (torch.float32, torch.bfloat16)
    with pytest.raises(UserError, match="offload=model needs a GPU"):
        loaded(offload="model")


def test_damage_is_said_in_a_line(tiny: Path, tmp_path: Path) -> None:
    root = tmp_path / "weights"
    shutil.copytree(tiny, root)
    # Without the note that they are stand-ins, the trunk must have the hash that its name says.
    (root / STANDIN).unlink()
    with pytest.raises(UserError, match=r"alexnet-owt-7be5be79\.pth is damaged"):
        instruments({"weights": root})
    (root / "sdxl-turbo" / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be loaded"):
        instruments({"weights": root})
    (root / "lpips" / "alexnet-owt-7be5be79.pth").unlink()
    with pytest.raises(UserError, match=r"1 of 7 parts are missing[\s\S]*no alexnet-owt-7be5be79\.pth"):
        instruments({"weights": root})


def test_doctor_finds_the_parts(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("doctor", "--model", "sdxl-turbo", "--weights", str(tiny)) == 0
    said = capsys.readouterr().out
    assert "random stand-ins" in said
    assert said.count("ok ") >= 12
    assert command("doctor", "--model", "sdxl-turbo", "--weights", "nowhere") == 1
    missing = capsys.readouterr().out
    assert "riebench fetch sdxl-turbo --part segmenter --weights nowhere" in missing
    assert "13.9 GB" in missing
