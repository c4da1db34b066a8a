"""``riebench sae score`` on mini and on a stand-in: the truth is found, files, bad input."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import riebench
from riebench.cli import main
from riebench.features.index_making import make_index
from riebench.features.score_request import score
from riebench.features.subjects import Subject, dictionary_fingerprint
from riebench.features.switching import reconstructed, switched_off, switched_on, zeroed
from riebench.instruments.loading import Instruments
from riebench.metrics.clip import ClipScorer
from riebench.mini.drawn_world import DrawnWorld
from riebench.mini.grammar import ATTRIBUTES, parse
from riebench.models import Model
from riebench.models.mini import MINI
from riebench.prompts import read_prompts
from riebench.sae.baselines import SignedCoordinates, random_dictionary, train_encoder
from riebench.sae.folders import sae_fingerprint
from riebench.sae.given import as_sae
from riebench.sae.sae import SAE
from riebench.sae.store import load_sae, save_sae
from riebench.sae.topk import TopKSAE
from riebench.settings.settings import Settings
from riebench.standin.write import write_standin
from riebench.util.errors import UserError

SITE = "up.0.0"
FEW: dict[str, Any] = {"count": 12, "features": 2, "best": 1, "pictures": 1, "downstream": 2, "fit": 4}


@pytest.fixture
def loaded(mini: Instruments) -> Model:
    """Mini, whose batch a call may change."""
    return mini.model


def colour_dictionary(model: Model, pictures: int) -> TopKSAE:
    """Directions from the means of the updates inside objects of each colour; a linear discriminant as encoder."""
    prompted, world = read_prompts("grammar", pictures, "train"), DrawnWorld()
    side = model.sites[SITE].grid[0]
    found: dict[str, list[Tensor]] = {colour: [] for colour in ATTRIBUTES["colour"]}
    runs = model.generate([p for p, _ in prompted], [s for _, s in prompted], 1, capture=[SITE])
    for (prompt, seed), run in zip(prompted, runs, strict=True):
        scene = parse(prompt)
        if scene.style != "sketch":
            cells = world.area(prompt, seed).reshape(side, 128 // side, side, 128 // side).mean((1, 3)) > 0.5
            found[scene.colour].append(run.values[SITE][0][torch.from_numpy(cells.ravel())])
    values = [torch.cat(parts) for parts in found.values()]
    means = torch.stack([x.mean(0) for x in values])
    spread = torch.stack([torch.cov(x.T) for x in values]).mean(0)
    spread += 1e-3 * spread.trace() / len(spread) * torch.eye(len(spread))
    centre = means.mean(0)
    apart = means - centre
    normals = torch.linalg.solve(spread, apart.T).T
    scale = (apart * normals).sum(1) / apart.norm(dim=1)
    sae = TopKSAE(len(centre), len(apart), 1)
    with torch.no_grad():
        sae.decoder.weight.copy_((apart / apart.norm(dim=1, keepdim=True)).T)
        sae.encoder.weight.copy_(normals / scale[:, None])
        sae.pre_bias.copy_(centre)
        sae.latent_bias.copy_(-0.5 * apart.norm(dim=1))
    return sae.eval().requires_grad_(False)


def by_kind(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {facts["kind"]: {name: e["value"] for name, e in facts["summary"].items()} for facts in found}


def test_a_dictionary_of_colours_is_told_from_a_random_one(loaded: Model, tmp_path: Path) -> None:
    made = colour_dictionary(loaded, 120)
    options = {"features": 8, "best": 8, "pictures": 1, "downstream": 2, "strengths": (4.0,)}
    found = score(made, tmp_path, model=loaded, site=SITE, baselines=["random"], count=96, **options)
    scores = by_kind(found)
    good, random = scores["dictionary"], scores["random"]
    assert good["f1"] > 0.7
    assert good["f1"] > random["f1"] + 0.2
    assert good["on"] > 0.4
    assert good["on"] > good["on_random"] + 0.4
    assert random["on"] < 0.2
    assert good["on_kept"] > 0.8
    assert good["locality"] > 3
    (facts,) = [facts for facts in found if facts["kind"] == "dictionary"]
    values = [value for value in facts["features"]["value"] if value.startswith("colour=")]
    assert len(set(values)) >= 7
    assert np.mean([f1 for value, f1 in facts["coverage"].items() if value.startswith("colour=")]) > 0.7


def test_all_baselines_share_the_pictures_and_nothing_is_done_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sae", "score", SITE, "--out", "scores"]
    words += [f"--{name}={value}" for name, value in FEW.items()]
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert "frozen-decoder" in shown
    files = {path: path.stat().st_mtime_ns for path in Path("scores").glob("*.json")}
    found = {facts["kind"]: facts for facts in (json.loads(p.read_text()) for p in files)}
    assert set(found) == {"sae", "random", "frozen-decoder", "neurons", "channels"}
    assert len({facts["prompts"]["hash"] for facts in found.values()}) == 1
    summary = {kind: facts["summary"] for kind, facts in found.items()}
    assert 0.9 < summary["sae"]["explained_variance"]["value"] < 1
    assert summary["random"]["explained_variance"]["value"] < summary["frozen-decoder"]["explained_variance"]["value"]
    assert summary["sae"]["l0"]["value"] == pytest.approx(16, abs=0.1)
    assert summary["sae"]["lpips"]["value"] < summary["sae"]["zeroed_lpips"]["value"]
    assert "explained_variance" not in summary["channels"]
    assert found["neurons"]["sites"] == [f"{SITE}/neurons.0", f"{SITE}/neurons.1"]
    assert len(found["neurons"]["features"]["f1"]) == 4 * 384
    assert len(found["sae"]["coverage"]) == sum(map(len, ATTRIBUTES.values()))
    assert [row["drawn"] for row in found["sae"]["switched"]].count(True) == 2
    table = Path("scores/scores.md").read_text()
    assert table.count("\n| up.0.0") == 5
    assert Path("scores/scores.csv").read_text().startswith("name,kind,block,model,features_count,key,")
    with pytest.raises(SystemExit):
        main(words)
    assert {path: path.stat().st_mtime_ns for path in Path("scores").glob("*.json")} == files
    with pytest.raises(SystemExit):
        main([*words, "--seed", "1", "--baseline", "none"])
    assert len(list(Path("scores").glob("*.json"))) == 6


class Bare:
    """A stranger's SAE with no more than two functions of matrices; its k is out of the reach of small vectors."""

    def __init__(self, sae: SAE, least: float = 0.0) -> None:
        self.sae, self.least, self.k = sae, least, 90

    def encode(self, x: Tensor) -> Tensor:
        assert x.ndim == 2
        codes = self.sae.encode(x)
        return codes * (codes > self.least)

    def decode(self, z: Tensor) -> Tensor:
        assert z.ndim == 2
        return self.sae.decode(z)


def test_what_load_takes_is_scored_and_indexed(
    loaded: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = load_sae(MINI.saes(Settings())[SITE])
    [facts] = score(ours, tmp_path / "ours", model=loaded, site=SITE, baselines=[], **FEW)
    [found] = score(Bare(ours), tmp_path / "bare", model=loaded, site=SITE, baselines=[], **FEW)
    for name, estimate in facts["summary"].items():
        assert found["summary"][name]["value"] == pytest.approx(estimate["value"], rel=1e-3, abs=1e-3), name
    assert len(score(Bare(ours, 1e4), tmp_path / "bare", model=loaded, site=SITE, baselines=[], **FEW)) == 2
    before = loaded.saes
    loaded.saes = {SITE: Bare(ours)}  # type: ignore[dict-item]  # as load(saes=) takes
    try:
        assert loaded.sae(SITE).kind == "Bare"
        several = score((), tmp_path / "bare", model=loaded, baselines=[], **FEW)
        assert {each["name"]: each["key"] == found["key"] for each in several}[SITE]
    finally:
        loaded.saes = before
    prompted = read_prompts("grammar", 6, "held-out")
    folder = MINI.saes(Settings())[SITE]
    saes: dict[str, Any] = {"ours": ours, "bare": Bare(ours), "folder": folder}
    indexes = {
        name: make_index(loaded, SITE, sae, prompted, tmp_path / name, name=name, prompts="grammar").facts
        for name, sae in saes.items()
    }
    for one in indexes.values():
        assert one.columns.maximum == pytest.approx(indexes["ours"].columns.maximum, rel=1e-3)
    assert len({one.sae for one in indexes.values()}) == 3
    assert indexes["folder"].sae == sae_fingerprint(folder)
    with pytest.raises(UserError, match="Sequential without encode; expected the folder of an SAE"):
        make_index(loaded, SITE, torch.nn.Sequential(), prompted, tmp_path / "no", name="no", prompts="grammar")
    assert not (tmp_path / "no").exists()
    for words in (["sae", "index", "my_file:make", "--out", "no"], ["sae", "show", "my_file:make"]):
        with pytest.raises(SystemExit, match="2"):
            main(words)
        assert "is indexed by riebench.features.make_index(model, site, sae," in capsys.readouterr().err
    ours.latent_bias[3] = float("nan")
    for take in (lambda: riebench.load("mini", saes={SITE: ours}), lambda: score(ours, tmp_path, site=SITE)):
        with pytest.raises(UserError, match=r"latent_bias of .* has numbers that are not finite"):
            take()


def test_prompts_that_clip_reads_in_part_have_no_similarity(
    loaded: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClipScorer, "cut", lambda self, prompt: "99 tokens, of which CLIP reads 9")
    (facts,) = score(SITE, tmp_path, model=loaded, baselines=(), **FEW)
    for kind in ("", "zeroed_"):
        assert facts["summary"][f"{kind}clip_change"]["value"] is None
        assert facts["summary"][f"{kind}lpips"]["value"] > 0


def test_steps_are_told_apart(loaded: Model, tmp_path: Path) -> None:
    found = score(SITE, tmp_path, model=loaded, baselines=[], **(FEW | {"count": 6, "steps": 2}))
    (facts,) = found
    assert len(facts["steps"]["explained_variance"]) == 2
    assert len(facts["steps"]["code_iou"]) == 1
    table = pd.read_csv(tmp_path / "by-step.csv")
    assert list(table["score"].value_counts().sort_index()) == [1, 1, 2]
    second = table[(table["score"] == "explained_variance") & (table["step"] == 1)]
    assert second["value"].item() == facts["steps"]["explained_variance"][1]["value"]
    assert (tmp_path / "by-step.png").stat().st_size > 5000
    assert 0 < facts["summary"]["code_iou"]["value"] < facts["summary"]["code_cosine"]["value"] <= 1


def test_a_real_model_needs_no_truth(tmp_path: Path) -> None:
    for _ in write_standin(tmp_path / "w", "sdxl-turbo", "tiny", seed=1):
        pass
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a newt in a hat\na toad\na hat\n\na newt\na heron\na toad in a hat\n")
    described = tmp_path / "described.json"
    described.write_text(json.dumps({"mid.0": {str(i): "a newt" for i in range(256)}}))
    found = score(
        "mid.0",
        tmp_path / "scores",
        model="sdxl-turbo",
        prompts=str(prompts),
        baselines=["random"],
        descriptions=described,
        settings={"weights": tmp_path / "w", "model.size": 256},
        **{name: value for name, value in FEW.items() if name != "count"},
    )
    judged = next(facts for facts in found if facts["kind"] == "sae")
    assert judged["conditions"]["truth"] is False
    summary = judged["summary"]
    assert "f1" not in summary
    assert summary["on"] == {"value": None, "low": None, "high": None, "units": 0}
    assert summary["kept"]["value"] is None
    assert summary["clip"]["value"] is not None
    assert summary["locality"]["value"] is not None
    assert summary["explained_variance"]["value"] is not None
    assert summary["sensitivity_1"]["value"] is not None
    random = next(facts for facts in found if facts["kind"] == "random")
    assert random["summary"]["sensitivity_1"]["value"] is None  # nobody described its features


class Faulty:
    """A dictionary of a width, whose codes may be anything."""

    def __init__(self, width: int, code: float = 1.0) -> None:
        self.W_dec, self.code = torch.eye(width), code

    def encode(self, x: Tensor) -> Tensor:
        return torch.full_like(x, self.code)

    def decode(self, z: Tensor) -> Tensor:
        return z


STRANGERS = """
import torch
class Short:
    W_dec = torch.eye(96)
    def encode(self, x): return x.relu()
    def decode(self, z): return z[..., :1]
class Nan(Short):
    def decode(self, z): return z * float("nan")
class Rows(Short):
    def encode(self, x): raise IndexError("row")
"""


def refused(said: str, *words: str) -> None:
    with pytest.raises(SystemExit) as left:
        main(["sae", "score", *words])
    assert left.value.code == 2, said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([SITE, "--site", "up.9.9"], "unknown site 'up.9.9'"),
        (["wide"], "96 wide"),
        (["empty"], "holds neither an SAE"),
        (["nowhere"], "unknown SAE"),
        ([SITE, "--prompts", "empty.txt"], "holds no prompt"),
        ([SITE, "--prompts", "foreign.txt"], "drawn world"),
        ([SITE, "--baseline", "randon"], "did you mean 'random'"),
        ([SITE, "--baseline", "none", "--baseline", "random"], "stands alone"),
        ([SITE, "--steps", "9999"], "the most of the sampler"),
        ([SITE, "--descriptions", "empty.txt"], "cannot be read"),
        ([SITE, "--descriptions", "other.json"], "unknown site 'up.0.00' in the descriptions; did you mean 'up.0.0'"),
        ([SITE, "--set", "sae.k=3"], "sae.k=3"),
        (["wide", "--set", "sae.k=3"], "has k 2; leave out --set sae.k=3"),
        (["json:loads", "--site", SITE], "cannot be loaded"),
        (["json:JSONDecoder", "--site", SITE], "is a JSONDecoder without encode"),
        (["stray:Rows", "--site", SITE], "stray:Rows cannot encode and decode vectors [32, 96] (IndexError: row"),
        (["stray:Short", "--site", SITE], "makes vectors [32, 1] of the codes [32, 96] of vectors [32, 96]; expected"),
        (["stray:Nan", "--site", SITE], "codes or reconstructions that are not finite"),
        (["json:JSONDecoder"], "give it with --site"),
        ([SITE, "--out", "empty.txt"], "is a file"),
        ([SITE, "--out", "empty.txt/scores"], "cannot be written"),
        (["--model", "sdxl-turbo", "mid.0"], "riebench"),
    ],
)
def test_bad_input_is_one_line(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_sae(random_dictionary(64, 8, 2, 0), tmp_path / "wide", {})
    wide = json.loads((tmp_path / "wide" / "config.json").read_text())
    (tmp_path / "wide" / "config.json").write_text(json.dumps(wide | {"site": SITE}))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "other.json").write_text('{"up.0.00": {"3": "a red heart"}}')
    (tmp_path / "foreign.txt").write_text("a newt\n" * 5)
    (tmp_path / "stray.py").write_text(STRANGERS)
    refused(said, *words)
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("riebench: ")
    assert not list(tmp_path.glob("scores/*.json"))


def test_codes_that_are_not_finite_leave_what_is_finished(loaded: Model, tmp_path: Path) -> None:
    score(SITE, tmp_path, model=loaded, baselines=[], **FEW)
    with pytest.raises(UserError, match="not finite"):
        score(Faulty(96, float("nan")), tmp_path, model=loaded, site=SITE, baselines=[], **FEW)
    (tmp_path / "d").write_text(json.dumps({SITE: {"400": "red"}}))
    with pytest.raises(UserError, match="has no feature 400 to describe"):
        score(SITE, tmp_path, model=loaded, baselines=[], descriptions=tmp_path / "d", **FEW)
    assert len(list(tmp_path.glob("*.json"))) == 1


class Signed(Faulty):
    """Codes of both signs, of any size."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.code

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z / self.code


def test_the_level_of_a_feature_is_its_mean_where_it_is_active(loaded: Model, tmp_path: Path) -> None:
    [found] = score(Signed(96, 1.0), tmp_path, model=loaded, site=SITE, baselines=[], **FEW)
    assert found["summary"]["explained_variance"]["value"] > 0.999
    assert all(row["level"] > 0 for row in found["switched"])
    with pytest.raises(UserError, match="codes above 65504"):
        score(Signed(96, 1e6), tmp_path, model=loaded, site=SITE, baselines=[], **FEW)


def test_changes_of_a_feature_by_hand() -> None:
    dictionary = SignedCoordinates(2, torch.device("cpu"))
    values = torch.tensor([[3.0, -1], [0, 2]])
    area = torch.tensor([True, False])
    assert dictionary.encode(values).tolist() == [[3, 0, 0, 1], [0, 2, 0, 0]]
    assert torch.equal(dictionary.decode(dictionary.encode(values)), values)
    direction = dictionary.W_dec[3]
    assert direction.tolist() == [0, -1]
    assert switched_on(direction, 2.0, area, 2).tolist() == [[[0, -2], [0, 0]]] * 2
    assert (values + switched_off(dictionary, 3, direction, area)(values, 0)).tolist() == [[3, 0], [0, 2]]
    assert not reconstructed(dictionary)(values, 0).any()
    assert not (values + zeroed(values, 0)).any()


def test_features_are_counted_through_the_sites_of_a_subject() -> None:
    parts = {"a": SignedCoordinates(2, torch.device("cpu")), "b": SignedCoordinates(3, torch.device("cpu"))}
    subject = Subject("neurons", "neurons", "x", parts)
    assert (subject.feature(3).site, subject.feature(3).index) == ("a", 3)
    assert (subject.feature(4).site, subject.feature(4).index) == ("b", 0)


def test_a_frozen_decoder_stays_and_its_encoder_learns() -> None:
    x = torch.randn(500, 8, generator=torch.Generator().manual_seed(0)) + 2
    sae = random_dictionary(8, 32, 4, 0)
    before = sae.decoder.weight.clone(), float((sae(x) - x).square().sum())
    train_encoder(sae, x, seed=0, steps=200)
    assert torch.equal(sae.decoder.weight, before[0])
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(32))
    assert float((sae(x) - x).square().sum()) < 0.7 * before[1]


def test_fingerprints_tell_dictionaries_apart() -> None:
    one, two, same = (random_dictionary(8, 16, 2, seed) for seed in (0, 1, 0))
    assert dictionary_fingerprint(one) == dictionary_fingerprint(same) != dictionary_fingerprint(two)
    same.k = 3
    assert dictionary_fingerprint(one) != dictionary_fingerprint(same)
    one.k, same.k = 15, 16  # more than are active on vectors of norm 1
    assert dictionary_fingerprint(one) != dictionary_fingerprint(same)
    few, many = (as_sae(Bare(two, least), 8, "it") for least in (1e4, 1e5))
    assert dictionary_fingerprint(few) != dictionary_fingerprint(many)


def test_the_world_of_drawings(loaded: Model) -> None:
    world, prompt = DrawnWorld(), "a red star at night"
    assert world.shown(prompt)["colour"] == "red"
    assert "colour" not in world.shown("a red star in sketch style")
    assert not (world.area(prompt, 3) & world.area(prompt, 3, "background")).any()
    assert world.area(prompt, 3, "style").all()
    (run,) = loaded.generate([prompt], [560_001], 1)
    read: Mapping[str, str] = world.read(run.image, prompt, 560_001)
    assert (read["colour"], read["shape"], read["background"]) == ("red", "star", "night")
    assert riebench.features.score is score  # type: ignore[attr-defined]
