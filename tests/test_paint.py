"""Painting: states and their limits, pictures from states, links, copied Python, and what the studio says."""

from __future__ import annotations

import json
import runpy
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import riebench
import riebench.features.index_making
from riebench.cli import main
from riebench.models import entry_named
from riebench.paint import BrushMask, Layer, State, StepInterval, picture, read_state
from riebench.paint.paint_request import PaintRequest
from riebench.paint.painting import changes_of, grid_cells, why_unchanged
from riebench.paint.queue import Dropped
from riebench.paint.shelf import find_in
from riebench.paint.snippet import Origin, python_code
from riebench.paint.state import checked, fragment_of, state_of
from riebench.paint.studio import STRENGTHS, TOO_WEAK, Studio
from riebench.sae.store import save_sae
from riebench.settings.settings import Settings
from riebench.standin.saes import random_sae
from riebench.util.errors import PairError, UserError

HOSTILE = "a red heart \"\"\"'''\\ \n</script><img src=x onerror=alert(1)>{0}"
HEART = np.zeros((8, 8), bool)
HEART[1:6, 1:5] = True


def layer(**changed: Any) -> Layer:
    """Feature 240 over the heart, which turns it violet."""
    given = {"site": "up.0.0", "feature": 240, "unit": 100.0, "strength": 4.0, "mask": BrushMask.of(HEART), **changed}
    return Layer(**given)


def state(*layers: Layer, **changed: Any) -> State:
    return State(**{"prompt": "a red heart in a meadow", "seed": 3, "layers": list(layers), **changed})


# ---- states --------------------------------------------------------------------------------------------------------


def test_runs_are_the_mask(rng: np.random.Generator) -> None:
    for cells in (HEART, ~HEART, np.zeros((8, 8), bool), np.ones((3, 5), bool), rng.random((128, 128)) < 0.5):
        mask = BrushMask.of(cells)
        assert np.array_equal(mask.cells(), cells)
        assert mask == BrushMask.model_validate_json(mask.model_dump_json())
    assert BrushMask.of(HEART).runs[:3] == [9, 4, 4]
    assert BrushMask.of(np.ones((3, 5), bool)).runs == [0, 15]


GOOD = state(layer(), layer(steps=StepInterval(first=0, last=0))).model_dump()


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("seed",), 2**53, "less than or equal to"),
        (("seed",), -1, "greater than or equal to 0"),
        (("seed",), "x", "(seed)"),
        (("seed",), True, "(seed)"),
        (("layers", 0, "strength"), "4", "(layers.0.strength)"),
        (("layers", 0, "on"), "no", "(layers.0.on)"),
        (("layers", 0, "sae"), 5, "(layers.0.sae)"),
        (("conditions",), {"size": None}, "(conditions.size"),
        (("steps",), 0, "(steps)"),
        (("steps",), 1001, "(steps)"),
        (("version",), 3, "(version)"),
        (("prompt",), "x" * 2001, "(prompt)"),
        (("prompt",), None, "(prompt)"),
        (("colour",), 1, "(colour): Extra inputs are not permitted"),
        (("layers",), [GOOD["layers"][0]] * 10_000, "at most 32"),
        (("layers", 0, "strength"), float("inf"), "(layers.0.strength)"),
        (("layers", 0, "strength"), float("nan"), "(layers.0.strength)"),
        (("layers", 0, "strength"), 1e3, "(layers.0.strength)"),
        (("layers", 0, "unit"), -1, "(layers.0.unit)"),
        (("layers", 0, "feature"), 10**9, "(layers.0.feature)"),
        (("layers", 0, "feature"), -1, "(layers.0.feature)"),
        (("layers", 0, "site"), "", "(layers.0.site)"),
        (("layers", 0, "mask", "rows"), 9, "its runs cover 64 cells, expected 9 x 8"),
        (("layers", 0, "mask", "rows"), 10**9, "(layers.0.mask.rows)"),
        (("layers", 0, "mask", "runs"), [-1, 65], "(layers.0.mask.runs.0)"),
        (("layers", 0, "mask", "runs"), [0] * 20_000, "at most 16384"),
        (("layers", 1, "steps"), {"first": 1, "last": 0}, "before its first step"),
    ],
)
def test_limits(path: tuple[Any, ...], value: Any, said: str) -> None:
    broken = json.loads(json.dumps(GOOD))
    at = broken
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = value
    with pytest.raises(UserError) as error:
        checked(State, json.dumps(broken))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"prompt": "\xed\xa0\x80"}'])
def test_no_state(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_bytes(text)
    with pytest.raises(UserError, match="state"):
        read_state(tmp_path / "state.json")


def test_a_byte_order_mark_is_no_part_of_a_state(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(state(layer()).model_dump_json(), encoding="utf-8-sig")
    assert read_state(tmp_path / "state.json") == state(layer())


def test_links() -> None:
    for one in (state(), state(layer(), prompt=HOSTILE), state(layer(on=False, strength=-0.1))):
        fragment = fragment_of(one)
        assert state_of("#" + fragment) == one
        assert set(fragment) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=")
        assert len(fragment) < 400
    for broken in ("s=", "s=%", "s=AAAA", "s=" + fragment_of(state())[8:]):
        with pytest.raises(UserError):
            state_of(broken)


# ---- pictures ------------------------------------------------------------------------------------------------------


def test_the_change_is_strength_times_unit_times_the_decoder_column(studio: Studio) -> None:
    one = layer(steps=StepInterval(first=1, last=2), strength=-0.5, unit=20.0)
    changes = changes_of(studio.model, state(one, one, layer(on=False), layer(strength=0), steps=4))
    assert list(changes) == ["up.0.0"]
    expected = torch.zeros(4, 64, 96)
    column = studio.model.sae("up.0.0").decoder.weight[:, 240]
    expected[1:3, torch.from_numpy(HEART.ravel())] = 2 * -0.5 * 20.0 * column
    assert torch.allclose(changes["up.0.0"], expected, rtol=1e-6)


def test_the_heart_turns_violet_and_the_rest_stays(studio: Studio) -> None:
    base, edited = (picture(studio.model, one).astype(int) for one in (state(), state(layer())))
    heart = (base[..., 0] > 180) & (base[..., 1] < 80)
    assert (edited[..., 2] - base[..., 2])[heart].mean() > 100
    far = np.zeros((128, 128), bool)
    far[112:] = far[:, 112:] = True
    assert np.abs(edited - base).mean(2)[far].mean() < 4
    [run] = studio.model.generate(["a red heart in a meadow"], [3], 1)
    assert np.array_equal(base, run.image)
    assert np.array_equal(picture(studio.model, state(layer(on=False), layer(strength=0))), run.image)


def test_layers_in_some_steps_only(studio: Studio) -> None:
    steps = [StepInterval(first=0, last=0), StepInterval(first=1, last=1), None]
    images = [picture(studio.model, state(layer(steps=interval), steps=2)) for interval in steps]
    assert not np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_masks_finer_than_the_grid(studio: Studio) -> None:
    fine = np.zeros((128, 128), bool)
    fine[40, 40] = True
    cells = grid_cells(studio.model, "up.0.0", BrushMask.of(fine))
    assert cells[2, 2]
    assert cells.sum() < 10
    assert not grid_cells(studio.model, "up.0.0", BrushMask.of(np.zeros((16, 16), bool))).any()
    assert grid_cells(studio.model, "up.0.0", BrushMask.of(np.ones((16, 16), bool))).all()
    assert np.array_equal(grid_cells(studio.model, "up.0.0", BrushMask.of(HEART)), HEART)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (state(model="mini-flux"), "the model 'mini-flux', not 'mini'"),
        (state(layer(site="mid.1")), "layer 1: unknown SAE 'mid.1'; did you mean 'mid.0'?"),
        (state(layer(site="../../etc/passwd")), "unknown SAE"),
        (state(layer(), layer(feature=384)), "layer 2: there is no feature 384"),
        (state(layer(steps=StepInterval(first=0, last=1))), "its step interval ends at 1; expected steps from 0 to 0"),
        (state(layer(mask=BrushMask(rows=4, columns=4, runs=[16]))), "its mask is 4 x 4; expected 8 x 8"),
    ],
)
def test_states_that_are_for_another_model(studio: Studio, wrong: State, said: str) -> None:
    with pytest.raises(UserError) as error:
        picture(studio.model, wrong)
    assert said in str(error.value)


def test_faults_of_one_picture(studio: Studio) -> None:
    most = [layer(unit=1e6, strength=100.0)] * 32
    assert picture(studio.model, state(*most)).shape == (128, 128, 3)
    with pytest.raises(PairError, match="shorten it"):
        picture(studio.model, state(prompt="a red heart " * 100))


def test_sites_of_the_text_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = "double.1/text"
    width = entry_named("mini-flux").sites(Settings())[site].width
    sae = random_sae({"d_model": width, "n_dirs_local": 64, "k": 4}, torch.Generator().manual_seed(0))
    save_sae(sae, tmp_path / "saes" / "double.1-text", {"site": site})
    for folder in (tmp_path / "saes", tmp_path / "saes" / "double.1-text"):
        with pytest.raises(UserError, match=r"double\.1/text is of the text, and .*needs positions of the picture"):
            PaintRequest("mini-flux", [str(folder)])
    model = riebench.load("mini-flux", saes={site: sae})
    with pytest.raises(UserError, match=r"layer 1: double\.1/text is of the text, and painting needs positions"):
        picture(model, state(layer(site=site, sae=None, feature=1), model="mini-flux"))


# ---- copied Python, headless ---------------------------------------------------------------------------------------


def test_copied_python_gives_the_same_picture(studio: Studio, tmp_path: Path) -> None:
    fine = np.zeros((128, 128), bool)
    fine[20:50, 30:90] = True
    interval = StepInterval(first=1, last=1)
    layers = [
        layer(),
        layer(site="mid.0", feature=7, unit=3.25, strength=-1.5, mask=BrushMask.of(fine), steps=interval),
    ]
    one = state(*layers, layer(on=False), steps=2)
    studio.run(one.unpainted())  # as on the page, where the edited run starts from what the base run has computed
    (tmp_path / "copied.py").write_text(python_code(one, studio.origin))
    runpy.run_path("copied.py", run_name="__main__")
    copied = np.asarray(Image.open(tmp_path / "picture.png"))
    assert np.array_equal(copied, studio.run(one).image)
    assert not np.array_equal(copied, studio.run(one.unpainted()).image)


def test_texts_in_copied_python_are_texts() -> None:
    import ast

    origin = Origin(HOSTILE, {"dtype": HOSTILE}, {HOSTILE: Path("/a'b")})
    tree = ast.parse(python_code(state(layer(site=HOSTILE), prompt=HOSTILE), origin))
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value == HOSTILE]
    assert len(texts) == 5
    assert {
        node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    } == {*("State", "Layer", "BrushMask", "Path", "picture")}


def test_headless(studio: Studio, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = state(layer())
    (tmp_path / "state.json").write_text(one.model_dump_json())
    for number, given in enumerate(("state.json", f"http://127.0.0.1:1/#{fragment_of(one)}")):
        with pytest.raises(SystemExit) as left:
            main(["paint", "--headless", given, "--out", f"{number}.png"])
        assert left.value.code == 0
        assert capsys.readouterr().out == f"{number}.png\n"
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"{number}.png")), picture(studio.model, one))


@pytest.fixture
def other_sae(studio: Studio, tmp_path: Path) -> Path:
    """A folder with another SAE for up.0.0: mini's own with reversed values."""
    folder = tmp_path / "other" / "up.0.0"
    shutil.copytree(Path(studio.model.saes["up.0.0"]), folder)
    weights = load_file(folder / "state_dict.safetensors")
    save_file({name: value.flip(0).contiguous() for name, value in weights.items()}, folder / "state_dict.safetensors")
    return folder


def test_another_sae_is_refused_by_name(
    studio: Studio, other_sae: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = studio.facts()
    [here] = [site["sae"] for site in facts["sites"] if site["site"] == "up.0.0"]
    one = state(layer(sae=here), weights=facts["weights"], conditions=facts["conditions"])
    (tmp_path / "state.json").write_text(one.model_dump_json())
    (tmp_path / "old.json").write_text(state(layer()).model_dump_json())

    def paint(*words: str) -> tuple[int | str | None, str]:
        with pytest.raises(SystemExit) as left:
            main(["paint", "--headless", *words])
        return left.value.code, capsys.readouterr().err

    assert paint("state.json", "--out", "own.png") == (0, "")
    code, err = paint("state.json", "--sae", str(other_sae), "--out", "no.png")
    assert code == 2
    assert "layer 1" in err
    assert f"up.0.0 (fingerprint {here}" in err
    assert "--sae" in err
    assert not Path("no.png").exists()
    assert paint("old.json", "--sae", str(other_sae), "--out", "other.png") == (0, "")  # it does not say which
    own, other = (np.asarray(Image.open(name)).astype(int) for name in ("own.png", "other.png"))
    assert np.abs(own - other).mean() > 1
    assert np.array_equal(own, picture(studio.model, one))
    assert f"sae={here!r}" in python_code(one, studio.origin)
    with pytest.raises(UserError, match=f"the weights other, this model has {facts['weights']}"):
        picture(studio.model, state(weights="other"))
    with pytest.raises(UserError, match="size 512"):
        picture(studio.model, state(conditions={**facts["conditions"], "size": 512}))


def test_an_sae_that_changes_under_the_page_is_refused(
    studio: Studio, other_sae: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [here] = [site["sae"] for site in studio.facts()["sites"] if site["site"] == "up.0.0"]
    monkeypatch.setattr(studio.model, "saes", {**studio.model.saes, "up.0.0": other_sae})
    with pytest.raises(UserError, match="have changed since the start"):
        studio.active_here(state(), "", 0.3, 0.5)
    with pytest.raises(UserError, match="have changed since the start"):
        list(studio.effect("up.0.0", 240, 7))
    with pytest.raises(UserError, match=r"another SAE at up\.0\.0"):
        studio.run(state(layer(sae=here), seed=99))


def test_an_sae_that_is_an_object_is_warned_of(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sae = studio.model.sae("up.0.0")
    monkeypatch.setattr(studio.model, "saes", {"up.0.0": sae})
    picture(studio.model, state(layer(sae="abc")))
    assert "the SAE at up.0.0 is an object" in caplog.text


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ([layer(on=False)], "layer 1 changes nothing: it is off"),
        ([layer(), layer(strength=0)], "layer 2 changes nothing: its strength is 0"),
        ([layer(unit=0)], "nowhere active"),
        ([layer(mask=BrushMask(rows=8, columns=8, runs=[64]))], "nothing is painted"),
        ([layer(), layer(strength=-4.0)], "cancel each other"),
        ([layer()], None),
        ([], None),
    ],
)
def test_layers_that_change_nothing_are_told(
    studio: Studio, layers: list[Layer], reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons = why_unchanged(studio.model, state(*layers))
    assert len(reasons) == (reason is not None)
    assert reason is None or reason in reasons[0]


def test_a_feature_without_a_direction_and_a_weak_one(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    weak = state(layer(strength=1e-6))
    *_, scores = studio.scores(weak)
    assert scores["unchanged"] == [TOO_WEAK]
    *_, scores = studio.scores(state(layer()))
    assert "unchanged" not in scores
    changed = deepcopy(studio.model.sae("up.0.0"))
    with torch.no_grad():
        changed.decoder.weight[:, 240] = 0
    monkeypatch.setattr(studio.model, "sae", lambda site: changed)
    assert "decoder column is 0" in why_unchanged(studio.model, state(layer()))[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--headless", "no.json"), "the state no.json cannot be read: No such file or directory"),
        (("--headless", "x#s=%"), "the address holds no state"),
        (("--headless", "state.json", "--out", "a.jpg"), "expected a PNG file"),
        (("--headless", "state.json", "--open", "state.json"), "give either"),
        (("--open", "state.json", "--model", "minni"), "unknown model 'minni'; did you mean 'mini'?"),
        (("--sae", "nowhere"), "unknown SAE 'nowhere' (no folder of that name, and no site of the model that has one)"),
        (("--sae", "mid.0", "--sae", "mid.0"), "are both of mid.0"),
        (("--sae", "mid.0", "--model", "mini", "--model", "mini"), "--sae is for one --model"),
        (("--model", "mini", "--model", "mini"), "two of --model are the same model"),
        (("--model", "sdxl-turbo"), "sdxl-turbo has no SAE"),
        (("--descriptions", "state.json"), 'expected JSON as {"mid.0"'),
        (("--port", "70000"), "--port"),
        (("--set", "model.guidance=3"), "the setting model.guidance is not for mini"),
        (("--prompts", "no.txt"), "no.txt cannot be read"),
        (
            ("--prompts", "foreign.txt"),
            "the word 'qwertz' in the prompt 'a red qwertz'",
        ),
        (("--host", "999.1.1.1"), "--host"),
    ],
)
def test_bad_input_is_one_line(
    words: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    (tmp_path / "state.json").write_text(state().model_dump_json())
    (tmp_path / "foreign.txt").write_text("a red qwertz\n")
    with pytest.raises(SystemExit) as left:
        main(["paint", *words])
    err = capsys.readouterr().err
    assert left.value.code == 2, err
    assert said in err
    assert err.count("\n") == 1


# ---- the studio ----------------------------------------------------------------------------------------------------


def test_indexes_are_made_once_and_kept(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(studio.shelves) == ["down.2.1", "mid.0", "up.0.0", "up.0.1"]
    assert [shelf.index.facts.pictures_made for shelf in studio.shelves.values()] == [24] * 4

    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(riebench.features.index_making, "make_indexes", fail)
    again = PaintRequest("mini", saes=["mid.0"])
    assert again.sites_without_index() == []
    assert list(again.saes) == ["mid.0"]
    assert again.origin().saes == {"mid.0": Path(riebench.__file__).parent / "mini" / "weights" / "sae" / "mid.0"}


def test_copied_python_loads_the_model_in_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(riebench.__file__).parent / "mini" / "weights")
    request = PaintRequest(
        "mini", settings={"device": "cpu", "sae.folder": "sae", "model.replay": "false", "weights": None}
    )
    folder = str(Path("sae").resolve())
    loaded = {"model__device": "cpu", "model__replay": False, "sae__folder": folder}
    assert request.origin() == Origin("mini", loaded, {})


def test_features_of_a_site(studio: Studio) -> None:
    shelf = studio.shelf("up.0.0")
    assert [f.number for f in shelf.find("", "number")] == list(range(384))
    assert [f.number for f in shelf.find("240", "score")] == [240]
    densities = [f.density for f in shelf.find("", "density")]
    assert densities == sorted(densities, reverse=True)
    assert 240 in [f.number for f in shelf.find("violet paint", "score")]
    best = shelf.find("", "score")[0]
    assert best.label is not None
    found = shelf.find(best.label.split(": ")[1], "score")
    assert found[0] == best
    assert len(found) < 384
    row = shelf.row(shelf.index.feature(240))
    assert row["description"] == "violet <b>paint</b>"


def test_features_of_all_sites(studio: Studio) -> None:
    shelves = list(studio.shelves.values())
    best = find_in(shelves, "", "score")
    assert len(best) == sum(len(shelf.index) for shelf in shelves)
    scores = [feature.score or 0 for _, feature in best]
    assert scores == sorted(scores, reverse=True)
    assert {shelf.site for shelf, _ in best[:100]} > {best[0][0].site}
    assert [shelf.site for shelf, _ in find_in(shelves, "240", "number")] == list(studio.shelves)
    found = studio.active_here(state(layer()), "", 0.3, 0.5)["features"]
    assert [one["number"] for one in found[:1]] == [240]
    assert len({one["site"] for one in found}) > 1
    multiples = [one["code"] / one["mean"] for one in found if one["mean"]]
    assert multiples == sorted(multiples, reverse=True)


def test_a_card(studio: Studio) -> None:
    shelf = studio.shelf("up.0.0")
    number = shelf.find("", "density")[0].number
    card = shelf.card(number)
    assert len(card["tops"]) == 9
    assert len(card["tops"][0]["heat"]) == 64
    assert max(card["tops"][0]["heat"]) == 255
    assert sum(card["histogram"]) == sum(cell > 0 for top in card["tops"] for cell in top["heat"])
    assert len(card["nearest"]) == 8
    assert shelf.top_picture(card["tops"][0]["picture"])[:4] == b"RIFF"
    with pytest.raises(UserError, match="stores no picture"):
        shelf.top_picture(10**9)
    with pytest.raises(UserError, match="there is no feature 384"):
        shelf.card(384)


def test_active_here(studio: Studio) -> None:
    found = studio.active_here(state(), "up.0.0", 0.3, 0.5)
    assert all(feature["grid"] == (8, 8) for feature in found["features"])
    [run] = studio.model.generate(["a red heart in a meadow"], [3], 1, capture=["up.0.0"])
    codes = studio.model.sae("up.0.0").encode(run.values["up.0.0"])[0].numpy()
    here = codes[4 * 8 + 2]
    assert [f["number"] for f in found["features"]] == [n for n in np.argsort(-here)[:12] if here[n] > 0]
    first = found["features"][0]
    assert first["code"] == pytest.approx(here.max())
    column = codes[:, first["number"]]
    full = max(column.max(), studio.shelf("up.0.0").index.feature(first["number"]).maximum)
    assert np.abs(np.array(first["heat"]) - 255 * column / full).max() <= 0.51
    painted = studio.active_here(state(layer()), "up.0.0", 0.3, 0.5)
    assert painted["features"][0]["number"] == 240


def test_a_features_effect_alone(studio: Studio) -> None:
    assert studio.neutral == "a red square"
    *between, strip = studio.effect("up.0.0", studio.shelf("up.0.0").find("", "density")[0].number, 3)
    assert between == [None] * len(STRENGTHS)
    assert strip is not None
    (studio_png := Path("strip.png")).write_bytes(strip)
    tiles = np.asarray(Image.open(studio_png)).reshape(128, len(STRENGTHS), 128, 3)
    [run] = studio.model.generate(["a red square"], [3], 1)
    assert np.array_equal(tiles[:, STRENGTHS.index(0)], run.image)
    assert not np.array_equal(tiles[:, -1], run.image)
    silent = next(f.number for f in studio.shelf("up.0.0").index if f.mean is None)
    with pytest.raises(UserError, match="never active"):
        list(studio.effect("up.0.0", silent, 3))


def test_a_phrase_as_a_mask(studio: Studio) -> None:
    for shape in ((8, 8), (128, 128), (16, 16)):
        cells = studio.region(state(layer()), "up.0.0", "the heart", shape).cells()
        assert cells.shape == shape
        assert 0.05 < cells.mean() < 0.6
    with pytest.raises(PairError, match="finds no 'star'"):
        studio.region(state(), "up.0.0", "star", (8, 8))


def test_scores_come_one_after_the_other(studio: Studio) -> None:
    *_, last = studio.scores(state(layer()))
    assert set(last) == {"missing", "clip", "lpips", "reader"}
    assert last["lpips"]["value"] > 0.01
    assert last["reader"]["base"]["colour"] == "red"
    assert last["reader"]["edited"]["colour"] in {"purple", "blue"}
    assert last["clip"]["base"] > last["clip"]["edited"]
    *_, same = studio.scores(state())
    assert same["lpips"]["value"] == 0
    *_, other = studio.scores(state(prompt="a red dog"))
    assert "'dog'" in other["reader"]["reason"]


def test_a_generation_that_nobody_waits_for_ends_at_the_next_step(studio: Studio) -> None:
    done = []

    def at_step() -> None:
        done.append(len(done))
        if len(done) == 2:
            raise Dropped

    one = state(layer(), steps=4, seed=8)
    with pytest.raises(Dropped), studio.watched(at_step):
        studio.run(one)
    assert done == [0, 1]
    fresh = picture(studio.model, one)
    assert done == [0, 1]
    assert np.array_equal(studio.run(one).image, fresh)
    assert not any(module._forward_hooks for module in studio.model.modules.values())
