"""A family of models that the package does not know: a stranger's file, run by every method."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_family
from PIL import Image
from torch import Tensor

import riebench
from riebench.cli import main
from riebench.engine.request import resolve
from riebench.engine.run_options import RunOptions
from riebench.instruments.loading import Instruments
from riebench.methods import Observed, Plan, method
from riebench.models import Edit, Model, Site, entry_named, neuron_sites
from riebench.models.entries import MODELS, named_model
from riebench.pairs import Pair
from riebench.sae.store import save_sae
from riebench.sae.topk import TopKSAE
from riebench.settings.settings import Settings
from riebench.util.errors import UserError

TOY = "toy_family:toy"
HEIGHT, WIDTH = 32, 40
PAIRS = [
    Pair(
        id=name,
        editing_type_id=1,
        original_prompt=f"a [{old}] here",
        editing_prompt=f"a [{new}] here",
        original_gsam_prompt=old,
        editing_gsam_prompt=new,
        seed=seed,
    )
    for seed, (name, old, new) in enumerate([("one", "cat", "dog"), ("two", "tree", "house")])
]


def blocks(sites: Iterable[str]) -> list[str]:
    return [site for site in sites if "/" not in site]


def box(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[rows, columns] = True
    return mask


MASKS = {
    "one": (box(slice(0, 16), slice(0, 16)), box(slice(8, 24), slice(8, 24))),
    "two": (box(slice(16, 32), slice(24, 40)), box(slice(0, 8), slice(0, 40))),
}


@pytest.fixture
def toy() -> Model:
    sites = (*toy_family.ToyEntry.default_sites, "layer.1")
    torch.manual_seed(5)
    return riebench.load(TOY, saes={site: TopKSAE(16, 40, 4).requires_grad_(False) for site in sites})


def test_sites_are_known_without_weights_in_the_order_in_which_they_run(toy: Model) -> None:
    known = entry_named(TOY).sites(Settings())
    assert list(known.items()) == list(toy.sites.items())
    assert blocks(known) == [f"layer.{number}" for number in range(11)]
    assert known["layer.10"] == Site(16, (4, 5))
    assert neuron_sites(known, "layer.1") == ["layer.1/neurons.0"]
    order: list[int] = []
    handles = [
        toy.modules[f"layer.{n}"].register_forward_hook(lambda module, args, output, n=n: order.append(n))
        for n in reversed(range(11))
    ]
    toy.generate(["a cat"], [1], 1)
    for handle in handles:
        handle.remove()
    assert order == list(range(11))


@pytest.mark.parametrize("model", [TOY, "loaded"])
def test_blocks_of_a_condition_run_in_order_and_not_as_text(toy: Model, model: str) -> None:
    request, _ = resolve(
        RunOptions(
            "steering",
            ["layer.10", "layer.2", "layer.1"],
            model=toy if model == "loaded" else model,
            pairs=PAIRS,
            alone=True,
        )
    )
    assert [c.sites for c in request.conditions] == [
        ("layer.1", "layer.2", "layer.10"),
        *(("layer.1",), ("layer.2",), ("layer.10",)),
    ]
    with pytest.raises(UserError, match=r"unknown block 'layer\.11'; did you mean 'layer\.1'"):
        resolve(RunOptions("steering", "layer.11", model=TOY, pairs=PAIRS))


@method("test-order")
class Order:
    """Writes down the order and the shapes of what it sees, and the values of the first position."""

    def plan(self, seen: Observed) -> Plan:
        assert list(seen.base) == list(seen.source)
        shapes = {tuple(seen.base[site].shape) for site in seen.sites}
        cells = [int(mask[site].sum()) for mask in (seen.source_masks, seen.base_masks) for site in seen.sites[:1]]
        return Plan(notes={"sites": " ".join(seen.sites), "shapes": str(sorted(shapes)), "cells": str(cells)})


METHODS = ["steering", "sae", "sae-adaptive", "neurons", "random", "prompt", "none", "test-order"]


@pytest.mark.parametrize("steps", [1, 3])
def test_every_method_runs_on_a_strangers_family(toy: Model, mini: Instruments, tmp_path: Path, steps: int) -> None:
    result = riebench.run(
        METHODS,
        model=toy,
        pairs=PAIRS,
        strength=[0, 1, 40],
        steps=steps,
        masks=MASKS,
        scorers=mini.scorers,
        out=tmp_path / "o",
        quiet=True,
    )
    assert [r.status for r in result.records] == ["ok"] * 48, {r.reason for r in result.records}
    assert {r.model for r in result.records} == {"toy"}
    assert all(r.parts["model"].startswith("toy-") for r in result.records)
    assert {tuple(r.setting.blocks) for r in result.records} == {("layer.2", "layer.9", "layer.10")}

    def picture(pair: str, name: str) -> np.ndarray:
        (path,) = (tmp_path / "o").rglob(f"{pair}-{name}.*")
        return np.asarray(Image.open(path).convert("RGB"))

    for record in result.records:
        base, found = picture(record.pair_id, "base"), picture(record.pair_id, record.key)
        assert base.shape == (HEIGHT, WIDTH, 3)
        same = record.setting.strength == 0 or record.setting.method in {"none", "test-order"}
        if record.setting.method != "prompt":
            assert np.array_equal(base, found) == same, (record.setting.method, record.setting.strength)
        if record.setting.method == "test-order":
            assert record.notes["sites"] == "layer.2 layer.9 layer.10"
            assert record.notes["shapes"] == f"[({steps}, 20, 16)]"
        if record.setting.method == "sae":
            assert record.notes["k"] == 1  # the default share of 3 x 40 features
    main_said = main_result(["table", str(tmp_path / "o")])
    assert main_said == 0


def main_result(words: list[str]) -> Any:
    with pytest.raises(SystemExit) as left:
        main(words)
    return left.value.code


def test_a_run_by_name_needs_no_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = riebench.run(
        ["steering", "test-order"], "layer.10", model=TOY, pairs=PAIRS, strength=1, out=tmp_path / "o", quiet=True
    )
    assert [r.status for r in result.records] == ["ok"] * 4, {r.reason for r in result.records}
    assert {r.model for r in result.records} == {TOY}
    assert {r.parts["masker"] for r in result.records} == {"halves-1"}
    # Half of five columns of eight pixels, grown by one pixel, has its centre in three.
    assert {r.notes["cells"] for r in result.records if "cells" in r.notes} == {"[12, 12]"}
    assert main_result(["blocks", "--model", TOY]) == 0
    said = capsys.readouterr().out
    assert said.index("layer.9") < said.index("layer.10")


def test_parts_that_are_handed_in_take_the_place_of_the_published_ones(mini: Instruments, tmp_path: Path) -> None:
    """A family without instruments of its own is scored with what is given, though no weights are here."""
    loaded = riebench.load("toy_family:PUBLISHED")
    parts: dict[str, Any] = {"model": loaded, "masks": MASKS, "scorers": mini.scorers}
    result = riebench.run("steering", pairs=PAIRS, strength=1, out=tmp_path / "o", quiet=True, **parts)
    assert [r.status for r in result.records] == ["ok"] * 2, {r.reason for r in result.records}


@pytest.fixture
def received(toy: Model) -> Callable[[str, Callable[[], Any]], list[dict[str, Tensor]]]:
    """What a module is given while some work is done, one entry a step."""

    def watch(path: str, work: Callable[[], Any]) -> list[dict[str, Tensor]]:
        seen: list[dict[str, Tensor]] = []
        handle = toy.net.get_submodule(path).register_forward_pre_hook(  # type: ignore[attr-defined]
            lambda module, args, kwargs: seen.append(
                {k: v.clone() for k, v in (kwargs | dict(zip("abc", args, strict=False))).items()}
            ),
            with_kwargs=True,
        )
        work()
        handle.remove()
        return seen

    return watch


def test_an_edit_changes_the_picture_stream_where_it_says_and_no_text(toy: Model, received: Any) -> None:
    mask = torch.zeros(20, dtype=torch.bool)
    mask[[3, 7, 18]] = True
    change = torch.randn(2, 20, 16, generator=torch.Generator().manual_seed(1)) * mask[:, None]
    inputs = [
        received("layer.5", lambda s=s: toy.generate(["a cat"], [1], 2, edits=[Edit({"layer.4": change}, s)]))
        for s in (0.0, 2.0)
    ]
    base, edited = (steps[0] for steps in inputs)
    assert torch.equal(base["text"], edited["text"])
    moved = (edited["picture"] - base["picture"])[0]
    assert torch.equal(moved.abs().sum(1) > 0, mask)
    assert torch.allclose(moved, 2 * change[0], atol=1e-5)
    # The next step begins with another picture, so all of it may differ.
    assert not torch.equal(inputs[0][1]["picture"], inputs[1][1]["picture"])


def test_an_edit_of_neurons_lands_on_the_picture_alone(toy: Model, received: Any) -> None:
    change = torch.zeros(1, 20, 48)
    change[0, 7, 30] = 2.5
    edits = [[Edit({"layer.4/neurons.0": change}, strength)] for strength in (0.0, 1.0)]
    base, edited = (
        received("layer.4.down", lambda e=e: toy.generate(["a cat"], [1], 1, edits=e))[0]["a"] for e in edits
    )
    moved = edited - base
    assert moved.nonzero().tolist() == [[0, toy_family.TOKENS + 7, 30]]
    assert moved.max() == pytest.approx(2.5, abs=1e-5)


def test_values_are_those_of_the_picture_stream(toy: Model, received: Any) -> None:
    captured: list[Any] = []

    def work() -> None:
        captured.extend(toy.generate(["a cat"], [1], 3, capture=["layer.4", "layer.4/neurons.0"]))

    after = received("layer.5", work)
    (run,) = captured
    before = received("layer.4", work)
    assert run.values["layer.4"].shape == (3, 20, 16)
    assert run.values["layer.4/neurons.0"].shape == (3, 20, 48)
    for step in range(3):
        assert torch.equal(run.values["layer.4"][step], (after[step]["picture"] - before[step]["picture"])[0])


def test_strength_zero_gives_the_base_picture_bit_for_bit(toy: Model) -> None:
    changes = {site: torch.full((2, 20, 16), 3.0) for site in toy.default_sites}
    (base,) = toy.generate(["a cat"], [1], 2)
    none, some = toy.generate(["a cat"] * 2, [1, 1], 2, edits=[(changes, 0.0), (changes, 1.0)])
    assert np.array_equal(base.image, none.image)
    assert not np.array_equal(base.image, some.image)


def test_steps_are_counted_for_each_site(toy: Model) -> None:
    seen: list[tuple[str, int]] = []

    def note(site: str) -> Callable[[Tensor, int], Tensor]:
        return lambda now, step: seen.append((site, step)) or now * 0  # type: ignore[func-returns-value]

    toy.generate(["a"], [1], 3, edits=[Edit({s: note(s) for s in ("layer.10", "layer.2")})], on_steps=[0, 2])
    assert seen == [("layer.2", 0), ("layer.10", 0), ("layer.2", 2), ("layer.10", 2)]


def test_other_saes_may_take_the_place_of_loaded_ones(toy: Model, tmp_path: Path) -> None:
    """What a method is given is what the record's fingerprint names."""
    before, after = toy.sae("layer.2"), TopKSAE(16, 40, 4).requires_grad_(False)
    toy.saes = {"layer.2": after}
    assert toy.sae("layer.2") is after is not before
    save_sae(before, tmp_path / "sae", {})
    toy.saes = {"layer.2": tmp_path / "sae"}
    assert torch.equal(toy.sae("layer.2").decoder.weight, before.decoder.weight)


def test_saes_of_a_strangers_sites(toy: Model) -> None:
    assert toy.sae("layer.10").d_model == 16
    assert toy.sae("layer.10") is toy.sae("layer.10")
    with pytest.raises(UserError, match=r"unknown SAE 'layer\.3'"):
        toy.sae("layer.3")
    with pytest.raises(UserError, match=r"unknown SAE 'layer\.3'"):
        resolve(RunOptions("sae", "layer.3", model=toy, pairs=PAIRS))
    with pytest.raises(UserError, match=r"unknown site 'layer\.12'; did you mean"):
        riebench.load(TOY, saes={"layer.12": TopKSAE(16, 40, 4)})
    with pytest.raises(UserError, match="takes no loaded pipeline"):
        riebench.load(TOY, pipeline=object())


def test_the_bench_measures_a_strangers_family(
    tmp_path: Path, toy: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for site in toy.default_sites:
        save_sae(toy.sae(site), tmp_path / "saes" / site, {})
    (tmp_path / "pairs.json").write_text(json.dumps([pair.model_dump(mode="json") for pair in PAIRS]))
    words = ["bench", "--model", TOY, "--pair-file", "pairs.json", "--set", "sae.folder=saes", "--json", "bench.json"]
    assert main_result(words) in {0, 1}, capsys.readouterr().err
    found = json.loads((tmp_path / "bench.json").read_text())
    bars = {bar["name"]: bar["met"] for bar in found["bars"]}
    passes = ("denoiser", "decoder", "text encoder", "masker", "CLIP image", "CLIP text", "LPIPS")
    assert [name for name in passes if not bars[f"{name} passes"]] == ["text encoder"]  # the toy keeps no texts
    assert found["largest_difference"] < 1e-3
    assert found["engine"]["denoiser_flops_of_first_pair"] > 0
    capsys.readouterr()
    monkeypatch.delattr(toy_family.ToyModel, "networks")
    assert main_result(words) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "riebench: the family of toy does not say which networks to measure; give it networks()"


BROKEN = EntryPoint("a-broken-one", "no_such_file:toy", "riebench.models")


@pytest.mark.parametrize("others", [False, True])
def test_a_folder_is_known_by_its_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: bool) -> None:
    """Another's plug-in that is broken is no hindrance, nor is a folder of a model's name."""
    if others:
        monkeypatch.setattr(MODELS, "installed", {"a-broken-one": [BROKEN], **MODELS.installed})
    kinds = {
        "pipe": "StableDiffusionXLPipeline",
        "flux": "FluxPipeline",
        "other": "OmniGenPipeline",
        "stranger": "StrangePipeline",
        "mini": "StrangePipeline",
        "perturbed": "StableDiffusion3PAGImg2ImgPipeline",
    }
    for name, kind in kinds.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    for name in ("pipe", "flux"):
        with pytest.raises(UserError, match=re.escape(f"the pipeline in {tmp_path / name} cannot be loaded: ")):
            riebench.load(Path(name))
    with pytest.raises(
        UserError,
        match=r"class 'StrangePipeline'; .*Flux2Pipeline, FluxPipeline, .*, ZImagePipeline; .*model\.family=traced$",
    ):
        riebench.load("stranger")
    with pytest.raises(UserError, match=r"other is a OmniGenPipeline, which is not run: its call takes no embeddings"):
        riebench.load("other")
    with pytest.raises(UserError, match=r"a StableDiffusion3PAGImg2ImgPipeline, which is not run: its batches have"):
        riebench.load("perturbed")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty has no model_index\.json that names a pipeline"):
        riebench.load("empty")
    assert riebench.load("mini").fingerprint.startswith("mini-")


def test_a_repository_in_the_hubs_cache_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its entry is that of the repository, else that of its pipeline's class."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    sdxl, klein, krea = ({"_class_name": f"{kind}Pipeline"} for kind in ("StableDiffusionXL", "Flux2Klein", "Krea2"))
    repositories = {
        "stabilityai/sdxl-turbo": (sdxl, "sdxl-turbo"),
        "someone/sdxl-of-mine": (sdxl, "sdxl-base"),
        "black-forest-labs/FLUX.2-klein-4B": (klein | {"is_distilled": True}, "flux2-klein-distilled"),
        "black-forest-labs/FLUX.2-klein-9B": (klein | {"is_distilled": True}, "flux2-klein-distilled"),
        "black-forest-labs/FLUX.2-klein-base-4B": (klein | {"is_distilled": False}, "flux2-klein"),
        "black-forest-labs/FLUX.2-klein-base-9B": (klein, "flux2-klein"),
        "krea/Krea-2-Turbo": (krea | {"is_distilled": True}, "krea2-turbo"),
        "someone/Krea-2-Turbo-of-mine": (krea | {"is_distilled": True}, "krea2-turbo"),
        "someone/Krea-2-of-mine": (krea, "krea2"),
    }
    for repository, (index, expected) in repositories.items():
        folder = tmp_path / f"models--{repository.replace('/', '--')}"
        snapshot = folder / "snapshots" / ("a" * 40)
        snapshot.mkdir(parents=True)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("a" * 40)
        (snapshot / "model_index.json").write_text(json.dumps(index))
        name, settings = named_model(repository, Settings())
        assert name == expected
        assert settings.model.location == str(snapshot)
    missing = "'Tongyi-MAI/Z-Image-Turbo' is neither a folder nor in the hub's cache; download it with 'hf download Ton"
    with pytest.raises(UserError, match=missing):
        riebench.load("Tongyi-MAI/Z-Image-Turbo")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_file:toy", "No module named 'no_such_file'"),
        ("toy_family:nothing", "unknown model 'nothing' in toy_family"),
        ("toy_family:broken", "OSError: the disk is on fire"),
        ("toy_family:NOT_AN_ENTRY", r"is a str, expected a riebench\.models\.ModelEntry"),
        ("toy_family:ToyModel", "cannot be loaded"),
        ("toy_family:", "toy_family: is a module, expected"),
        ("cracked:toy", "SyntaxError"),
        ("raising:toy", "ZeroDivisionError"),
        ("leaving:toy", "SystemExit"),
        ("tyo", "unknown model 'tyo'"),
    ],
)
@pytest.mark.parametrize("call", ["load", "run"])
def test_a_broken_family_is_one_line(tmp_path: Path, name: str, said: str, call: str) -> None:
    files = {"cracked": "def toy(:\n", "raising": "1 / 0\n", "leaving": "import sys\nsys.exit('bye\\nbye')\n"}
    for file, text in files.items():
        (tmp_path / f"{file}.py").write_text(text)  # where one stands
        sys.modules.pop(file, None)
    work = {
        "load": lambda: riebench.load(name),
        "run": lambda: riebench.run("none", model=name, pairs=PAIRS, out=tmp_path / "o"),
    }
    with pytest.raises(UserError, match=said) as raised:
        work[call]()
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "o").exists()
