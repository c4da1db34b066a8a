"""What Python's callers may hand over: numpy's numbers, lists of folders; all else is refused by name, in one line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import riebench
from riebench.engine.run_options import RunOptions
from riebench.features import score
from riebench.features.score_request import ScoreRequest, _own, _targets
from riebench.features.score_settings import ScoreSettings
from riebench.instruments.loading import Instruments, saes_fingerprint
from riebench.models.mini import WEIGHTS
from riebench.sae.saelens import save_for_saelens
from riebench.sae.store import save_sae
from riebench.sae.topk import TopKSAE
from riebench.settings.settings import Settings
from riebench.training import collect, train
from riebench.training.training_plan import plan_training
from riebench.util.errors import PairError, UserError

PROMPTS = ["a red heart in a meadow"]


def refused(call: Any, *names: str) -> None:
    """The call is refused in one line that has the names."""
    with pytest.raises(UserError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    for name in names:
        assert name in message


@pytest.mark.parametrize("model", [None, 3.5, "", ["mini"]])
def test_models_that_are_no_names_are_refused(model: Any) -> None:
    refused(lambda: riebench.load(model), repr(model), "mini")


@pytest.mark.parametrize(
    ("saes", "name"),
    [(3, "saes"), ({"mid.0": "folder"}, "there is no folder folder"), ({"mid.0": 3}, "the SAE of mid.0 is a int")],
)
def test_saes_that_are_none_are_refused(saes: Any, name: str) -> None:
    refused(lambda: riebench.load("mini", saes=saes), name)


@pytest.mark.parametrize(
    ("call", "more", "name"),
    [
        ((PROMPTS, 3, 1), {}, "seeds is 3"),
        (("text", [3], 1), {}, "prompts is 'text'"),
        ((None, [3], 1), {}, "prompts is None"),
        (([3], [3], 1), {}, "prompts holds 3"),
        ((PROMPTS, [-1], 1), {}, "seeds holds -1"),
        ((PROMPTS, [2**63], 1), {}, "seeds holds 9223372036854775808"),
        ((PROMPTS, [3.0], 1), {}, "seeds holds 3.0"),
        ((PROMPTS, [True], 1), {}, "seeds holds True"),
        ((PROMPTS, [3], 1.5), {}, "steps is 1.5"),
        ((PROMPTS, [3], 0), {}, "steps is 0"),
        ((PROMPTS, [3], None), {}, "steps is None"),
        ((PROMPTS, [3], 1), {"edits": [{"mid.0": torch.ones(96)}]}, "edits[0] is a dict"),
        ((PROMPTS, [3], 1), {"edits": riebench.Edit({})}, "edits is a Edit"),
        ((PROMPTS, [3], 1), {"edits": [(3, 1.0)]}, "the changes of edits[0]"),
        ((PROMPTS, [3], 1), {"edits": [({}, "1")]}, "the strength of edits[0] is '1'"),
        ((PROMPTS, [3], 1), {"edits": [({}, float("nan"))]}, "the strength of edits[0] is nan"),
        ((PROMPTS, [3], 1), {"edits": [({}, 1.0, 0)]}, "on_steps is 0"),
        ((PROMPTS, [3], 1), {"edits": [({3: torch.ones(96)}, 1.0)]}, "unknown site 3"),
        ((PROMPTS, np.array(3), 1), {}, "seeds is array(3)"),
        ((set(PROMPTS), [3], 1), {}, "prompts is a set, which has no order"),
        ((PROMPTS, {3: 1}.keys(), 1), {}, "seeds is a dict_keys, which has no order"),
        ((PROMPTS, [3], 1), {"edits": [({}, 1.0, {0.5})]}, "on_steps holds 0.5"),
        ((PROMPTS, [3], 1), {"edits": [({}, 1.0, np.array([1]))]}, "on_steps names the step 1"),
        ((PROMPTS, [3], 1), {"capture": "mid.0"}, "capture is 'mid.0'"),
        ((PROMPTS, [3], 1), {"on_steps": 0}, "on_steps is 0"),
        ((PROMPTS, [3], 2), {"start": ("a", 1.5)}, "Start(prompt, step)"),
    ],
)
def test_arguments_of_generate_are_refused_by_name(
    mini: Instruments, call: tuple[Any, ...], more: dict[str, Any], name: str
) -> None:
    refused(lambda: mini.model.generate(*call, **more), name)


def test_numbers_of_numpy_are_numbers(mini: Instruments) -> None:
    (plain,) = mini.model.generate(PROMPTS, [3], 1)
    for seeds in ([np.int64(3)], np.array([3])):
        (run,) = mini.model.generate(np.array(PROMPTS), seeds, np.int64(1))  # type: ignore[arg-type]
        assert np.array_equal(run.image, plain.image)


def test_a_vector_is_an_edit_of_all_steps_and_positions(mini: Instruments) -> None:
    model, generator = mini.model, torch.Generator().manual_seed(0)
    vector = torch.randn(model.sites["mid.0"].width, generator=generator)
    whole = vector.expand(2, model.sites["mid.0"].positions, -1)

    def of_function(values: Any, step: int) -> Any:
        return vector

    first, *others = (
        model.generate(PROMPTS, [3], 2, edits=[({"mid.0": change}, 0.5)])[0].image
        for change in (whole, vector, of_function)
    )
    assert not np.array_equal(first, model.generate(PROMPTS, [3], 2)[0].image)
    assert all(np.array_equal(first, other) for other in others)
    with pytest.raises(PairError, match=r"of the shape \[95\]"):
        model.generate(PROMPTS, [3], 2, edits=[({"mid.0": vector[:-1]}, 1.0)])


def test_the_norm_of_a_site_is_the_mean_length_of_its_values(mini: Instruments) -> None:
    (run,) = mini.model.generate(PROMPTS, [3], 2, capture=["mid.0"])
    assert run.norm("mid.0") == pytest.approx(float(np.linalg.norm(run.values["mid.0"].numpy(), axis=-1).mean()))
    refused(lambda: run.norm("up.0.0"), "up.0.0", "mid.0")


@pytest.mark.parametrize(
    ("vectors", "name"),
    [
        (torch.zeros(3, 7), "[..., 8]"),
        (torch.tensor(1.0), "[..., 8]"),
        (torch.zeros(3, 8, dtype=torch.int64), "int64"),
        (torch.zeros(3, 8, dtype=torch.complex64), "complex64"),
        (torch.zeros(3, 8, device="meta"), "meta"),
        (np.zeros((3, 8)), "ndarray"),
    ],
)
def test_vectors_that_an_sae_cannot_encode_are_refused(vectors: Any, name: str) -> None:
    refused(lambda: TopKSAE(8, 16, 2).encode(vectors), name)


def test_an_sae_encodes_values_of_any_real_type() -> None:
    torch.manual_seed(0)
    sae, vectors = TopKSAE(8, 16, 2).requires_grad_(False), torch.randn(3, 8)
    assert torch.equal(sae.encode(vectors.double()), sae.encode(vectors))
    half = vectors.half()
    assert torch.equal(sae.encode(half), sae.encode(half.float()))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"options": "k=3"}, "options is 'k=3'"),
        ({"options": {3: 4}}, "options holds 3"),
        ({"options": {"k": []}}, "k in options is an empty list"),
        ({"settings": [("device", "cpu")]}, "settings is"),
        ({"pairs": 3}, "pairs is 3"),
        ({"pairs": ["a"]}, "pairs holds 'a'"),
        ({"method": 3}, "method is 3"),
        ({"method": ["sae", 3]}, "method holds 3"),
        ({"strength": [1, None]}, "strength holds None"),
        ({"strength": True}, "strength is True"),
        ({"category": [6.5]}, "category holds 6.5"),
        ({"ids": [3.5]}, "ids holds 3.5"),
        ({"ids": (name for name in "a")}, "ids is <generator"),
        ({"metrics": {"lpips": 1}}, "metrics is"),
        ({"batch": None}, "batch is None"),
        ({"force": None}, "force is None"),
        ({"model": 3}, "model is a int"),
        ({"masks": 3}, "masks is a int"),
        ({"scorers": (1, 2)}, "scorers is a tuple"),
        ({"out": ""}, "out is an empty text"),
        ({"preset": ""}, "preset is an empty text"),
        *(
            ({name: []}, f"{name} is an empty list")
            for name in ("ids", "category", "strength", "metrics", "k", "pairs")
        ),
        *(({name: ()}, f"{name} is an empty list") for name in ("method", "block", "metrics", "on_steps", "at_lpips")),
    ],
)
def test_options_of_a_run_are_refused_by_name(options: dict[str, Any], name: str) -> None:
    refused(lambda: RunOptions(**{"method": "steering", "block": "mid.0", **options}), name)


def test_options_take_numbers_and_lists_of_numpy() -> None:
    options = RunOptions("sae", "mid.0", strength=np.array([1, 2]), k=np.int64(5), category={6}, seed=np.int64(3))  # type: ignore[arg-type]
    expected = {"method": "sae", "block": "mid.0", "strength": [1, 2], "k": 5, "category": [6], "seed": 3}
    assert options.as_json() == expected
    assert type(options.seed) is int


def test_a_single_file_is_told_how_to_become_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "sd_xl_turbo.safetensors"
    file.write_bytes(b"")
    for call in (lambda: riebench.load("sdxl-turbo", location=str(file)), lambda: riebench.load(file)):
        refused(call, str(file), "from_single_file", "save_pretrained")
    refused(lambda: riebench.load("sdxl-turbo", location=str(tmp_path)), str(file), "from_single_file")
    file.unlink()
    refused(lambda: riebench.load("sdxl-turbo", location=str(tmp_path)), str(tmp_path), "model_index.json")


@pytest.mark.parametrize("parts", [("vae",), ("text_encoder", "text_encoder_2"), ("unet", "vae")])
def test_weights_of_a_variant_are_taken_where_there_are_no_others(
    mini: Instruments, tmp_path: Path, parts: tuple[str, ...]
) -> None:
    shutil.copytree(WEIGHTS / "pipeline", tmp_path / "p")
    for file in (file for part in parts for file in (tmp_path / "p" / part).glob("*.safetensors")):
        file.rename(file.with_suffix(".fp16.safetensors"))
    model = riebench.load(tmp_path / "p", dtype="bfloat16")
    networks = model.pipeline.components  # type: ignore[attr-defined]
    assert {networks[name].dtype for name in ("unet", "vae", "text_encoder", "text_encoder_2")} == {torch.bfloat16}
    for name in parts:
        own = getattr(mini.model.pipeline, name).state_dict()  # type: ignore[attr-defined]
        for path, weights in networks[name].state_dict().items():
            assert torch.equal(weights, own[path].to(weights.dtype))
    (tmp_path / "p" / "vae" / "diffusion_pytorch_model.safetensors").unlink(missing_ok=True)
    for variant in ("bf16", "fp16"):
        (tmp_path / "p" / "vae" / f"diffusion_pytorch_model.{variant}.safetensors").touch()
    if "unet" not in parts:
        refused(lambda: riebench.load(tmp_path / "p"), "vae", "bf16, fp16")


def test_records_of_several_folders_are_one_frame(tmp_path: Path) -> None:
    for name in ("a", "b"):
        riebench.run("none", "mid.0", category="colour", limit=1, strength=1, out=tmp_path / name, quiet=True)
    both = riebench.load_records([tmp_path / "a", str(tmp_path / "b")])
    assert list(both["run"]) == ["a", "b"]
    assert both.index.is_unique
    refused(lambda: riebench.load_records([tmp_path / "a", f"{tmp_path}/b/../a"]), "named twice")
    for path in (None, 3, [], [3], ""):
        refused(lambda path=path: riebench.load_records(path), "path")


def test_a_notebook_shows_models_runs_and_results(mini: Instruments, tmp_path: Path) -> None:
    (run,) = mini.model.generate(PROMPTS, [3], 1, capture=["mid.0"])
    result = riebench.run("none", "mid.0", category="colour", limit=1, strength=1, out=tmp_path / "<r>", quiet=True)
    for shown, name in ((mini.model, "model mini"), (run, "mid.0"), (result, "1 records")):
        assert name in repr(shown)
        assert len(repr(shown)) < 300
    assert run._repr_png_().startswith(b"\x89PNG")
    assert "&lt;r&gt;" in result._repr_html_()
    assert "<table" in result._repr_html_()
    assert result.frame().equals(riebench.load_records(tmp_path / "<r>"))


def test_public_names_are_listed_before_they_are_imported() -> None:
    names = "'Edit', 'Model', 'PairError', 'Run', 'RunResult', 'Start', 'UserError', 'ablate', 'load', 'load_records'"
    code = f"import sys, riebench; assert {{{names}}} <= set(dir(riebench)); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    for name in riebench.__all__:
        assert getattr(riebench, name) is not None


def test_steps_of_an_edit_are_any_collection_of_whole_numbers(mini: Instruments) -> None:
    change = {"up.0.0": torch.full((96,), 3.0)}
    some: list[Any] = [[1], (1,), {1}, range(1, 2), np.array([1]), [np.int64(1)], {1: None}.keys()]
    runs = mini.model.generate(PROMPTS * len(some), [3] * len(some), 2, edits=[(change, 1.0, each) for each in some])
    (of_call,) = mini.model.generate(PROMPTS, [3], 2, edits=[(change, 1.0)], on_steps=np.array([1]))  # type: ignore[arg-type]
    (all_steps,) = mini.model.generate(PROMPTS, [3], 2, edits=[(change, 1.0)])
    assert all(np.array_equal(run.image, runs[0].image) for run in runs)
    assert np.abs(of_call.image.astype(int) - runs[0].image).max() <= 1  # of a batch of one row
    assert not np.array_equal(all_steps.image, of_call.image)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"dtype": "bfloat16"}, "model.dtype"),
        ({"dtype": "float32"}, "model.dtype"),  # the default, but the pipeline may be of another type
        ({"device": "cpu"}, "model.device"),
        ({"offload": "model"}, "model.offload"),
        ({"location": "some/hub"}, "model.location"),
        ({"weights": "folder"}, "weights"),
        ({"sae__folder": "folder"}, "sae.folder"),
        ({"masker.blur_kernel": 3}, "masker.blur_kernel"),
    ],
)
def test_settings_that_a_loaded_pipeline_cannot_follow(
    random_pipeline: Any, settings: dict[str, Any], name: str
) -> None:
    refused(lambda: riebench.load("sdxl-turbo", pipeline=random_pipeline, **settings), f"the setting {name} has no eff")


def test_settings_of_what_is_loaded_already(mini: Instruments, tmp_path: Path) -> None:
    loaded: dict[str, Any] = {"model": mini.model, "out": tmp_path / "out"}
    for settings, more, name in (
        ({"dtype": "bfloat16"}, {}, "model.dtype"),
        ({"sae.folder": str(WEIGHTS / "sae")}, {}, "sae.folder"),
        ({"masker.add_object": "both"}, {"masks": {}}, "masker.add_object"),
        ({"replay": False}, {}, "model.replay"),
    ):
        refused(lambda s=settings, m=more: riebench.run("none", "mid.0", settings=s, **m, **loaded), f"setting {name}")
    for settings, name in (({"dtype": "bfloat16"}, "model.dtype"), ({"masker.union": "before"}, "masker.union")):
        refused(lambda s=settings: riebench.ablate(settings=s, **loaded), f"the setting {name} has no effect")
    refused(lambda: riebench.ablate("mini", settings={"sae.k": 3}), "the setting sae.k has no effect")
    same = {"dtype": "float32", "device": "cpu", "masker.blur_kernel": 15}
    assert riebench.run("none", "mid.0", settings=same, limit=1, category=4, quiet=True, **loaded).records


@pytest.mark.parametrize("name", ["size", "conditions", "sites", "guidance", "negative", "unconditional", "pipeline"])
def test_what_a_model_was_loaded_with_cannot_be_set(mini: Instruments, name: str) -> None:
    before = getattr(mini.model, name)
    refused(lambda: setattr(mini.model, name, before), f"{name} of a loaded model cannot be set")
    mini.model.replay = True


@pytest.mark.parametrize(
    ("call", "name"),
    [
        ({"model": 3}, "model is a int"),
        ({"model": None}, "model is a NoneType"),
        ({"blocks": None}, "blocks holds None"),
        ({"blocks": [3]}, "blocks holds 3"),
        ({"blocks": []}, "no block was named"),
        ({"together": 3}, "together holds 3"),
        ({"prompts": -1}, "expected 1 or more"),
        ({"prompts": 1.5}, "prompts is 1.5"),
        ({"prompts": True}, "prompts is True"),
        ({"count": 0}, "count is 0"),
        ({"count": 1.5}, "count is 1.5"),
        ({"steps": "4"}, "steps is '4'"),
        ({"steps": 1.5}, "steps is 1.5"),
        ({"batch": None}, "batch is None"),
        ({"batch": 0}, "batch is 0"),
        ({"keep_images": -1}, "keep_images is -1"),
        ({"workers": 0}, "workers is 0"),
        ({"workers": "2"}, "workers is '2'"),
        ({"scorers": 3}, "scorers is a int"),
        ({"settings": 3}, "settings are 3"),
        ({"settings": {3: 4}}, "settings are {3: 4}"),
        ({"out": 3}, "out is 3"),
        ({"out": ""}, "out is ''"),
        ({"column": 3}, "column is 3"),
    ],
)
def test_arguments_of_ablate_are_refused_by_name(call: dict[str, Any], name: str) -> None:
    refused(lambda: riebench.ablate(**call), name)
    assert not Path("ablation").exists()


COLLECT: dict[str, Any] = {"model": "mini", "prompts": "grammar", "count": 2, "out": "values"}
TRAIN: dict[str, Any] = {"live": {"prompts": "grammar", "count": 8}, "site": "mid.0", "out": "trained"}


@pytest.mark.parametrize(
    ("call", "arguments", "name"),
    [
        (collect, {"model": 3}, "model is a int"),
        (collect, {"site": 3}, "site is 3"),
        (collect, {"site": []}, "site is an empty list"),
        (collect, {"prompts": None}, "prompts is None"),
        (collect, {"count": 1.5}, "count is 1.5"),
        (collect, {"count": -1}, "count is -1"),
        (collect, {"split": ["train"]}, "unknown split ['train']"),
        (collect, {"steps": 1.5}, "steps is 1.5"),
        (collect, {"steps": 0}, "steps is 0"),
        (collect, {"positions": "3"}, "positions is '3'"),
        (collect, {"batch": None}, "batch is None"),
        (collect, {"workers": "2"}, "workers is '2'"),
        (collect, {"shard_prompts": 0}, "shard_prompts is 0"),
        (collect, {"store": ["float16"]}, "unknown type ['float16']"),
        (collect, {"out": 3}, "out is 3"),
        (collect, {"column": "text"}, "column is 'text'"),
        (collect, {"settings": {"masker.blur_kernel": 3}}, "the setting masker.blur_kernel has no effect"),
        (collect, {"settings": {"sae.k": 3}}, "the setting sae.k has no effect"),
        (collect, {"settings": 3}, "settings are 3"),
        (train, {"live": 3}, "live is 3"),
        (train, {"live": {"prompts": "grammar", "cuont": 8}}, "unknown argument 'cuont' in live"),
        (train, {"live": {}}, "live says no prompts"),
        (train, {"site": 3}, "site is 3"),
        (train, {"out": 3}, "out is 3"),
        (train, {"log_every": "5"}, "log_every is '5'"),
        (train, {"checkpoint_every": 0}, "checkpoint_every is 0"),
        (train, {"device": 3}, "device is 3"),
        (train, {"callback": 3}, "callback is 3"),
        (train, {"preset": ["paper"]}, "unknown preset ['paper']"),
        (train, {"k": 0}, "k is"),
        (score, {"model": 3}, "model is a int"),
        (score, {"out": 3}, "out is 3"),
        (score, {"count": "3"}, "count is '3'"),
        (score, {"batch": 0}, "batch is 0"),
        (score, {"baselines": 3}, "baselines is 3"),
        (score, {"descriptions": 3}, "descriptions is 3"),
        (score, {"featuers": 3}, "unknown option 'featuers' of score"),
        (score, {"features": 1.5}, "features is 1.5"),
        (score, {"strengths": 3}, "strengths are 3"),
        (score, {"strengths": ["1"]}, "strengths are ['1']"),
        (score, {"seed": -1}, "seed is -1"),
        (score, {"settings": [3]}, "settings are [3]"),
        (score, {"saes": 3}, "int"),
        (score, {"site": 3}, "3"),
    ],
)
def test_arguments_of_training_and_scores_are_refused_by_name(call: Any, arguments: dict[str, Any], name: str) -> None:
    usual = {collect: COLLECT, train: TRAIN, score: {"saes": "mid.0", "out": "scores", "count": 2}}[call]
    refused(lambda: call(**{**usual, **arguments}), name)


def test_a_batch_is_a_whole_number(mini: Instruments) -> None:
    for batch in (0, "8", 2.5, None):
        refused(lambda b=batch: setattr(mini.model, "batch", b), f"batch is {batch!r}")
    mini.model.batch = np.int64(8)  # type: ignore[assignment]


def test_the_saes_of_a_loaded_model_are_its_own(mini: Instruments) -> None:
    model = riebench.load("mini", pipeline=mini.model.pipeline, saes={"mid.0": TopKSAE(96, 8, 2)})  # type: ignore[attr-defined]
    request = ScoreRequest((), model, Settings(), None, (), None, None, None, None, 8, ScoreSettings())
    assert _own(model.entry, request) == ["mid.0"]
    [target] = _targets("mid.0", model.entry, request)
    assert target.sae is model.saes["mid.0"]


def test_which_folder_is_of_which_site_counts_in_records(mini: Instruments, tmp_path: Path) -> None:
    for name, k in (("one", 2), ("other", 3)):
        save_sae(TopKSAE(96, 8, k), tmp_path / name, {})
    pipeline, prints = mini.model.pipeline, set()  # type: ignore[attr-defined]
    for sites in (("mid.0", "up.0.0"), ("up.0.0", "mid.0"), ("mid.0", "up.0.1")):
        saes = dict(zip(sites, (tmp_path / "one", tmp_path / "other"), strict=True))
        model = riebench.load("mini", pipeline=pipeline, saes=saes)
        prints.add(saes_fingerprint(model.saes, model.saes_given))
    assert len(prints) == 3
    assert not mini.model.saes_given


def test_folders_of_several_saes_and_of_another_site(
    mini: Instruments, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("trainer_0", "trainer_1"):
        save_sae(TopKSAE(96, 8, 2), tmp_path / "several" / name, {})
    several = {"mid.0": tmp_path / "several"}
    pipeline = mini.model.pipeline  # type: ignore[attr-defined]
    refused(
        lambda: riebench.load("mini", pipeline=pipeline, saes=several), "several SAEs", "trainer_1: k 2, 8 features"
    )
    save_for_saelens(TopKSAE(96, 8, 2), tmp_path / "theirs", "mini", "up.0.0")
    for site in ("up.0.0", "mid.0"):
        riebench.load("mini", pipeline=pipeline, saes={site: tmp_path / "theirs"})
        theirs = TopKSAE(96, 8, 2)
        theirs.cfg = SimpleNamespace(metadata=SimpleNamespace(hook_name="up.0.0"))  # type: ignore[assignment]
        riebench.load("mini", pipeline=pipeline, saes={site: theirs})
    for site in ("up.0.0/output", "mid.0"):
        save_sae(TopKSAE(96, 8, 2), tmp_path / "up.0.0" / "trainer_0", {})
        riebench.load("mini", pipeline=pipeline, saes={site: tmp_path / "up.0.0"})
    named = caplog.records.pop().getMessage()
    assert named == f"the SAE {tmp_path / 'up.0.0' / 'trainer_0'} is named for up.0.0; it is used at mid.0"
    assert [r.getMessage().partition(" says ")[::2] for r in caplog.records] == [
        (f"the SAE {sae}", "that it was trained on 'up.0.0'; it is used at mid.0")
        for sae in (tmp_path / "theirs", "TopKSAE")
    ]


def test_a_loaded_pipeline_may_be_saved_and_loaded_again(mini: Instruments) -> None:
    before = mini.model.fingerprint
    mini.model.pipeline.save_pretrained("saved")
    assert mini.model.own  # saving adds two names to a pipeline's configuration, which change no picture
    assert mini.model.fingerprint == before
    model = riebench.load("saved")
    assert (model.entry.name, model.size) == ("sdxl-base", 128)
    assert model.sites["mid.0"] == mini.model.sites["mid.0"]


def test_a_users_model_keeps_its_batch(mini: Instruments) -> None:
    mini.model.batch = 3
    loaded = {"model": mini.model, "scorers": mini.scorers}
    riebench.run("none", "mid.0", **loaded, ids="mini-1-00", batch=2, keep_images=0, out="r", quiet=True)
    collect(mini.model, "mid.0", prompts="grammar", count=1, out="c", batch=2, quiet=True)
    riebench.ablate(blocks="mid.0", **loaded, prompts=1, batch=2, out="a", quiet=True)
    assert mini.model.batch == 3


def test_a_training_on_a_changed_model_is_another(random_pipeline: Any) -> None:
    def facts() -> dict[str, Any]:
        Path("prompts.txt").write_text("a cat\n" * 300)
        model = riebench.load("sdxl-turbo", pipeline=random_pipeline)
        live = {"model": model, "prompts": "prompts.txt"}
        return plan_training(None, "out", site="mid.0", live=live, batch=16).facts

    first = facts()
    bias = random_pipeline.unet.conv_out.bias
    bias.add_(1.0)
    second = facts()
    bias.sub_(1.0)
    assert first != second
    assert first.keys() == second.keys()


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda model: model.finished(3, 3, 2), "prompts holds 3"),
        (lambda model: model.finished("a red heart", -3, 2), "seeds holds -3"),
        (lambda model: model.finished("a red heart", 3, 1.5), "steps is 1.5"),
        (lambda model: model.sae(["mid.0"]), "unknown SAE ['mid.0']"),
        (lambda model: setattr(model, "saes", None), "saes is a NoneType"),
        (lambda model: setattr(model, "saes", {"mid.0": "folder"}), "there is no folder folder"),
        (lambda model: setattr(model, "saes", {"mid.0": 3}), "the SAE of mid.0 is a int without encode"),
        (lambda model: riebench.run("none", "mid.0", model=model, masks={1: 1}), "masks is a dict; expected"),
    ],
)
def test_other_arguments_of_a_loaded_model_are_refused_by_name(mini: Instruments, call: Any, name: str) -> None:
    saes = mini.model.saes
    refused(lambda: call(mini.model), name)
    assert mini.model.saes is saes
