"""``riebench score``: further metrics of a finished run, metrics of another program, pictures of any editor."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import riebench
from riebench.cli import main
from riebench.engine.request import requests_of
from riebench.instruments.loading import Instruments
from riebench.models.mini import PAIRS
from riebench.pairs import load_pairs, select
from riebench.records import Record, read_records, read_run
from riebench.report.groups import read_groups
from riebench.util.code_files import hash_of_files

WORDS = ("--category", "6", "--category", "8", "--limit", "2")
PAIRS_OF = select(load_pairs(PAIRS), categories=[6, 8], limit=2)
NEW = {"psnr_outside", "mse_outside"}

pytestmark = pytest.mark.usefixtures("undrawn")


def command(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, mini: Instruments) -> Path:
    """A run of four pairs, two of which have their pictures."""
    out = tmp_path_factory.mktemp("finished") / "run"
    done = riebench.run(
        ["steering", "none"],
        "mid.0",
        strength=1,
        category=[6, 8],
        limit=2,
        keep_images=1,
        out=out,
        quiet=True,
    )
    assert len(done.records) == 8
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def by_key(folder: Path) -> dict[str, Record]:
    return {record.key: record for record in read_records(folder)}


def pairs_kept(folder: Path) -> list[str]:
    return [path.name.removesuffix("-mask-base.png") for path in (folder / "images").glob("*-mask-base.png")]


def forbid_generating(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("riebench.models.model.Model.generate", lambda *a, **k: pytest.fail("something is generated"))


def test_metrics_are_added_without_generating(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = by_key(run)
    with monkeypatch.context() as patch:
        forbid_generating(patch)
        assert command("score", run, "--metrics", "mse_outside,psnr_outside") == 1
    said = capsys.readouterr()
    assert "4 records have clip_text_edit, lpips_base, psnr_outside, mse_outside" in said.out
    kept = pairs_kept(run)
    lost = [f"{r.pair_id}-{name}.png" for r in before.values() for name in ("base", r.key) if r.pair_id not in kept]
    assert all(name in said.err for name in lost)
    after = by_key(run)
    assert after.keys() == before.keys()
    with_pictures = [key for key, record in before.items() if (run / "images" / f"{record.pair_id}-{key}.png").exists()]
    assert len(with_pictures) == 4
    for key, record in after.items():
        if key not in with_pictures:
            assert record == before[key]
            continue
        assert record.metrics.keys() - before[key].metrics.keys() == NEW
        assert {n: v for n, v in record.metrics.items() if n not in NEW} == before[key].metrics

        def picture(name: str, record: Record = record) -> np.ndarray:
            return np.asarray(Image.open(run / "images" / f"{record.pair_id}-{name}.png")) / 255

        region = (picture("mask-base") > 0.5) | (picture("mask-source") > 0.5)
        edited, base = (picture(name) * ~region[..., None] for name in (key, "base"))
        assert record.metrics["mse_outside"] == pytest.approx(((edited - base) ** 2).mean())
    assert (run / "records.jsonl").read_text().count('{"key":') == len(before)
    # The run goes on: what the pictures gave is kept, and the rest is made again with the same numbers.
    words = ["run", "--method", "steering", "--method", "none", "--block", "mid.0", "--strength", "1", *WORDS]
    assert command(*words, "--out", run, "--metrics", "default,mse_outside,psnr_outside") == 0
    said = capsys.readouterr()
    assert "4 are left to make" in said.err
    assert "4 records lack mse_outside, psnr_outside: 0 get it from kept pictures, 4 are made again" in said.err
    everywhere = by_key(run)
    assert everywhere.keys() == before.keys()
    for key, record in everywhere.items():
        assert record.metrics.keys() == before[key].metrics.keys() | NEW
        for name, value in before[key].metrics.items():
            assert record.metrics[name] == pytest.approx(value, abs=1e-5)
    # And nothing is left, whichever of the metrics are asked for.
    assert command(*words, "--out", run) == 0
    assert "0 are left to make" in capsys.readouterr().err


def test_a_run_completes_records_from_their_pictures(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = pairs_kept(run)
    words = ["run", "--method", "steering", "--method", "none", "--block", "mid.0", "--strength", "1", *WORDS]
    forbid_generating(monkeypatch)
    ids = [word for pair in kept for word in ("--id", pair)]
    assert command(*words, *ids, "--out", run, "--metrics", "default,mse_outside") == 0
    assert "4 records lack mse_outside: 4 get it from kept pictures, 0 are made again" in capsys.readouterr().err
    assert sum("mse_outside" in record.metrics for record in by_key(run).values()) == 4


def test_fewer_metrics_are_completed_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--method", "steering", "--block", "mid.0", "--strength", "1", "--category", "6", "--limit", "1"]
    assert command(*words, "--out", tmp_path / "few", "--metrics", "published") == 0
    (few,) = read_records(tmp_path / "few")
    assert "edit_success" in few.metrics
    assert "lpips_base_inside" not in few.metrics
    assert command("score", tmp_path / "few", "--metrics", "default") == 0, capsys.readouterr().err
    assert command(*words, "--out", tmp_path / "all") == 0
    (now,), (whole,) = read_records(tmp_path / "few"), read_records(tmp_path / "all")
    assert now.key == few.key == whole.key
    assert now.metrics == pytest.approx(whole.metrics, abs=1e-6)
    assert requests_of(tmp_path / "few")[0].metrics is not None


def test_bad_input_is_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    Image.new("RGB", (128, 128)).save(tmp_path / "one" / f"{PAIRS_OF[0].id}.png")
    for words, said in (
        (["score"], "give the folder of a run, or --images with --name"),
        (["score", run], "nothing to add; give --metrics"),
        (["score", run, "--metrics", "psnr"], "did you mean 'psnr_outside'"),
        (["score", run, "--metrics", "structure_distance"], "says nothing of the pictures of mini; leave it out"),
        (["score", run, "--metrics", "psnr_outside", "--limit", "1"], "--limit is for --images"),
        (["score", run, "--metrics", "psnr_outside", "--keep-images", "1"], "--keep-images is for --images"),
        (["score", run, "--metrics", "psnr_outside", "--name", "x"], "--name is for --images"),
        (["score", run, "--metrics", "psnr_outside", "--set", "model.size=64"], "model.size has no effect here"),
        (["score", tmp_path / "empty", "--metrics", "psnr_outside"], "has no run.json that says what was run"),
        (["score", run, "--metric-command", "true"], "has no {folder}; put it where"),
        (["score", run, "--metric-command", "no-such-program {folder}"], "'no-such-program' cannot be started"),
        (["score", run, "--metric-command", "false {folder}"], "'false {folder}' failed with exit code 1"),
        (["score", run, "--metric-command", "true {folder}"], "no scores.csv that can be read"),
        (["score", run, "--metric-command", "'true {folder}"], "cannot be read (no closing quotation)"),
        (["score", "--images", tmp_path / "empty", "--name", "x"], "has no picture of a chosen pair; expected"),
        (["score", "--images", tmp_path / "nowhere", "--name", "x"], "nowhere is not a folder"),
        (["score", "--images", tmp_path / "one"], "give --name, as --name my-editor"),
        (["score", "--images", tmp_path / "one", "--name", "sae"], "'sae' is that of a method"),
        (["score", "--images", tmp_path / "one", "--name", "a b"], "'a b' will not do"),
    ):
        assert command(*words) == 2, words
        err = capsys.readouterr().err
        assert said in err, err
        assert "Traceback" not in err


SCORER = """
import csv, sys
from pathlib import Path
from PIL import Image, ImageStat
folder = Path(sys.argv[1])
rows = list(csv.DictReader((folder / "pictures.csv").open()))
assert sorted(p.name for p in folder.glob("*.png")) == sorted(row["file"] for row in rows)
print("what a library prints of itself")
with (folder / "scores.csv").open("w", newline="") as file:
    out = csv.writer(file)
    out.writerow(["file", "brightness", "letters", "never"])
    for row in rows:
        base = Image.open(folder / row["base"])
        picture = Image.open(folder / row["file"])
        assert base.size == picture.size == Image.open(folder / row["mask-source"]).size
        out.writerow([row["file"], ImageStat.Stat(picture.convert("L")).mean[0], len(row["prompt"]), ""])
"""


def test_metrics_of_another_program(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "scorer.py").write_text(SCORER)
    before = by_key(run)
    words = f"'{sys.executable}' '{tmp_path / 'scorer.py'}' {{folder}}"
    assert command("score", run, "--metric-command", words) == 1  # two pairs have no pictures
    assert "4 records have got brightness, letters, never" in capsys.readouterr().out
    scored = [record for record in by_key(run).values() if record.measured_by]
    assert len(scored) == 4
    for record in scored:
        picture = Image.open(run / "images" / f"{record.pair_id}-{record.key}.png").convert("L")
        assert record.metrics["brightness"] == pytest.approx(np.asarray(picture, float).mean(), abs=1e-6)
        assert record.metrics["letters"] == len(record.editing_prompt.replace("[", "").replace("]", ""))
        assert record.metrics["never"] is None
        by = f"{words} with {hash_of_files([tmp_path / 'scorer.py'])}"
        assert record.measured_by == dict.fromkeys(("brightness", "letters", "never"), by)
        assert record.metrics.keys() - before[record.key].metrics.keys() == {"brightness", "letters", "never"}
    # A metric has one scorer: another command needs another name.
    assert command("score", run, "--metric-command", words + " again") == 2
    assert "give its column another name" in capsys.readouterr().err
    assert command("report", run, "--out", tmp_path / "report", "--no-figures", "--no-page") == 0
    curves = pd.read_csv(tmp_path / "report" / "curves.csv")
    assert curves["brightness_mean"].notna().all()
    whole = curves[curves["category"] == "all"]  # a metric's own count stands beside it
    assert (whole["pairs"].unique(), whole["brightness_pairs"].unique()) == ([4], [2])
    assert (whole["lpips_base_pairs"] == 4).all()
    assert "brightness is known for 4 of 8 scored records" in (tmp_path / "report" / "leaderboard.md").read_text()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("file,lpips_base\n", "'lpips_base' of scores.csv is one of riebench's metrics"),
        ("file,My metric\n", "or no name as my_metric"),
        ("file,strength\n", "'strength' of scores.csv is one of riebench's metrics or columns of records"),
        ("file,x\nFILE,1\nFILE,2\n", "line 3: FILE is there twice"),
        ("picture,x\n", "expected file and a metric"),
        ("file\n", "expected file and a metric"),
        ("file,x\nunknown.png,1\n", "line 2: unknown.png, 1 is no row of a picture"),
        ("file,x\nFILE,much\n", "line 2: 'much' is not a number"),
        ("file,x\nFILE\n", "line 2"),
    ],
)
def test_what_a_program_leaves_is_checked(
    run: Path, tmp_path: Path, content: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = next(path.name for path in (run / "images").glob("*.png") if len(path.stem.split("-")[-1]) == 32)
    (tmp_path / "scores.csv").write_text(content.replace("FILE", file))
    before = (run / "records.jsonl").read_bytes()
    assert command("score", run, "--metric-command", f"cp '{tmp_path / 'scores.csv'}' {{folder}}") == 2
    assert said.replace("FILE", file) in capsys.readouterr().err
    assert (run / "records.jsonl").read_bytes() == before


def test_pictures_without_a_number_are_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [f"{r.pair_id}-{r.key}.png" for r in read_records(run) if r.pair_id in pairs_kept(run)]
    cells = ["1", "nan", "inf", ""]
    for content, lacking, scored in (
        ("file,mine\n", files, 0),
        ("file,mine\n" + "".join(f"{file},2\n" for file in files[:3]), files[3:], 3),
        ("file,mine\n" + "".join(map("{},{}\n".format, files, cells)), files[1:3], 2),
        ("file,mine\n" + "".join(f"{file},NaN\n" for file in files), files, 0),
    ):
        copy = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(run, copy)
        (tmp_path / "scores.csv").write_text(content)
        assert command("score", copy, "--metric-command", f"cp '{tmp_path / 'scores.csv'}' {{folder}}") == 1
        said = capsys.readouterr()
        assert f"{scored} records have got mine" in said.out
        assert f"no finite mine for {len(lacking)} pictures" in said.err
        assert [file for file in files if f"\n  {file}" in said.err.partition("no finite mine")[2]] == lacking
        records = by_key(copy).values()
        assert sum("mine" in record.metrics for record in records) == scored
        assert all(record.measured_by.keys() == {"mine"} for record in records if "mine" in record.metrics)
        if scored == 2:
            assert "mine is undefined (null) for 1 of them" in said.out


def test_a_program_that_writes_over_pictures_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.py").write_text(
        "import sys\nfrom pathlib import Path\n"
        "sorted(Path(sys.argv[1]).glob('*.png'))[0].write_bytes(b'scribble')\n"
        "Path(sys.argv[1], 'scores.csv').write_text('file,mine\\n')\n"
    )
    assert command("score", run, "--metric-command", f"'{sys.executable}' '{tmp_path / 'bad.py'}' {{folder}}") == 2
    assert "the command has changed" in capsys.readouterr().err
    assert not any("mine" in record.metrics for record in read_records(run))


@pytest.mark.parametrize("which", ["base", "mask-source", "edited"])
def test_a_picture_changed_since_the_run_is_not_measured(
    run: Path, which: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The metric of another picture stood beside the numbers of the run's, without a word."""
    pair = pairs_kept(run)[0]
    record = next(r for r in read_records(run) if r.pair_id == pair)
    name = f"{pair}-{record.key if which == 'edited' else which}.png"
    other = np.asarray(Image.open(run / "images" / name)).copy()
    other[:9] = 255 - other[:9]
    Image.fromarray(other).save(run / "images" / name)
    assert command("score", run, "--metrics", "mse_outside") == 1
    assert name in capsys.readouterr().err
    measured = {r.key for r in read_records(run) if "mse_outside" in r.metrics}
    assert record.key not in measured
    assert len(measured) == (3 if which == "edited" else 2)
    # A folder of an earlier version knows no hashes, and its pictures are taken as they are.
    (run / "images" / "hashes.jsonl").unlink()
    command("score", run, "--metrics", "mse_outside")
    assert sum("mse_outside" in r.metrics for r in read_records(run)) == 4


@pytest.fixture
def edits(finished: Path, tmp_path: Path) -> Path:
    """Three pictures of an editor, the last too small; a fourth is missing; one is of no pair."""
    folder = tmp_path / "edits"
    folder.mkdir()
    rng = np.random.default_rng(5)
    base = Image.open(finished / "images" / f"{PAIRS_OF[0].id}-base.png")
    base.save(folder / f"{PAIRS_OF[0].id}.png")
    noise = rng.integers(0, 256, (128, 128, 3)).astype(np.uint8)
    Image.fromarray(noise).save(folder / f"{PAIRS_OF[1].id}.webp", lossless=True)
    Image.fromarray(noise[:64, :96]).save(folder / f"{PAIRS_OF[2].id}.png")
    Image.fromarray(noise).save(folder / "stranger.png")
    return folder


def test_an_editor_is_a_row_like_any_method(
    run: Path, edits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["score", "--images", edits, "--name", "my-editor", *WORDS, "--out", run]
    assert command(*words) == 1
    said = capsys.readouterr()
    assert "1 pictures in" in said.err
    assert "stranger.png" in said.err
    assert "my-editor" in said.out
    mine = {r.pair_id: r for r in read_records(run) if r.setting.method == "my-editor"}
    assert list(mine) == [pair.id for pair in PAIRS_OF]
    same, noise, small, missing = mine.values()
    assert (same.status, noise.status, small.status, missing.status) == ("ok", "ok", "failed", "failed")
    expected = "returned a picture of uint8 [64, 96, 3], expected uint8 [128, 128, 3]"
    assert small.reason == f"the method 'my-editor': {expected}"
    assert missing.reason == f"there is no picture {PAIRS_OF[3].id}.png in {edits}"
    assert (missing.where, missing.error) == ("pictures", "PairError")
    nothing = next(r for r in read_records(run) if r.pair_id == same.pair_id and r.setting.method == "none")
    assert same.metrics == pytest.approx(nothing.metrics, abs=1e-6)
    assert noise.metrics["lpips_base"] > 0.1
    assert read_run(run)["arms"][-1]["method"] == "my-editor"
    # Records and rows: same group, same tables, the page, and the check of contributed results.
    assert command("report", run, "--out", tmp_path / "report", "--no-figures") == 0
    board = pd.read_csv(tmp_path / "report" / "leaderboard.csv")
    row = board[(board["method"] == "my-editor") & (board["category"] == "all")]
    assert row[["blocks", "on_steps", "scored", "attempted"]].to_numpy().tolist() == [["any", "any", 2, 4]]
    assert "my-editor" in (tmp_path / "report" / "index.html").read_text()
    # The missing one is made good, and the same command goes on with it.
    shutil.copy(edits / f"{PAIRS_OF[1].id}.webp", edits / f"{PAIRS_OF[3].id}.webp")
    Image.open(edits / f"{PAIRS_OF[1].id}.webp").save(edits / f"{PAIRS_OF[2].id}.png")
    assert command(*words) == 0
    assert "2 are left to make" in capsys.readouterr().err
    [group], _ = read_groups([run])
    rows = group.frame[group.frame["method"] == "my-editor"]
    assert rows["status"].tolist() == ["ok"] * 4
    assert set(rows["blocks"]) == {"any"}
    # Another picture in the place of a scored one is not mixed with it.
    shutil.copy(edits / f"{PAIRS_OF[1].id}.webp", edits / "x.webp")
    (edits / f"{PAIRS_OF[0].id}.png").unlink()
    (edits / "x.webp").rename(edits / f"{PAIRS_OF[0].id}.webp")
    assert command(*words) == 2
    said = capsys.readouterr().err
    assert "another picture" in said
    assert f"discard all records in {run} with 'riebench run --force'" in said  # score has no --force


def test_an_editor_alone_and_again(edits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = [word for pair in PAIRS_OF[:2] for word in ("--id", pair.id)]
    words = ["score", "--images", edits, "--name", "e", *ids, "--strength", "0.5", "--metrics", "default,mse_outside"]
    assert command(*words, "--out", tmp_path / "one") == 0, capsys.readouterr().err
    records = read_records(tmp_path / "one")
    assert [(r.setting.method, r.setting.strength, r.setting.blocks) for r in records] == [("e", 0.5, ())] * 2
    assert all("mse_outside" in record.metrics for record in records)
    assert command(*words[:-4], *words[-2:], "--out", tmp_path / "whole") == 0, capsys.readouterr().err
    whole = read_records(tmp_path / "whole")
    assert [r.metrics for r in records] == [r.metrics for r in whole]  # a strength is a name, the picture as it is
    assert [r.setting.strength for r in whole] == [1.0, 1.0]
    assert (tmp_path / "one" / "table.md").is_file()
    assert command("rerun", tmp_path / "one", "--out", tmp_path / "two") == 0
    assert {r.key: r.metrics for r in read_records(tmp_path / "two")} == {r.key: r.metrics for r in records}
    assert command("results", "check", tmp_path / "one") == 0, capsys.readouterr().out
    # Neither is a folder without records repeated with another picture.
    (tmp_path / "one" / "records.jsonl").unlink()
    assert command("rerun", tmp_path / "one", "--out", tmp_path / "three") == 0
    other = next(edits.glob(f"{PAIRS_OF[0].id}.*"))
    Image.open(other).transpose(Image.Transpose.ROTATE_180).save(other)
    capsys.readouterr()
    assert command("rerun", tmp_path / "one", "--out", tmp_path / "four") == 2
    assert f"another picture of the pair '{PAIRS_OF[0].id}'" in capsys.readouterr().err


def test_runs_that_measured_otherwise_are_not_in_one_table(run: Path, tmp_path: Path) -> None:
    for name, by in (("a", "dino-1"), ("b", "dino-1"), ("c", "dino-2")):
        rows = [json.loads(record.model_dump_json()) for record in read_records(run)]
        (tmp_path / name).mkdir()
        with (tmp_path / name / "records.jsonl").open("w") as file:
            for row in rows:
                made = Record.model_validate(row | {"measured_by": {"structure_distance": by}})
                made.metrics["structure_distance"] = 0.5
                file.write(made.model_dump_json() + "\n")
    together, why = read_groups([tmp_path / "a", tmp_path / "b", run])
    assert (len(together), why) == (1, [])
    apart, why = read_groups([tmp_path / "a", tmp_path / "c"])
    assert len(apart) == 2
    assert any("structure_distance measured by different networks" in text for text in why)
