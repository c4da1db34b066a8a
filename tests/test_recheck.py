"""``riebench results check``: what it recomputes, and what it says of the rest."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import riebench
from riebench.cli import main
from riebench.records import Record, RunFolder, read_records


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two pairs, one of which has its pictures."""
    out = tmp_path_factory.mktemp("finished") / "run"
    options = {"strength": 1, "category": 6, "limit": 2, "keep_images": 1, "out": out, "quiet": True}
    riebench.run(["steering", "sae-adaptive"], "mid.0", **options)  # type: ignore[arg-type]
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def check(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        main(["results", "check", str(folder)])
    return int(left.value.code or 0), capsys.readouterr().out


def changed(folder: Path, change: Callable[[Record], dict[str, float | None]]) -> None:
    records = read_records(folder)
    (folder / "records.jsonl").unlink()
    with RunFolder(folder) as opened:
        opened.append([record.model_copy(update={"metrics": record.metrics | change(record)}) for record in records])


def test_a_sound_run_says_how_much_of_it_was_checked(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = check(run, capsys)
    assert code == 0, said
    assert "2 of the 180 pairs of pairs.json" in said
    assert "2 of 4 records recomputed from their pictures" in said
    assert "4 of 4 records recomputed from their prompts" in said


def test_numbers_that_were_changed_are_found(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All CLIP values halved passed, as every number was possible."""
    changed(run, lambda record: {n: v and v / 2 for n, v in record.metrics.items() if n.startswith("clip_")})
    code, said = check(run, capsys)
    assert code == 1
    assert "2 records have another clip_text_edit (first: " in said
    assert "4 records have another clip_text_edit (first: " in said
    assert "another lpips_base" not in said


def test_without_pictures_records_are_made_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run / "images")
    changed(run, lambda record: {"lpips_base": 0.01 + (record.metrics["lpips_base"] or 0)})
    code, said = check(run, capsys)
    assert code == 1
    assert "not recomputed from their pictures: the folder keeps none" in said
    assert "4 records have another lpips_base" in said


def test_a_picture_that_was_changed_is_found(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = next((run / "images").glob("*-base.png"))
    Image.fromarray(255 - np.asarray(Image.open(picture))).save(picture)
    code, said = check(run, capsys)
    assert code == 1
    assert f"1 pictures are not those that the run wrote (first: {picture.name})" in said


def test_what_cannot_be_recomputed_is_said(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = [record.model_copy(update={"parts": record.parts | {"clip": "clip-1"}}) for record in read_records(run)]
    (run / "records.jsonl").unlink()
    with RunFolder(run) as opened:
        opened.append([record.model_copy(update={"key": f"{n:032x}"}) for n, record in enumerate(other)])
    for record in other:
        for path in (run / "images").glob(f"*{record.key}.png"):
            path.rename(path.with_name(f"{record.pair_id}-{other.index(record):032x}.png"))
    (run / "images" / "hashes.jsonl").unlink()
    _, said = check(run, capsys)
    assert "not recomputed from their pictures: they were scored by the clip clip-1" in said
    assert "not recomputed from their prompts: the code here gives them other keys" in said
