"""Metrics from a user's file or package: chosen by their place, kept in records, seen by tables, pages and workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import riebench
from riebench.cli import main
from riebench.engine.request import resolve
from riebench.engine.run_options import RunOptions
from riebench.instruments.loading import Instruments, assemble_scorers
from riebench.instruments.mini_instruments import MiniInstruments
from riebench.metrics import METRICS, chosen, measured_by, metric, metrics_of
from riebench.metrics.catalogue import _REGISTRY, find_metric
from riebench.records import code, read_records
from riebench.records.code import code_hash
from riebench.util.errors import UserError

FILE = """
import torch
from riebench.metrics import metric

@metric("{name}", "mean step between neighbours", needs=(), of_base=True)
@torch.no_grad()
def {name}(seen):
    return [float(abs(p[1:] - p[:-1].astype(float)).mean()) for p in seen.pictures]
"""
RUN = ("run", "--method", "steering", "--block", "mid.0", "--limit", "1", "--category", "colour", "--strength", "1,2")


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Metrics that a test loads are forgotten after it; it stands in a folder of its own."""
    before = dict(METRICS)
    monkeypatch.chdir(tmp_path)
    yield
    METRICS.clear()
    METRICS.update(before)
    _REGISTRY.__dict__.pop("installed", None)


ONE = {"strength": 1, "limit": 1, "category": 6, "quiet": True}


def write(file: str, name: str, text: str = FILE) -> Path:
    path = Path(file)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text.format(name=name))
    return path


def command(*words: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


def by_hand(picture: np.ndarray) -> float:
    return float(np.abs(np.diff(picture.astype(float), axis=0)).mean())


def test_a_metric_of_a_file_is_in_records_tables_and_pages(capsys: pytest.CaptureFixture[str]) -> None:
    file = write("sharp_file.py", "sharpness")
    assert command(*RUN, "--metrics", "default,sharp_file:sharpness", "--out", "run") == 0, capsys.readouterr().err
    records = read_records(Path("run"))
    assert len(records) == 2
    for record in records:
        picture = np.asarray(Image.open(f"run/images/{record.pair_id}-{record.key}.png"))
        base = np.asarray(Image.open(f"run/images/{record.pair_id}-base.png"))
        assert record.metrics["sharpness"] == pytest.approx(by_hand(picture))
        assert record.metrics["sharpness_base"] == pytest.approx(by_hand(base))
        assert record.metrics["edit_success"] is not None
        hashed = code_hash(find_metric("sharp_file:sharpness").measure)
        assert record.measured_by == {"sharpness": f"sharp_file:sharpness-{hashed}"}
    assert riebench.load_records("run")["sharpness"].tolist() == [r.metrics["sharpness"] for r in records]
    assert command("report", "run", "--out", "report", "--no-figures") == 0, capsys.readouterr().err
    for table, column in (("curves.csv", "sharpness_mean"), ("leaderboard.csv", "held_out_sharpness")):
        assert column in pd.read_csv(Path("report") / table), table
    assert "sharpness" in Path("report/index.html").read_text()
    assert command("metrics", "sharp_file.py:sharpness") == 0
    assert "mean step between neighbours" in " ".join(capsys.readouterr().out.split())
    # The same file goes on with the folder; a changed one is refused by name.
    assert command(*RUN, "--metrics", "default,sharp_file.py:sharpness", "--out", "run") == 0
    assert read_records(Path("run")) == records
    assert command("rerun", "run", "--out", "again") == 0, capsys.readouterr().err
    assert [r.metrics for r in read_records(Path("again"))] == [r.metrics for r in records]
    file.write_text(file.read_text() + "\n# changed\n")
    code._LOADED.clear()  # as in a new process
    for words in ((*RUN, "--out", "run"), ("score", "run")):
        capsys.readouterr()
        assert command(*words, "--metrics", "sharp_file:sharpness") == 2
        assert "sharpness by sharp_file:sharpness-" in capsys.readouterr().err
    assert read_records(Path("run")) == records


def test_a_finished_run_gets_a_metric_of_a_file_from_its_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    write("deep/late_file.py", "late")
    assert command(*RUN, "--out", "run") == 0
    assert all("late" not in record.metrics for record in read_records(Path("run")))
    assert command("score", "run", "--metrics", "deep/late_file.py:late") == 0, capsys.readouterr().err
    for record in read_records(Path("run")):
        picture = np.asarray(Image.open(f"run/images/{record.pair_id}-{record.key}.png"))
        assert record.metrics["late"] == pytest.approx(by_hand(picture))
        assert record.measured_by["late"].startswith("late_file:late-")
        assert record.metrics["edit_success"] is not None  # the metrics that it had are kept


def test_python_takes_a_file_and_a_decorated_function(mini: Instruments) -> None:
    write("python_file.py", "in_file")

    @metric("in_process", "brightness", needs=())
    def in_process(seen: riebench.metrics.Seen) -> list[float | None]:  # type: ignore[name-defined]
        return [float(picture.mean()) for picture in seen.pictures]

    shared = {"model": mini.model, "scorers": mini.scorers, **ONE}
    done = riebench.run("none", "mid.0", metrics=["python_file:in_file", "in_process"], out="a", **shared)
    (record,) = done.records
    assert set(record.metrics) >= {"in_file", "in_process", *("clip_text_edit", "lpips_base")}
    assert set(record.measured_by) == {"in_file", "in_process"}
    # A later run that does not name the file does not measure it.
    (record,) = riebench.run("none", "mid.0", out="b", **shared).records
    assert "in_file" not in record.metrics
    assert "in_process" in record.metrics


def test_an_installed_metric_is_listed_and_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, info = tmp_path / "site", tmp_path / "site" / "sharper-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sharper\nVersion: 1.0\n")
    points = ["[riebench.metrics]", "installed_one = sharper:installed_one", "broken_one = shattered:gone", ""]
    (info / "entry_points.txt").write_text("\n".join(points))
    write("site/sharper.py", "installed_one")
    write("site/shattered.py", "", "1 / 0")
    monkeypatch.syspath_prepend(site)
    _REGISTRY.__dict__.pop("installed", None)
    assert "installed_one" not in chosen(["default"])
    assert command("metrics") == 0
    text = capsys.readouterr().out
    assert "sharper 1.0" in " ".join(text.split())
    assert "BROKEN" in text
    assert "installed_one" in chosen(["default", "installed_one"])
    with pytest.raises(UserError, match="did you mean 'installed_one'"):
        chosen(["instaled_one"])
    with pytest.raises(UserError, match=r"'broken_one' cannot be loaded \(ZeroDivisionError"):
        chosen(["broken_one"])
    (record,) = riebench.run("none", "mid.0", metrics="installed_one", out="r", **ONE).records
    assert record.metrics["installed_one"]
    assert record.measured_by["installed_one"].startswith("sharper:installed_one-")


BROKEN = """
from riebench.metrics import metric

@metric("raises", "raises", needs=())
def raises(seen):
    raise RuntimeError("no such lens")

@metric("leaves", "leaves", needs=())
def leaves(seen):
    raise SystemExit(3)

@metric("too_few", "one number too few", needs=())
def too_few(seen):
    return [1.0] * (len(seen.pictures) - 1)

@metric("worded", "words", needs=())
def worded(seen):
    return ["sharp"] * len(seen.pictures)

@metric("endless", "no finite number", needs=())
def endless(seen):
    return [float("inf")] * len(seen.pictures)
"""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("raises", "RuntimeError: no such lens"),
        ("leaves", "SystemExit"),
        ("too_few", "numbers for"),
        ("worded", "sharp"),
    ],
)
def test_a_faulty_metric_is_a_failed_record_that_names_it(
    mini: Instruments, name: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write("faulty_file.py", "", BROKEN.replace("{", "{{").replace("}", "}}"))
    loaded = {"model": mini.model, "scorers": mini.scorers, **ONE}
    (record,) = riebench.run("none", "mid.0", metrics=f"faulty_file:{name}", out="run", **loaded).records
    assert record.status == "failed"
    assert record.where == "metrics"
    assert record.reason is not None
    assert f"the metric {name!r}" in record.reason
    assert reason in record.reason
    # A run that is scored already keeps what it has.
    riebench.run("none", "mid.0", out="scored", **loaded)
    assert command("score", "scored", "--metrics", f"faulty_file:{name}") == 2
    assert f"the metric {name!r}" in capsys.readouterr().err
    assert [r.status for r in read_records(Path("scored"))] == ["ok"]


def test_a_number_that_is_not_finite_is_undefined(mini: Instruments) -> None:
    write("faulty_file.py", "", BROKEN.replace("{", "{{").replace("}", "}}"))
    loaded = {"model": mini.model, "scorers": mini.scorers, **ONE}
    (record,) = riebench.run("none", "mid.0", metrics="faulty_file:endless", out="run", **loaded).records
    assert record.metrics["endless"] is None


def test_a_metric_that_nobody_named_gets_its_network_or_is_refused(mini: Instruments) -> None:
    metric("patches", "patches that changed", needs=(), scorer="dino")(lambda seen: [0.0] * len(seen.pictures))
    with pytest.raises(UserError, match="patches needs a network for photographs"):
        resolve(RunOptions("steering", "mid.0", **ONE))

    class Loading(MiniInstruments):
        def scorer(self, name: str) -> str:
            return f"the network {name}"

    assert assemble_scorers(Loading(), None, mini.scorers).more == {"dino": "the network dino"}
    assert assemble_scorers(Loading(), (), mini.scorers).more == {}


def test_what_a_metric_reads_is_part_of_its_code(mini: Instruments) -> None:
    weights = Path("weights.bin")
    weights.write_bytes(b"1")
    write("reading_file.py", "reads", FILE.replace("needs=()", "files=('weights' + '.bin',), needs=()"))
    before = measured_by(mini.scorers, ["reading_file:reads"])
    assert before == measured_by(mini.scorers, ["reading_file:reads"])
    weights.write_bytes(b"2")
    assert measured_by(mini.scorers, ["reading_file:reads"]) != before
    weights.unlink()
    with pytest.raises(UserError, match=r"a file that reads reads cannot be read.*weights\.bin"):
        measured_by(mini.scorers, ["reading_file:reads"])


def test_names_that_are_refused() -> None:
    taken = dict.fromkeys(
        ("lpips_base", "seconds", "k", "default", "lpips_source_base", "clip_text_edit_source", "gain", "margin"),
        "is taken by",
    )
    for name, reason in {**taken, "Sharp Ness": "is malformed"}.items():
        with pytest.raises(ValueError, match=f"the metric name '{name}' {reason}"):
            metric(name, "another")(lambda seen: [])
    for needs in ("clip", ("clap",)):
        with pytest.raises(
            ValueError, match=r"the metric 'another' has needs=.*; expected a list of clip, lpips, regions"
        ):
            metric("another", "another", needs=needs)
    write("no_metric.py", "", "def plain(seen):\n    return []\n")
    with pytest.raises(
        UserError, match=r"no_metric:plain is not a metric; decorate it with @riebench\.metrics\.metric"
    ):
        resolve(RunOptions("none", "mid.0", metrics="no_metric:plain"))
    write("near_file.py", "nearly")
    with pytest.raises(UserError, match="unknown metric 'nearby' in near_file; did you mean 'nearly'"):
        resolve(RunOptions("none", "mid.0", metrics="near_file:nearby"))
    with pytest.raises(UserError, match=r"'nowhere/file\.py:x' cannot be loaded"):
        resolve(RunOptions("none", "mid.0", metrics="nowhere/file.py:x"))
    assert [m.name for m in metrics_of(["near_file:nearly", "lpips_base"])] == ["lpips_base", "nearly"]


SPOILING = """
from riebench.metrics import Seen, metric


@metric("painter", "paints over the pictures", needs=())
def painter(seen: Seen) -> list[float | None]:
    seen.pictures[0][:] = 0
    return [0.0] * len(seen.pictures)


@metric("eraser", "paints over the region", needs=())
def eraser(seen: Seen) -> list[float | None]:
    seen.reference.region[:] = False
    return [0.0] * len(seen.pictures)


@metric("scaler", "scales the embeddings", needs=("clip",))
def scaler(seen: Seen) -> list[float | None]:
    seen.clip.mul_(2)
    return [0.0] * len(seen.pictures)
"""


@pytest.mark.parametrize(("name", "why"), [("painter", "read-only"), ("eraser", "read-only"), ("scaler", "copy")])
def test_a_metric_cannot_spoil_what_others_measure(name: str, why: str, tmp_path: Path) -> None:
    Path("spoiling.py").write_text(SPOILING)
    done = riebench.run(
        "none", "mid.0", category=6, limit=1, strength=1, metrics=["default", f"spoiling:{name}"], out="o", quiet=True
    )
    (record,) = done.records
    assert record.status == "failed"
    assert f"the metric {name!r}" in str(record.reason)
    assert why in str(record.reason)
