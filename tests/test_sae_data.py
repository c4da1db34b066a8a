"""Collecting values and training on them: what is stored, what is resumed, what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import namedtuple
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

import riebench
from riebench.cli import main
from riebench.instruments.loading import Instruments
from riebench.models.entries import entry_named
from riebench.prompts import read_prompts
from riebench.sae.folders import find_saes
from riebench.sae.store import load_sae
from riebench.settings.settings import SaeSettings
from riebench.training.capture import resolve_capture
from riebench.training.collect_values import collect
from riebench.training.dataset import open_dataset, read_manifest, shard_name
from riebench.training.train_saes import train
from riebench.training.training_log import read_log, tensorboard_callback
from riebench.training.training_plan import SAESettings
from riebench.training.vectors import Portions, StreamPosition
from riebench.util.errors import UserError
from riebench.util.files import file_hash

SCRIPTS = Path(__file__).parents[1] / "scripts"
SITES = ["mid.0", "up.0.1/neurons.0"]
SMALL: dict[str, Any] = {"k": (4,), "batch": 64, "steps": 12, "buffer": 200, "log_every": 4, "quiet": True}


@pytest.fixture(scope="module")
def collected(mini: Instruments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six prompts in shards of two."""
    out = tmp_path_factory.mktemp("collected") / "data"
    collect(mini.model, SITES, prompts="grammar", count=6, shard_prompts=2, out=out, quiet=True)
    return out


@pytest.fixture
def data(collected: Path) -> Path:
    """A copy of it, which a test may change."""
    return shutil.copytree(collected, Path("data"))


def test_values_are_those_of_the_runs(mini: Instruments, data: Path) -> None:
    dataset = open_dataset(data)
    assert [shard.vectors for shard in dataset.shards] == [dict.fromkeys(SITES, 128)] * 3
    assert dataset.facts.fingerprint == mini.model.fingerprint
    prompted = read_prompts("grammar", 6, "train")
    for number, shard in enumerate(dataset.shards):
        stored = load_file(data / shard.name)
        part = prompted[2 * number : 2 * number + 2]
        runs = mini.model.generate([p for p, _ in part], [s for _, s in part], 1, capture=SITES)
        for site in SITES:
            assert torch.equal(stored[site], torch.cat([run.values[site][0] for run in runs]).half())


def test_drawn_positions_are_of_each_step(mini: Instruments) -> None:
    done = collect(
        mini.model, "mid.0", prompts="grammar", count=3, steps=2, positions=5, out="d", store="bfloat16", quiet=True
    )
    stored = load_file(done.folder / shard_name(0))["mid.0"]
    assert (stored.shape, stored.dtype) == ((30, 96), torch.bfloat16)
    capture = resolve_capture(mini.model, "mid.0", prompts="grammar", count=3, steps=2, positions=5)
    seeds = [seed for _, seed in capture.prompted]
    runs = mini.model.generate([p for p, _ in capture.prompted], seeds, 2, capture=["mid.0"])
    drawn = [[capture.drawn("mid.0", seed, step) for step in range(2)] for seed in seeds]
    assert len({tuple(positions) for run in drawn for positions in run if positions is not None}) == 6
    rows = [run.values["mid.0"][t][drawn[i][t]] for i, run in enumerate(runs) for t in range(2)]
    assert torch.equal(stored, torch.cat(rows).bfloat16())


def test_only_missing_shards_are_made(mini: Instruments, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {path.name: path.read_bytes() for path in data.glob("*.safetensors")}
    (data / shard_name(1)).unlink()  # lost
    manifest = json.loads((data / "manifest.json").read_text())
    del manifest["shards"]["2"]  # whole, but the process died before it was noted
    (data / "manifest.json").write_text(json.dumps(manifest))
    (data / "shard-000001.safetensors.abcdef12.part").write_bytes(b"torn")
    (data / "film.part").write_bytes(b"not ours")
    made: list[int] = []
    generate = mini.model.generate
    monkeypatch.setattr(
        mini.model, "generate", lambda prompts, *a, **b: made.append(len(prompts)) or generate(prompts, *a, **b)
    )
    collect(mini.model, SITES, prompts="grammar", count=6, out=data, quiet=True)
    assert made == [2]
    assert {path.name: path.read_bytes() for path in data.glob("*.safetensors*")} == contents
    assert len(open_dataset(data).shards) == 3
    assert [path.name for path in data.glob("*.part")] == ["film.part"]


def test_words_that_pandas_takes_for_nothing_are_prompts() -> None:
    Path("p.csv").write_text('caption\nNA\nNone\n\n""\nred\n')
    assert [prompt for prompt, _ in read_prompts("p.csv", None, "train", "caption")] == ["NA", "None", "red"]
    Path("p.txt").write_text("red\nblue\n", encoding="utf-8-sig")
    assert [prompt for prompt, _ in read_prompts("p.txt", None, "train")] == ["red", "blue"]
    with pytest.raises(UserError, match="unknown split 'heldout'; did you mean 'held-out'"):
        read_prompts("grammar", 3, "heldout")  # type: ignore[arg-type]


def test_prompts_of_a_table(mini: Instruments) -> None:
    pd.DataFrame({"caption": ["a red heart", None, "a blue star"]}).to_parquet("p.parquet")
    done = collect(mini.model, "mid.0", prompts="p.parquet", column="caption", out="d", quiet=True)
    assert (done.facts.prompts, done.facts.vectors(0)) == (2, {"mid.0": 128})


def test_prompts_of_another_world_are_refused(mini: Instruments) -> None:
    Path("p.txt").write_text("a red heart\na photo of a dog\n")
    with pytest.raises(UserError, match="'photo'"):
        collect(mini.model, "mid.0", prompts="p.txt", out="d", quiet=True)
    with pytest.raises(UserError, match="'photo'"):
        train(live={"model": "mini", "prompts": "p.txt"}, out="d", site="mid.0", **SMALL)
    assert not Path("d").exists()


def test_values_that_are_not_finite(mini: Instruments, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate = mini.model.generate

    def broken(*given: Any, **more: Any) -> Any:
        runs = generate(*given, **more)
        runs[-1].values["mid.0"][0, 3, 7] = 1e6  # no number of float16
        return runs

    monkeypatch.setattr(mini.model, "generate", broken)
    with pytest.raises(UserError, match=r"the values at mid.0 of the prompt .* are not finite in torch.float16"):
        collect(mini.model, "mid.0", prompts="grammar", count=2, out="n", quiet=True)
    # As the message advises: the folder holds no shard yet.
    done = collect(mini.model, "mid.0", prompts="grammar", count=2, out="n", store="bfloat16", quiet=True)
    assert (done.facts.dtype, done.shards) == ("bfloat16", 1)
    with pytest.raises(UserError, match="values of other type: bfloat16, not float16"):
        collect(mini.model, "mid.0", prompts="grammar", count=2, out="n", quiet=True)


def test_a_shard_without_its_entry_is_not_taken_for_none(mini: Instruments, data: Path) -> None:
    """A process that was killed between a shard and its entry in the manifest."""
    manifest = read_manifest(data)
    assert manifest is not None
    manifest.shards.clear()
    (data / "manifest.json").write_text(manifest.model_dump_json())
    with pytest.raises(UserError, match="values of other type: float16, not bfloat16"):
        collect(mini.model, SITES, prompts="grammar", count=6, out=data, store="bfloat16", quiet=True)
    for path in data.glob("shard-*"):
        path.unlink()
    done = collect(mini.model, SITES, prompts="grammar", count=4, out=data, store="bfloat16", quiet=True)
    assert (done.facts.dtype, done.facts.prompts) == ("bfloat16", 4)


def test_another_model_is_refused(mini: Instruments, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(mini.model), "fingerprint", "other")
    with pytest.raises(UserError, match=r"data holds values of mini-.*, this model is other"):
        collect(mini.model, SITES, prompts="grammar", count=6, out=data, quiet=True)


def test_a_disk_too_small(mini: Instruments, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(1, 1, 40_000))
    with pytest.raises(UserError, match=r"24.6 MB are needed in new, 40.0 kB are free; take fewer prompts"):
        collect(mini.model, "mid.0", prompts="grammar", count=2000, out="new", quiet=True)
    with pytest.raises(UserError, match=r"are needed in saes, 40.0 kB are free; train fewer SAEs"):
        train(data, out="saes", **SMALL)
    assert not Path("new").exists()
    assert not Path("saes").exists()


def test_a_grid_is_trained_and_found(data: Path) -> None:
    done = train(data, out="saes", **SMALL | {"k": (4, 8), "aux": (True, False), "expansion": (1, 2)})
    names = [folder.name for folder in done.folders]
    assert len(names) == 16
    assert names[0] == "mid.0_k4_x1_aux-on_seed0"
    found = find_saes(Path("saes"), {"mid.0": ("mid.0_k4_x1_aux-on",)}, SaeSettings(k=4, features=96))
    sae = load_sae(found["mid.0"])
    assert (sae.k, sae.n_features, sae.d_model) == (4, 96, 96)
    assert torch.allclose(sae.decoder.weight.norm(dim=0), torch.ones(96), atol=1e-6)
    log = read_log(Path("saes"))
    assert [line["step"] for line in log if line["sae"] == names[0]] == [4, 8, 12]
    config = json.loads((found["mid.0"] / "config.json").read_text())
    assert config["explained_variance"] == next(x["explained"] for x in log if (x["sae"], x["step"]) == (names[0], 12))
    assert (config["dead_steps_threshold"], config["model"], config["auxk"]) == (200_000 // 64, "mini", 64)
    off = json.loads((Path("saes") / "mid.0_k4_x1_aux-off_seed0" / "config.json").read_text())
    assert off["auxk"] is None
    assert Path("saes/learning.png").stat().st_size > 10_000
    assert not Path("saes/checkpoint.pt").exists()


def test_a_grid_is_what_single_trainings_are(data: Path) -> None:
    train(data, site="mid.0", out="grid", **SMALL | {"k": (4, 8), "seeds": (0, 1)})
    train(data, site="mid.0", out="one", **SMALL | {"k": (8,), "seeds": (1,)})
    name = "mid.0_k8_x4_aux-on_seed1/state_dict.safetensors"
    assert (Path("grid") / name).read_bytes() == (Path("one") / name).read_bytes()


def test_from_the_model_itself_as_from_shards(mini: Instruments, data: Path) -> None:
    live = {"model": mini.model, "prompts": "grammar", "count": 6}
    once = SMALL | {"steps": 0, "buffer": 10_000}
    train(live=live, site="mid.0", out="live", **once)
    train(data, site="mid.0", out="stored", **once)
    a, b = (load_sae(Path(out) / "mid.0_k4_x4_aux-on_seed0") for out in ("live", "stored"))
    assert read_log(Path("live"))[-1]["step"] == 6  # 384 vectors
    # The same vectors, drawn in another order: units are prompts here and shards there.
    assert torch.allclose(a.pre_bias, b.pre_bias, atol=0.05)
    assert read_log(Path("live"))[-1]["loss"] < 1.2 * read_log(Path("stored"))[-1]["loss"]


def test_a_training_goes_on_with_the_weights_that_it_began_with(random_pipeline: Any) -> None:
    random_pipeline.save_pretrained("pipeline")
    Path("prompts.txt").write_text("a cat\n")
    live, few = {"model": "pipeline", "prompts": "prompts.txt"}, SMALL | {"steps": 2, "batch": 4}
    [folder] = train(live=live, site="mid.0", out="live", **few).folders
    fingerprint = json.loads((folder / "config.json").read_text())["model_fingerprint"]
    assert fingerprint == riebench.load("pipeline").fingerprint
    before = file_hash(folder / "state_dict.safetensors")
    train(live=live, site="mid.0", out="live", **few)  # nothing is left to do
    file = Path("pipeline/unet/diffusion_pytorch_model.safetensors")
    weights = load_file(file)
    weights["conv_out.bias"] += 1.0
    save_file(weights, file)
    with pytest.raises(UserError, match=f"live holds a training on values of {fingerprint}"):
        train(live=live, site="mid.0", out="live", **few)
    assert file_hash(folder / "state_dict.safetensors") == before
    shutil.rmtree(folder)  # all is done again
    train(live=live, site="mid.0", out="live", **few)
    assert (
        json.loads((folder / "config.json").read_text())["model_fingerprint"] == riebench.load("pipeline").fingerprint
    )
    assert fingerprint != riebench.load("pipeline").fingerprint


class Numbered:
    """Vectors that are their own numbers, ten a unit."""

    ahead = False

    def units(self) -> list[dict[str, int]]:
        return [{"a": 10}] * 12

    def read(self, units: list[int]) -> dict[str, torch.Tensor]:
        return {"a": torch.cat([torch.arange(10.0)[:, None] + 10 * unit for unit in units])}


def test_every_vector_once_in_a_pass_and_from_any_place() -> None:
    portions = Portions(Numbered(), SAESettings(batch=10, buffer=30))
    assert portions.batches_in_round() == 12
    stream = portions.batches(StreamPosition())
    taken = [(place, batch["a"].flatten().tolist()) for place, batch in (next(stream) for _ in range(24))]
    for pass_ in (taken[:12], taken[12:]):
        assert sorted(number for _, batch in pass_ for number in batch) == list(range(120))
    assert taken[0][1] != taken[12][1]
    for start in (3, 11, 14):
        again = portions.batches(taken[start - 1][0])
        assert [next(again)[1]["a"].flatten().tolist() for _ in range(3)] == [b for _, b in taken[start : start + 3]]


def test_what_is_wrong_with_a_data_set(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for given, said in (
        ({"site": "mid.1"}, "unknown site 'mid.1'; did you mean 'mid.0'"),
        ({"batch": 4096}, "there are 384 vectors of mid.0, a batch takes 4096"),
        ({"k": (97,), "expansion": (1,)}, "k is 97, but an SAE of mid.0 has 96 features at expansion 1"),
        ({"k": ()}, "k is empty"),
        ({"k": (3, 3)}, "k is 3,3; expected different numbers"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"lr": float("inf")}, "lr is inf"),
        ({"aux_weight": float("nan")}, "aux_weight is nan"),
        ({"lrr": 1.0}, "unknown setting 'lrr'; did you mean 'lr'"),
        ({"preset": "papers"}, "unknown preset 'papers'; did you mean 'paper'"),
        ({"device": "cuda:77"}, "the device 'cuda:77' is not"),
        ({"seeds": (1 << 70,)}, "seeds is 1180591620717411303424"),
        ({"shuffle_seed": 1 << 30}, "shuffle_seed is 1073741824"),
    ):
        with pytest.raises(UserError, match=said):
            train(data, out="saes", **SMALL | given)
    train(data, out="done", **SMALL)
    with pytest.raises(UserError, match=r"done holds a training with lr 0.001, not 0.1; give another --out"):
        train(data, out="done", **SMALL, lr=0.1)
    log = Path("done/log.jsonl").read_text()
    Path("done/log.jsonl").write_text("{\n{}\n")
    with pytest.raises(UserError, match=r"log.jsonl: line 1 is damaged"):
        train(data, out="done", **SMALL)
    for last in ("{\n", '{"sae": 1}\n', "5\n"):
        Path("done/log.jsonl").write_text(log + last)
        with pytest.raises(UserError, match=rf"log.jsonl: line {log.count(chr(10)) + 1}, the last, is damaged"):
            train(data, out="done", **SMALL)
    Path("done/log.jsonl").write_text(log + '{"sae": "mid.0')  # as a killed process leaves it
    assert train(data, out="done", **SMALL).measured
    Path("done/log.jsonl").write_text(log)
    Path("done/training.json").write_text("[]")
    with pytest.raises(UserError, match=r"training.json cannot be read"):
        train(data, out="done", **SMALL)
    path = data / shard_name(1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(UserError, match=r"shard-000001.safetensors has 123,078 of 123,088 bytes; the same"):
        train(data, out="saes", **SMALL)
    path.write_bytes(whole[:-10] + bytes(10))
    with pytest.raises(UserError, match="is damaged"):
        train(data, out="saes", **SMALL)
    assert not Path("saes/checkpoint.pt").exists()
    path.write_bytes(whole)
    assert train(data, out="saes", **SMALL | {"lr": 2e-3}).folders  # nothing had been trained there


def test_saes_that_are_gone_are_made_again(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = SMALL | {"k": (4, 8)}
    folders = train(data, site="mid.0", out="saes", **options).folders
    before = (folders[0] / "state_dict.safetensors").read_bytes()
    shutil.rmtree(folders[0])
    (folders[1] / "sae_weights.safetensors").unlink()
    assert len(train(data, site="mid.0", out="saes", **options).folders) == 2
    assert folders[0].name in caplog.text
    assert (folders[0] / "state_dict.safetensors").read_bytes() == before
    assert (folders[1] / "sae_weights.safetensors").is_file()
    with pytest.raises(UserError, match="holds a training with lr"):
        train(data, site="mid.0", out="saes", **options, lr=0.1)


def test_a_training_ends_with_its_numbers(
    data: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    told: list[tuple[str, int, float]] = []
    done = train(
        data, site="mid.0", out="good", callback=lambda sae, step, seen: told.append((sae, step, seen["l0"])), **SMALL
    )
    [name] = done.measured
    assert [told_of[:2] for told_of in told] == [(name, 4), (name, 8), (name, 12)]
    assert done.measured[name]["l0"] == told[-1][2] == 4
    assert not caplog.records
    words = [
        "sae",
        "train",
        "data",
        "--site",
        "mid.0",
        "--k",
        "4",
        "--batch",
        "64",
        "--steps",
        "12",
        "--log-every",
        "4",
        "--out",
        "bad",
    ]
    with pytest.raises(SystemExit) as left:
        main([*words, "--lr", "1e6"])
    assert left.value.code == 0
    shown = capsys.readouterr()
    assert "mid.0_k4_x4_aux-on_seed0" in shown.out
    assert "explained" in shown.out
    assert "--lr" in shown.err
    if find_spec("tensorboard") is None:
        with pytest.raises(SystemExit) as left:
            main([*words[:-1], "events", "--tensorboard"])
        assert left.value.code == 2
        assert "pip install tensorboard" in capsys.readouterr().err


def test_the_events_of_a_training_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a writer in TensorBoard's place, which need not be installed."""
    written: list[Any] = []

    class Writer:
        def __init__(self, folder: str) -> None: ...

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *error: object) -> None:
            written.append("closed")

        def add_scalar(self, *event: Any) -> None:
            written.append(event)

        def flush(self) -> None: ...

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with tensorboard_callback(tmp_path) as write:
        write("mid.0", 5, {"loss": 0.5})
    assert written == [("loss/mid.0", 0.5, 5), "closed"]


def test_only_torn_files_of_its_own_are_removed(data: Path) -> None:
    theirs = [Path("saes/mid.0-index.abcdef12.part"), Path("saes/films/a.abcdef12.part"), Path("saes/b.part")]
    theirs[0].mkdir(parents=True)  # an index that is being made
    theirs[1].parent.mkdir()
    for path in theirs[1:]:
        path.write_bytes(b"not ours")
    torn = Path("saes/checkpoint.pt.abcdef12.part")
    torn.write_bytes(b"torn")
    train(data, out="saes", **SMALL)
    assert all(path.exists() for path in theirs)
    assert not torn.exists()


def test_memory_too_small(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = psutil.virtual_memory()
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory._replace(total=1_000_000))
    with pytest.raises(UserError, match=r"training the SAEs takes 9\.4 MB of memory, this machine has 1\.0 MB"):
        train(data, site="mid.0", out=tmp_path, **{**SMALL, "expansion": (32,)})


def test_a_grammar_of_any_length_meets_the_disk_first(mini: Instruments) -> None:
    with pytest.raises(UserError, match="TB are needed in huge"):
        collect(mini.model, "mid.0", prompts="grammar", count=10**12, out="huge", quiet=True)


def test_values_that_became_no_number_are_named(data: Path) -> None:
    path = data / shard_name(0)
    stored = load_file(path)
    stored["mid.0"][5, 5] = float("nan")
    manifest = read_manifest(data)
    assert manifest is not None
    save_file(stored, path, {"collection": manifest.facts.key})
    manifest.shards[0].sha256 = file_hash(path)
    manifest.shards[0].bytes = path.stat().st_size
    (data / "manifest.json").write_text(manifest.model_dump_json())
    # Each shard is a portion; the steps of those before the bad one are in the checkpoint.
    with pytest.raises(UserError, match=r"shard-000000.safetensors holds values at mid.0 that are not finite"):
        train(data, site="mid.0", out="saes", **SMALL | {"buffer": 64})
    assert Path("saes/training.json").is_file()


def test_killed_at_random_moments(tmp_path: Path) -> None:
    names = [str(SCRIPTS / "kill_work_test.py"), "collect", "train"]
    command = [sys.executable, *names, "--kills", "6", "--work", str(tmp_path / "kills")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "collect: 6 kills" in done.stdout
    assert "train: 6 kills" in done.stdout
    for name in ("collect-alone", "train-alone"):
        assert any((tmp_path / "kills" / name).rglob("*.safetensors"))


FOREIGN = "a red heart\na red qwertz\n"


@pytest.mark.parametrize(
    "words",
    [
        ("sae", "collect", "--site", "mid.0", "--out", "values"),
        ("sae", "index", "mid.0", "--out", "index"),
        ("sae", "score", "mid.0", "--out", "scores"),
        ("ablate", "--out", "ablated"),
    ],
)
def test_prompts_outside_minis_grammar_are_refused(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.txt").write_text(FOREIGN * 4)
    with pytest.raises(SystemExit) as left:
        main([*words, "--prompts", "mine.txt"])
    assert left.value.code == 2
    message = capsys.readouterr().err
    assert "'qwertz'" in message
    assert "prompt 2" in message
    assert "--model" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt"]


def test_other_models_take_any_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.txt").write_text(FOREIGN)
    read = entry_named("sdxl-turbo").read_prompts("mine.txt", None, "train", None)
    assert [prompt for prompt, _ in read] == FOREIGN.splitlines()
    foreign = entry_named("mini").read_prompts("mine.txt", None, "train", None, own=False)  # mini with other weights
    assert len(foreign) == 2
