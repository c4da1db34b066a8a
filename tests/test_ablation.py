"""``riebench ablate``: updates are zeroed, what changes is seen, folders are resumed and refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import riebench
from riebench.ablation.ablation_folder import Ablation, Zeroing, read_zeroings
from riebench.ablation.ablation_request import block_sets
from riebench.ablation.effects import attributes_in, beyond_sum, effects, measured
from riebench.cli import main
from riebench.features.switching import zeroed
from riebench.instruments.loading import Instruments
from riebench.mini.grammar import Scene, parse
from riebench.mini.layout import layout_of_seed
from riebench.mini.render import draw
from riebench.models import Edit, Run
from riebench.models.sdxl import FOUR, SDXL
from riebench.models.sites import block_sites
from riebench.standin.write import write_standin
from riebench.util.errors import PairError, UserError

KNOWN = ("down.1.0", "down.1.1", "down.2.0", "down.2.1", "mid.0", "up.0.0", "up.0.1", "up.0.2", "up.1.0", "up.1.1")
PROMPT = "a red heart in a meadow"


@pytest.fixture
def given(mini: Instruments) -> dict[str, Any]:
    """Mini and its scorers, so that nothing is loaded."""
    return {"model": mini.model, "scorers": mini.scorers, "quiet": True}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def picture(scene: Scene, seed: int) -> np.ndarray:
    return (draw(scene, layout_of_seed(seed)).image * 255).round().astype(np.uint8)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_zeroed_update_is_zero_and_the_block_hands_its_input_on(
    mini: Instruments, model: SDXL, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """One row of a batch for each block."""
    for one in (mini.model, model):
        monkeypatch.setattr(one, "batch", len(one.sites))
        blocks = block_sites(one.sites)
        count = len(blocks)
        generate = partial(one.generate, ["a red heart" if one is mini.model else "ab"] * count, [4] * count, steps)
        base = generate(capture=blocks)
        zeroings = generate(edits=[Edit({block: zeroed}) for block in blocks], capture=blocks)
        hooks = [one.modules[block].register_forward_hook(partial(hand_on, row)) for row, block in enumerate(blocks)]
        exact = generate()
        for hook in hooks:
            hook.remove()
        for row, block in enumerate(blocks):
            assert base[row].values[block].norm() > 0
            assert zeroings[row].values[block].norm() < 1e-6 * base[row].values[block].norm()
            # Floats round, so that a pixel may be one of 255 levels off.
            assert np.abs(zeroings[row].image.astype(int) - exact[row].image).max() <= 1


def hand_on(row: int, module: Any, args: tuple[Any, ...], output: Any) -> Any:
    """Puts the input of a block in the place of its output, for one row of the batch."""
    picture = output[0].clone()
    picture[row] = args[0][row]
    return picture, *output[1:]


def test_sets_of_blocks() -> None:
    sets = partial(block_sets, known=KNOWN, default=FOUR)
    assert sets("all", ()) == tuple((name,) for name in KNOWN)
    assert sets("default", ()) == tuple((name,) for name in FOUR)
    assert sets("up.0.0, mid.0,mid.0", ()) == (("mid.0",), ("up.0.0",))
    assert sets(["up.0.0+mid.0", "default"], ()) == (*((name,) for name in FOUR), ("mid.0", "up.0.0"))
    pairs = sets("mid.0", "default")
    assert len(pairs) == 1 + 6
    assert pairs[:3] == (("mid.0",), ("down.2.1", "mid.0"), ("down.2.1", "up.0.0"))
    assert sets("mid.0,up.0.0", "up.0.0,mid.0")[-1] == ("mid.0", "up.0.0")
    for blocks, together, said in (
        ("mid.1", (), "unknown block 'mid.1'; did you mean 'mid.0'"),
        ("mid.0+up.0.3", (), "unknown block 'up.0.3'; did you mean 'up.0."),
        ("", (), "no block was named"),
        ("all", "mid.0", "together names mid.0 alone; expected two blocks or more"),
    ):
        with pytest.raises(UserError, match=said.replace("+", r"\+")):
            sets(blocks, together)


def test_attributes_that_change_are_those_that_were_changed(
    mini: Instruments, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model draws a blue heart without mid.0, and nothing but a sketch without up.0.0."""
    scene = parse(PROMPT)
    shown = {"mid.0": scene.changed(colour="blue"), "up.0.0": scene.changed(style="sketch"), "up.0.1": scene}

    def generate(prompts: list[str], seeds: list[int], steps: int, edits: list[Edit]) -> list[Run]:
        assert prompts == [PROMPT] * 4
        scenes = [shown.get("+".join(edit.changes), scene) for edit in edits]
        return [Run(picture(drawn, seed), {}) for drawn, seed in zip(scenes, seeds, strict=True)]

    monkeypatch.setattr(mini.model, "generate", generate)
    Path("p.txt").write_text(f"{PROMPT}\n{PROMPT}\n")
    done = riebench.ablate(blocks="mid.0,up.0.0,up.0.1", prompts="p.txt", out="o", **given)
    assert done.table is not None
    table = done.table.set_index("blocks")
    attributes = attributes_in(done.table)
    assert set(attributes) == set(scene.values())
    moved = {block: {name for name in attributes if table.loc[block, f"changed_{name}"] == 1} for block in shown}
    assert moved == {"mid.0": {"colour"}, "up.0.0": {"colour", "background", "style"}, "up.0.1": set()}
    assert table["kept"].tolist() == [7 / 8, 5 / 8, 1.0]
    assert (table["lpips"] > 0).tolist() == [True, True, False]
    assert (table["clip_change"] < 0).tolist() == [True, True, False]
    text = Path("o/table.md").read_text()
    assert "| mid.0 | 0.00 | 1.00 |" in text
    assert "over fewer than 20 prompts the intervals are too narrow" in text
    assert Path("o/attributes.png").stat().st_size > 10_000


def zeroing(seed: int, blocks: str, lpips: float | None, clip: float = 0.5, **shown: str) -> Zeroing:
    read: dict[str, Any] = {"untouched": {"shape": "star", "colour": "red"}, "zeroed": shown} if shown else {}
    if lpips is None:
        return Zeroing(prompt="p", seed=seed, blocks=tuple(blocks.split("+")), status="failed", reason="r")
    return Zeroing(
        prompt="p", seed=seed, blocks=tuple(blocks.split("+")), lpips=lpips, clip=clip, clip_untouched=0.75, **read
    )


def test_effects_by_hand() -> None:
    sets = (("a",), ("b",), ("c",), ("a", "b"), ("a", "d"))
    asked = Ablation(
        model="m", parts={}, metric_names={}, conditions={}, steps=1, sets=sets, location="l", prompts=2,
        prompts_sha256="", truth=True,
    )  # fmt: skip
    same = {"shape": "star", "colour": "red"}
    found = effects(
        asked,
        [
            zeroing(1, "a", 0.1, **same),
            zeroing(1, "b", 0.2, **same | {"colour": "blue"}),
            zeroing(1, "c", 0.0, 0.75, **same),
            zeroing(1, "a+b", 0.5, 0.25, shape="drop"),
            zeroing(1, "a+d", 0.5, **same),
            zeroing(2, "a", 0.3, **same),
            zeroing(2, "b", 0.2, **same),
            zeroing(2, "c", None),
            zeroing(2, "a+b", 0.4, 0.25, **same),
            zeroing(2, "a+d", 0.5, **same),
        ],
    ).set_index("blocks")
    assert found["prompts"].tolist() == [2, 2, 1, 2, 2]
    assert found["lpips"].tolist() == pytest.approx([0.2, 0.2, 0.0, 0.45, 0.5])
    assert found.loc["a", ["lpips_low", "lpips_high"]].tolist() == pytest.approx([0.1, 0.3])
    assert np.isnan(found.loc["b", "lpips_low"])  # the same for both prompts: no interval
    assert found["clip_change"].tolist() == pytest.approx([-0.25, -0.25, 0.0, -0.5, -0.25])
    assert found.loc["a+b", "beyond_sum"] == pytest.approx(((0.5 - 0.3) + (0.4 - 0.5)) / 2)
    assert found["beyond_sum"].drop("a+b").isna().all()  # of single blocks, and d was not zeroed alone
    assert found["changed_colour"].tolist() == [0.0, 0.5, 0.0, 0.5, 0.0]  # the drop shows no colour any more
    assert found["changed_shape"].tolist() == [0.0, 0.0, 0.0, 0.5, 0.0]
    assert found["kept"].tolist() == [1.0, 0.75, 1.0, 0.5, 1.0]
    assert found["changed_shape_prompts"].tolist() == [2, 2, 1, 2, 2]


def test_redundant_blocks_do_more_together_and_the_same_damage_less() -> None:
    lpips = np.array([[0.1, 0.1, 0.9, 0.1]])
    redundant, same = beyond_sum(lpips, (("a",), ("b",), ("a", "b"), ("b", "a")))[0, 2:]
    assert (redundant, same) == pytest.approx((0.7, -0.1))
    assert measured(zeroing(1, "a", None))["lpips"] != 0  # undefined is not 0


def test_the_records_are_what_the_model_and_the_scorers_say(mini: Instruments, given: dict[str, Any]) -> None:
    done = riebench.ablate(blocks="up.1.2,mid.0+down.2.1", prompts=2, steps=2, out="o", **given)
    assert [one.blocks for one in done.zeroings] == [("up.1.2",), ("down.2.1", "mid.0")] * 2
    one = done.zeroings[3]
    (base,) = mini.model.generate([one.prompt], [one.seed], 2)
    changes = {"down.2.1": zeroed, "mid.0": zeroed}
    (edited,) = mini.model.generate([one.prompt], [one.seed], 2, edits=[(changes, 1.0)])
    lpips, clip = mini.scorers.lpips, mini.scorers.clip
    a, b = lpips.features([base.image, edited.image])
    assert one.lpips == pytest.approx(lpips.totals([lpips.layers(a, b)])[0], abs=1e-4)
    similar = (clip.images([base.image, edited.image]) @ clip.text(one.prompt)).tolist()
    assert [one.clip_untouched, one.clip] == pytest.approx(similar, abs=1e-3)
    assert one.untouched is not None
    assert one.untouched["shape"] == parse(one.prompt).shape
    assert read_zeroings(Path("o")) == done.zeroings
    names = {"ablation.json", "records.jsonl", "table.csv", "table.md", "sheet.png"}
    figures = {f"{name}.{kind}" for name in ("effects", "attributes") for kind in ("png", "svg")}
    assert {path.name for path in Path("o").iterdir() if path.is_file()} - {".lock"} == names | figures
    assert len(list(Path("o/images").iterdir())) == 2 * 3


def test_what_is_missing_is_made_and_all_is_as_if_never_broken(given: dict[str, Any]) -> None:
    """A torn line, a prompt in flight, a lost first prompt, a file left half done; and more prompts than at first."""
    ablate = partial(riebench.ablate, blocks="mid.0,up.0.0", **given)
    ablate(prompts=3, out="whole")
    whole = contents(Path("whole"))
    lines = whole["records.jsonl"].splitlines(keepends=True)
    assert len(lines) == 6
    for number, left in enumerate((lines[0], b"".join(lines[2:5]) + lines[5][:50])):
        folder = Path(f"broken{number}")
        shutil.copytree("whole/images", folder / "images")
        (folder / "ablation.json").write_bytes(whole["ablation.json"])
        (folder / "records.jsonl").write_bytes(left)
        (folder / "records.jsonl.ab12cd34.part").write_bytes(b"torn")
        ablate(prompts=3, out=folder)
        assert contents(folder) == whole
    ablate(prompts=2, out="grown")
    ablate(prompts=3, out="grown")
    assert contents(Path("grown")) == whole


def test_what_is_there_is_not_made_again(
    mini: Instruments, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    riebench.ablate(blocks="mid.0", prompts=2, out="o", **given)
    before = contents(Path("o"))
    monkeypatch.setattr(mini.model, "generate", None)
    done = riebench.ablate(blocks="mid.0", prompts=2, out="o", **given)
    assert len(done.zeroings) == 2
    assert contents(Path("o")) == before


def test_killed_at_random_moments(
    script: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = script("kill_work_test", "ablate", "--kills", "4", "--work", str(tmp_path / "k"))
    said = capsys.readouterr().out
    assert code == 0, said
    assert "ablate: 4 kills" in said
    assert len(read_zeroings(tmp_path / "k" / "ablate-alone")) == 24


def test_a_fault_is_a_record_and_spoils_no_other(
    mini: Instruments, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = mini.model.generate
    Path("p.txt").write_text(f"a blue star\n{PROMPT}\n")

    def faulty(prompts: list[str], seeds: list[int], steps: int, edits: list[Edit]) -> list[Run]:
        if any("mid.0" in edit.changes for edit in edits) and prompts[0] == PROMPT:
            raise PairError("the picture has values that are not finite", where="model")
        if prompts[0] != PROMPT:
            raise PairError("the prompt is too long", where="text")
        return generate(prompts, seeds, steps, edits=edits)

    monkeypatch.setattr(mini.model, "generate", faulty)
    done = riebench.ablate(blocks="default", prompts="p.txt", out="o", **given)
    reasons = [one.reason for one in done.zeroings]
    finite = "the picture has values that are not finite"
    assert reasons == [*["the prompt is too long"] * 4, None, finite, None, None]
    assert [one.lpips is None for one in done.zeroings] == [reason is not None for reason in reasons]
    text = Path("o/table.md").read_text()
    assert "| mid.0 | 0/2 | – |" in text
    assert "| up.0.0 | 1/2 | 0.0" in text
    assert "- failed 4 times: the prompt is too long" in text
    Path("p.txt").write_text("a blue star\n")
    done = riebench.ablate(blocks="mid.0", prompts="p.txt", out="none", **given)
    assert [one.status for one in done.zeroings] == ["failed"]
    assert "| mid.0 | 0/1 | – | – | – |" in Path("none/table.md").read_text()


def refused(said: str, **asked: Any) -> None:
    with pytest.raises(UserError, match=said) as error:
        riebench.ablate(**asked)
    assert "\n" not in str(error.value)


def test_refusals(mini: Instruments, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch, model: SDXL) -> None:
    ablate = partial(refused, **given)
    Path("p.txt").write_text("a red heart\na red dog\n")
    riebench.ablate(blocks="mid.0", prompts=2, out="o", **given)
    ablate("o holds an ablation of other blocks: mid.0, not up.0.0; give another --out", blocks="up.0.0", out="o")
    ablate("o holds an ablation of other steps: 1, not 2", blocks="mid.0", out="o", steps=2)
    ablate(r"o holds the prompt '.*' \(seed 560001\), which is not asked for", blocks="mid.0", out="o", prompts=1)
    other = given | {"model": model, "prompts": "p.txt"}
    refused("o holds an ablation of other model: mini, not sdxl-turbo", **other, out="o")
    Path("run").mkdir()
    Path("run/records.jsonl").write_text("{}\n")
    ablate("run holds records of no ablation; give another --out", out="run")
    ablate("'dog' .* is not in the drawn world's grammar; give prompts of the drawn world", prompts="p.txt", out="n")
    ablate("loaded models and scorers cannot be handed to other processes", workers=2, out="n")
    ablate("the number of prompts is given twice, as 3 and as 4", prompts=3, count=4, out="n")
    lines = Path("o/records.jsonl").read_bytes().splitlines(keepends=True)
    Path("o/records.jsonl").write_bytes(b"{}\n" + lines[1])
    ablate("records.jsonl: line 1 is damaged", blocks="mid.0", prompts=2, out="o")
    Path("o/records.jsonl").write_bytes(b"".join(lines))
    monkeypatch.setattr(type(mini.model), "fingerprint", "other")
    ablate("o holds an ablation made with other weights; give another --out", blocks="mid.0", prompts=2, out="o")
    assert Path("o/records.jsonl").read_bytes() == b"".join(lines)


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(words))
    return int(left.value.code or 0)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("ablate", "--blocks", "mid.0,up.1.2", "--prompts", "2", "--keep-images", "0", "--out", "o") == 0
    said = capsys.readouterr()
    assert "2/2" in said.err
    assert "up.1.2" in said.out
    assert "o: attributes.png, effects.png, table.csv, table.md" in said.out
    assert len(read_zeroings(Path("o"))) == 4


def test_every_block_of_flux(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole path on random weights: 57 blocks, no attributes, CLIP and LPIPS as published but for their weights."""
    assert "model" in list(write_standin(tmp_path / "weights", "flux-schnell", "tiny", seed=1))
    Path("p.txt").write_text("a newt in a hat\n")
    words = ["--model", "flux-schnell", "--weights", "weights", "--set", "model.size=64", "--prompts", "p.txt"]
    words += ["--steps", "1", "--blocks", "all", "--together", "double.18,single.0"]
    assert command("ablate", *words, "--out", "o") == 0
    assert "single.37" in capsys.readouterr().out
    zeroings = read_zeroings(Path("o"))
    assert len(zeroings) == 19 + 38 + 1
    assert {one.status for one in zeroings} == {"ok"}
    assert all(one.lpips is not None and one.lpips > 0 for one in zeroings)
    assert "kept" not in Path("o/table.csv").read_text()
    assert not Path("o/attributes.png").exists()
    assert Path("o/sheet.png").stat().st_size > 10_000
    model = riebench.load("flux-schnell", weights="weights", size=64, device="cpu")
    for block in ("double.0", "double.18", "single.0", "single.37"):
        edits = [Edit({block: zeroed}, strength) for strength in (0.0, 1.0)]
        base, run = model.generate(["a toad"] * 2, [1] * 2, 1, edits=edits, capture=[block])
        assert run.values[block].norm() < 1e-6 * base.values[block].norm()
