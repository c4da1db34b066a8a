"""The feature index: its contents against a computation of their own, its reader, its command, bad input."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from feature_helpers import invented_index
from fresh_commands import FreshCommands
from PIL import Image

from riebench.cli import main
from riebench.features.feature_index import FACTS, HEAT, PICTURES, FeatureIndex
from riebench.features.feature_page import write_feature_page
from riebench.features.feature_sheet import draw_feature, draw_features
from riebench.features.index_folder import check_index_folder, whole_index
from riebench.features.index_making import make_index
from riebench.features.located_saes import (
    SHIPPED,
    IndexRequest,
    carry_out_index,
    find_index,
    index_in_cache,
    locate_sae,
)
from riebench.instruments.loading import Instruments, world_of
from riebench.mini.grammar import parse, visible
from riebench.models.mini import WEIGHTS
from riebench.prompts import read_prompts
from riebench.settings.settings import Settings
from riebench.util.errors import UserError
from riebench.util.work_folder import only_writer

ROOT = Path(__file__).parents[1]
COUNT, SITE = 30, "up.0.0"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> FeatureIndex:
    """An index of few pictures of mini."""
    out = tmp_path_factory.mktemp("made") / "up.0.0-index"
    return carry_out_index(IndexRequest(SITE, "mini", Settings(), count=COUNT), out)


@pytest.fixture(scope="module")
def invented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return invented_index(tmp_path_factory.mktemp("invented") / "index", features=40, pictures=60)


@pytest.fixture(scope="module")
def codes(mini: Instruments) -> np.ndarray:
    """Codes ``[pictures, positions, n]`` of the same prompts, each generated alone."""
    sae, found = mini.model.sae(SITE), []
    for prompt, seed in read_prompts("grammar", COUNT, "held-out"):
        [run] = mini.model.generate([prompt], [seed], 1, capture=[SITE])
        found.append(sae.encode(run.values[SITE][0]).numpy())
    return np.stack(found)


def test_numbers_are_those_of_the_codes(index: FeatureIndex, codes: np.ndarray) -> None:
    assert len(index) == codes.shape[2] == 384
    flat = codes.reshape(-1, 384)
    live = np.flatnonzero(flat.max(0) > 0)
    for number in (live[0], live[len(live) // 2], live[-1]):
        feature, active = index.feature(int(number)), flat[:, number] > 0
        assert feature.density == pytest.approx(active.mean(), abs=2e-4)
        assert feature.mean == pytest.approx(flat[active, number].mean(), rel=1e-2)
        assert feature.maximum == pytest.approx(flat[:, number].max(), rel=1e-3)
    dead = np.flatnonzero(flat.max(0) == 0)
    assert len(dead)
    for number in dead[:3]:
        feature = index.feature(int(number))
        assert (feature.density, feature.mean, feature.maximum, feature.label) == (0, None, 0, None)
        assert index.pictures(int(number)) == []


def test_top_pictures_and_heat_maps(index: FeatureIndex, codes: np.ndarray) -> None:
    prompted = read_prompts("grammar", COUNT, "held-out")
    in_each = codes.max(1)
    often = np.flatnonzero((in_each > 0).sum(0) > 9)
    for number in often[:3]:
        order = np.argsort(-in_each[:, number])[:9]
        found = index.pictures(int(number))
        assert [(p.prompt, p.seed) for p in found] == [prompted[i] for i in order]
        for picture, i in zip(found, order, strict=True):
            assert picture.highest == pytest.approx(in_each[i, number], rel=1e-3)
            step = index.feature(int(number)).maximum / 255
            assert picture.heat.shape == (8, 8)
            assert np.abs(picture.heat.ravel() - codes[i, :, number]).max() < step
    rarely = np.flatnonzero(((in_each > 0).sum(0) > 0) & ((in_each > 0).sum(0) < 9))
    assert len(index.pictures(int(rarely[0]))) == (in_each[:, rarely[0]] > 0).sum()


def test_pictures_are_stored_once_and_small(index: FeatureIndex, mini: Instruments) -> None:
    stored = sorted((index.folder / PICTURES).iterdir())
    shown = {number for row in index.facts.columns.pictures for number in row}
    assert {int(p.stem) for p in stored} == shown == set(index.facts.prompted)
    number, (prompt, seed) = next(iter(index.facts.prompted.items()))
    [run] = mini.model.generate([prompt], [seed], 1)
    with Image.open(index.file(number)) as image:
        difference = np.asarray(image.convert("RGB"), float) - run.image
    assert np.abs(difference).mean() < 6  # WebP loses a little
    assert sum(p.stat().st_size for p in index.folder.rglob("*") if p.is_file()) < 400_000


class Axes:
    """Three coordinates and their opposites as features; not of norm 1."""

    W_dec = torch.cat([torch.eye(96)[:3], -2 * torch.eye(96)[:3]])

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ torch.nn.functional.normalize(self.W_dec, dim=1).T).relu()

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z @ self.W_dec


def test_any_dictionary_without_a_world(mini: Instruments, tmp_path: Path) -> None:
    prompted = read_prompts("grammar", COUNT, "held-out")
    index = make_index(
        mini.model, SITE, Axes(), prompted, tmp_path / "axes", name="axes", fingerprint="", prompts="x", top=2, side=32
    )
    assert len(index) == 6
    assert [f.label for f in index] == [f.score for f in index] == [None] * 6
    assert index.facts.score_name is None
    shown = {(p.prompt, p.seed) for f in index for p in index.pictures(f.number)}
    assert len(list((tmp_path / "axes" / PICTURES).iterdir())) == len(shown) <= 12  # of 30; the others are not stored
    assert index.pictures(0)[0].image().size == (32, 32)
    assert len(index.feature(0).nearest) == 5
    assert {n.number: n.cosine for n in index.feature(0).nearest} == {1: 0, 2: 0, 4: 0, 5: 0, 3: -1}
    draw_features(index, list(index), "axes")
    write_feature_page(index, tmp_path / "axes.html")
    assert "at least<input" not in (tmp_path / "axes.html").read_text()


def test_nearest_by_cosine(index: FeatureIndex, mini: Instruments) -> None:
    directions = mini.model.sae(SITE).W_dec.numpy().astype(float)
    for number in (0, 200, 383):
        norms = np.linalg.norm(directions, axis=1)
        cosines = directions @ directions[number] / norms / norms[number]
        cosines[number] = -2
        order = np.argsort(-cosines)[:8]
        near = index.feature(number).nearest
        assert [n.number for n in near] == order.tolist()
        assert [n.cosine for n in near] == pytest.approx(cosines[order], abs=1e-3)


def test_label_and_score(index: FeatureIndex, codes: np.ndarray) -> None:
    """The F1 of a label, with a threshold from every other picture, on the rest; done here by trying all of them."""
    scenes = [parse(prompt) for prompt, _ in read_prompts("grammar", COUNT, "held-out")]
    in_each, pick = codes.max(1), np.arange(COUNT) % 2 == 0
    labelled = [f for f in index if f.label is not None]
    assert len(labelled) > 100
    assert index.facts.score_name == "F1"
    for feature in labelled[:20]:
        name, value = str(feature.label).split(": ")
        known = np.array([visible(s, name) for s in scenes])
        true = np.array([getattr(s, name) == value for s in scenes])
        levels = np.unique(np.append(in_each[pick & known, feature.number], 0.0))

        def f1(threshold: float, rows: np.ndarray, number: int = feature.number, true: np.ndarray = true) -> float:
            said = in_each[rows, number] > threshold
            return 2 * (said & true[rows]).sum() / max(1, said.sum() + true[rows].sum())

        middles = [*((levels[1:] + levels[:-1]) / 2), 0.0]
        best = max(f1(level, pick & known) for level in middles)
        tested = {round(f1(level, ~pick & known), 3) for level in middles if f1(level, pick & known) > best - 1e-6}
        assert round(feature.score or 0, 3) in tested


def test_search(invented: Path) -> None:
    index = FeatureIndex(invented)
    assert [f.number for f in index.search("17")] == [17]
    found = index.search("RED")
    labels = [f.label for f in found]
    assert labels[0] == "colour: red"
    with_label = [f.score or 0 for f in found if f.label == "colour: red"]
    assert with_label == sorted(with_label, reverse=True)
    others = [f.number for f in found if f.label != "colour: red"]
    assert others
    for number in range(len(index)):
        pictures = index.pictures(number)
        share = np.mean(["red" in p.prompt.split() for p in pictures]) if pictures else 0
        assert (number in others) == (share >= 0.5 and index.feature(number).label != "colour: red")
    assert index.search("eart") == []  # words are found from their beginning
    assert all((f.score or 0) >= 0.5 for f in index.search("", least_score=0.5))
    assert len(index.search("")) == 40
    assert index.search("(") == []


def test_drawings(invented: Path) -> None:
    index = FeatureIndex(invented)
    one = np.asarray(draw_feature(index, 5))
    tile = one[34:162, 6:134]
    assert np.abs(tile.reshape(-1, 3).astype(int) - np.asarray(index.pictures(5)[0].image())[0, 0]).max() < 8
    beside = one[34:162, 137:265].astype(int)
    hot = np.kron(index.pictures(5)[0].heat > 0.5 * index.feature(5).maximum, np.ones((8, 8), bool))
    assert hot.any()
    assert (beside[hot][:, 0] > beside[hot][:, 1] + 30).all()
    assert np.abs(beside[~hot][:, 1] - beside[~hot][:, 2]).max() < 30
    assert draw_feature(index, 0).height < 50  # never active: the facts alone
    several = draw_features(index, list(index)[:4], "invented")
    assert several.height > draw_features(index, list(index)[:2], "invented").height


TORCHLESS = """
import contextlib, sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch" or name.startswith("torch."):
            raise ImportError("torch is blocked")
sys.meta_path.insert(0, NoTorch())
from riebench.features import FeatureIndex
index = FeatureIndex(sys.argv[1])
print(index.feature(7).density, index.search("red")[0].number, index.pictures(7)[0].image().size)
from riebench.cli import main
with contextlib.suppress(SystemExit):
    main(["sae", "show", sys.argv[1], "7", "--out", sys.argv[2]])
main(["sae", "show", sys.argv[1], "--out", sys.argv[2]])
"""


def run_python(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False, env=environment
    )


def test_readable_and_shown_without_torch(invented: Path, tmp_path: Path) -> None:
    done = run_python(TORCHLESS, str(invented), str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "(64, 64)" in done.stdout
    assert "feature 7: colour: blue" in done.stdout
    assert "40 features, 20 listed" in done.stdout
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"invented.html", "invented.png", "invented-7.png"}


def test_show_makes_a_missing_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(WEIGHTS / "sae" / "mid.0", tmp_path / "mine" / "mid.0")
    config = tmp_path / "mine" / "mid.0" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model": "mini"}))
    words = ["sae", "show", "mine/mid.0", "--count", "12", "--limit", "3"]
    for _ in range(2):
        with pytest.raises(SystemExit) as left:
            main(words)
        assert left.value.code == 0
    said = capsys.readouterr()
    assert said.err.count("12/12") == 1  # the second time it is there
    assert said.out.count("384 features, 3 listed") == 2
    for other, wrong in ((("--count", "13"), "--count 12"), (("--prompts", "mine.txt"), "--prompts grammar")):
        with pytest.raises(SystemExit) as left:
            main(["sae", "show", "mine/mid.0", *other])
        assert left.value.code == 2
        assert f"was made with {wrong}; leave out {other[0]}" in capsys.readouterr().err
    made = list((tmp_path / "cache" / "riebench" / "feature-index").iterdir())
    assert len(made) == 1
    assert FeatureIndex(made[0]).facts.pictures_made == 12
    assert (tmp_path / "features" / "mid.0.html").is_file()


def test_the_package_has_the_indexes_of_minis_saes(
    mini: Instruments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this fails after a training of mini, scripts/make_mini_index.py makes them again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*")) < 6e6
    for site, folder in mini.model.entry.saes(Settings()).items():
        sae = locate_sae(str(folder), mini.model.entry, Settings())
        assert find_index(sae, shipped=False) is None
        index = whole_index(find_index(sae) or tmp_path)
        assert index is not None
        facts = index.facts
        assert (facts.sae, facts.site, facts.model) == (sae.fingerprint, site, "mini")
        assert facts.model_fingerprint == mini.model.fingerprint
        assert (facts.prompts, facts.pictures_made) == ("grammar", 1000)
        shutil.copytree(index.folder, index_in_cache(sae))  # one of the user's own goes first
        assert find_index(sae) == index_in_cache(sae)
    prompt, seed = facts.prompted[number := min(facts.prompted)]
    [run] = mini.model.generate([prompt], [seed], facts.steps)
    with Image.open(index.file(number)) as picture:
        assert np.abs(np.asarray(picture, float) - run.image).mean() < 8  # it is of this model, but for WebP's losses


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_whole_index_is_left_and_a_damaged_one_is_made_again(
    index: FeatureIndex, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, request = tmp_path / "index", IndexRequest(SITE, "mini", Settings(), count=COUNT)
    shutil.copytree(index.folder, out)
    before = contents(out)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.webp")}
    carry_out_index(request, out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.webp")} == times
    (out / HEAT).write_bytes(before[HEAT][:-100])
    (out / PICTURES / "99999.webp").write_bytes(b"old")
    carry_out_index(request, out)
    assert "is damaged and is made again" in caplog.text
    assert contents(out) == before
    (out / FACTS).write_text("{")
    carry_out_index(request, out)
    assert contents(out) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"count": COUNT - 1}, "--count: 30, not 29"),
        ({"steps": 2}, "steps: 1, not 2"),
        ({"sae": "mid.0"}, "SAE"),
        ({"site": "up.0.1"}, "site: up.0.0, not up.0.1"),
    ],
)
def test_the_folder_of_another_index_is_refused(
    index: FeatureIndex, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    out = tmp_path / "index"
    shutil.copytree(index.folder, out)
    before = contents(out)
    request = replace(IndexRequest(SITE, "mini", Settings(), count=COUNT), **change)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=f"holds an index of other {re.escape(said)}"):
        carry_out_index(request, out)
    facts = json.loads((out / FACTS).read_text())
    (out / FACTS).write_text(json.dumps(facts | {"schema_version": 2}))
    with pytest.raises(UserError, match="schema_version 2"):
        carry_out_index(IndexRequest(SITE, "mini", Settings(), count=COUNT), out)
    (out / FACTS).write_bytes(before[FACTS])
    assert contents(out) == before
    with only_writer(out), pytest.raises(UserError, match=f"process {os.getpid()} .* is writing to"):
        carry_out_index(IndexRequest(SITE, "mini", Settings(), count=COUNT), out)


def test_ctrl_c_loses_nothing(index: FeatureIndex, mini: Instruments, tmp_path: Path) -> None:
    """Stopped after 11 of 30 pictures, in the middle of a batch, and gone on with."""
    prompted = read_prompts("grammar", COUNT, "held-out")
    made: list[int] = []

    def stopping(numbers: Iterable[int]) -> Iterator[int]:
        for number in numbers:
            if number == 11:
                os.kill(os.getpid(), signal.SIGINT)
            made.append(number)
            yield number

    def make(track: Any) -> FeatureIndex:
        return make_index(
            mini.model,
            SITE,
            mini.model.sae(SITE),
            prompted,
            tmp_path / "i",
            name=SITE,
            fingerprint=index.facts.sae,
            prompts="grammar",
            world=world_of(mini.model.entry),
            track=track,
        )

    with pytest.raises(KeyboardInterrupt):
        make(stopping)
    first = len(made)
    assert 0 < first < COUNT
    assert not (tmp_path / "i" / FACTS).exists()
    check_index_folder(tmp_path / "i")
    whole = make(lambda numbers: (made.append(n) or n for n in numbers))
    assert made[first:] == list(range(made[first], COUNT))
    assert made[first] >= 11
    assert whole.facts.columns == index.facts.columns
    assert contents(tmp_path / "i") == contents(index.folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda facts: facts.update(schema_version=2), "schema_version"),
        (lambda facts: facts.update(extra=1), "extra"),
        (lambda facts: facts["columns"]["density"].pop(), "one for each feature"),
        (lambda facts: facts["columns"]["highest"][3].pop(), "as many values as pictures"),
        (lambda facts: facts["columns"]["nearest"][3].__setitem__(0, 40), "a nearest feature that does not exist"),
        (lambda facts: facts["columns"]["pictures"][3].__setitem__(0, 60), "a picture that is not stored"),
        (lambda facts: facts["columns"]["density"].__setitem__(0, "many"), "columns.density.0"),
    ],
)
def test_damaged_facts(invented: Path, tmp_path: Path, change: object, said: str) -> None:
    shutil.copytree(invented, tmp_path / "index")
    facts = json.loads((tmp_path / "index" / FACTS).read_text())
    change(facts)  # type: ignore[operator]
    (tmp_path / "index" / FACTS).write_text(json.dumps(facts))
    with pytest.raises(UserError, match="cannot be read") as raised:
        FeatureIndex(tmp_path / "index")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_damaged_files(invented: Path, tmp_path: Path) -> None:
    shutil.copytree(invented, tmp_path / "index")
    (tmp_path / "index" / HEAT).write_bytes(b"PK no zip")
    with pytest.raises(UserError, match=r"heat\.npz cannot be read"):
        FeatureIndex(tmp_path / "index").pictures(3)
    np.savez(tmp_path / "index" / HEAT, heat=np.zeros((2, 3), np.uint8))
    with pytest.raises(UserError, match=r"do not fit: they are uint8 \[2, 3\], expected uint8 \[40, 9, 16, 16\]"):
        FeatureIndex(tmp_path / "index").pictures(3)
    shutil.copy(invented / HEAT, tmp_path / "index" / HEAT)
    index = FeatureIndex(tmp_path / "index")
    picture = index.pictures(3)[0]
    picture.file.write_bytes(b"no picture")
    with pytest.raises(UserError, match="cannot be read"):
        picture.image()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("show", "invented", "40"), "there is no feature 40; invented has the features 0 to 39"),
        (("show", "invented", "--", "-1"), "there is no feature -1; invented has the features 0 to 39"),
        (("show", "mid.0", "384"), "there is no feature 384; mid.0 has the features 0 to 383"),
        (("show", "mid.1"), "did you mean 'mid.0'?"),
        (("show", "no/where"), "no folder of that name"),
        (("show", "no/where", "--model", "sdxl-turbo"), "there is no SAE folder 'no/where'"),
        (("show", "empty"), "empty holds neither an SAE nor a feature index"),
        (("show", "invented", "blue"), "FEATURE is 'blue'; expected a number, or --find 'blue' for words"),
        (("show", "sae/changed"), "has no feature index; name the model that makes one with --model"),
        (("show", "sae/mid.0", "--index", "empty"), "empty is no feature index: it has no feature-index.json"),
        (("show", "sae/mid.0", "--index", "invented"), "invented is the index of another SAE (fingerprint 0000000000"),
        (("show", "sae/up.0.0", "3"), "sae/up.0.0-index is the index of another SAE"),
        (("show", "mid.0", "--index", "invented"), "invented is the index of another SAE"),
        (("show", "invented", "--index", "invented"), "leave out --index"),
        (("show", "invented", "--out", "file"), "the folder file cannot be written (it is a file)"),
        (("show", "invented", "--sort", "size"), "--sort"),
        (("index", "mid.1", "--out", "new"), "did you mean 'mid.0'?"),
        (("index", "mid.0"), "--out"),
        (("index", "mid.0", "--out", "sae"), "sae holds something else than a feature index"),
        (("index", "mid.0", "--out", "file"), "file holds something else than a feature index"),
        (("index", "mid.0", "--out", "file/below"), "the folder file/below cannot be written"),
        (("index", "mid.0", "--out", "new", "--model", "minni"), "unknown model 'minni'; did you mean 'mini'?"),
        (("index", "mid.0", "--out", "new", "--prompts", "no.txt"), "the prompt file no.txt cannot be read"),
        (("index", "mid.0", "--out", "new", "--steps", "2000"), "steps is 2000; expected 1 to 1000"),
        (("index", "sae/mid.0", "--out", "new", "--site", "mid.1"), "unknown site 'mid.1'; did you mean 'mid.0'?"),
        (("index", "sae/renamed", "--out", "new"), "give it with --site"),
        (("index", "sae/mid.0", "--out", "new", "--model", "sdxl-turbo"), "is 96 wide, the values at mid.0 of"),
    ],
)
def test_one_line_without_torch(
    fresh: FreshCommands, invented: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "invented").symlink_to(invented)
    for name in ("mid.0", "up.0.0"):
        shutil.copytree(WEIGHTS / "sae" / name, tmp_path / "sae" / name)
    for name in ("renamed", "changed"):
        shutil.copytree(WEIGHTS / "sae" / "mid.0", tmp_path / "sae" / name)
    with (tmp_path / "sae" / "changed" / "config.json").open("a") as config:
        config.write(" ")  # an SAE that the index of the package is not of
    (tmp_path / "sae" / "up.0.0-index").symlink_to(invented)
    done = fresh("sae", *words)
    assert done.code == 2, done.out + done.err
    assert done.err.startswith("riebench: ")
    assert done.err.count("\n") == 1, done.err
    assert said in done.err
    assert not done.slow
