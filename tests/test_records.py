"""Records: keys, files, summaries."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from riebench.records import Record, RunFolder, Setting, interval_name, read_records, record_key
from riebench.report.frame import load_records
from riebench.util.errors import UserError


def record(pair: str, strength: float, clip: float | None, category: int = 1, status: str = "ok") -> Record:
    return Record(
        key=f"{pair}{strength}",
        status=status,
        pair_id=pair,
        category=category,
        seed=1,
        original_prompt="a [duck]",
        editing_prompt="a [marmot]",
        setting=Setting(method="sae", options={"k": 3}, blocks=("mid.0",), strength=strength, steps=1),
        model="mini",
        protocol="riebench",
        parts={},
        code={},
        metrics={} if clip is None else {"clip_text_edit": clip, "lpips_base": strength / 10, "kept": 1.0},
        reason="no duck" if status == "failed" else None,
    )


def lines_in(file: Path) -> int:
    """The number of lines that are records."""
    return file.read_bytes().count(b'{"key":')


RECORDS = [record("a", 1, 0.2), record("b", 1, 0.4), record("c", 1, None, status="failed"), record("a", 2, 0.5)]


def test_key_depends_on_content_not_on_order() -> None:
    one = record_key(seed=1, pair={"x": 1, "y": 2})
    assert one == record_key(pair={"y": 2, "x": 1}, seed=1)
    assert one != record_key(pair={"y": 2, "x": 1}, seed=2)


def test_steps_are_part_of_a_setting_where_they_are_not_all() -> None:
    """Records of all steps read, and are named, as in versions that knew no others."""
    given = {"method": "sae", "options": {"k": 3}, "blocks": ["mid.0"], "strength": 1.0, "steps": 4}
    setting = Setting.model_validate(given)
    assert setting.model_dump(mode="json") == given
    assert record_key(setting=setting.model_dump(mode="json")) == "aebc1f6beb8ae793d71a5146acbfa71c"
    some = Setting.model_validate(given | {"on_steps": [1, 2]})
    assert some.model_dump(mode="json") == given | {"on_steps": [1, 2]}
    assert Setting.model_validate_json(some.model_dump_json(), strict=True) == some
    assert [interval_name(steps) for steps in ((0,), (1, 2), (0, 1, 2))] == ["0", "1-2", "0-2"]


def test_round_trip_and_torn_line(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.append(RECORDS[:2])
        folder.append(RECORDS[2:])
    assert read_records(tmp_path / "run") == RECORDS
    file = tmp_path / "run" / "records.jsonl"
    file.write_text(file.read_text()[:-40])
    assert read_records(tmp_path / "run") == RECORDS[:-1]
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0][:50], *lines[1:]]) + "\n")
    with pytest.raises(UserError, match="line 1 is damaged"):
        read_records(tmp_path / "run")
    with pytest.raises(UserError, match="line 1 is damaged"), RunFolder(tmp_path / "run"):
        pass


@pytest.mark.parametrize("cut", [1, 2, 40, 300])
def test_nothing_is_glued_to_a_torn_line(tmp_path: Path, caplog: pytest.LogCaptureFixture, cut: int) -> None:
    with RunFolder(tmp_path) as folder:
        folder.append(RECORDS[:3])
    file = tmp_path / "records.jsonl"
    file.write_bytes(file.read_bytes()[:-cut])
    whole = 3 if cut == 1 else 2  # with one byte less, all that is missing is the line break
    with RunFolder(tmp_path) as folder:
        assert folder.records == RECORDS[:whole]
        folder.append(RECORDS[3:])
    assert ("torn last line" in caplog.text) == (cut > 1)
    assert read_records(tmp_path) == [*RECORDS[:whole], RECORDS[3]]
    assert lines_in(file) == whole + 1


def test_the_last_record_of_a_key_counts(tmp_path: Path) -> None:
    again = RECORDS[2].model_copy(update={"status": "ok", "reason": None})
    with RunFolder(tmp_path) as folder:
        folder.append(RECORDS)
        folder.append([again])
    last = [*RECORDS[:2], again, RECORDS[3]]
    assert read_records(tmp_path) == last
    with RunFolder(tmp_path) as folder:  # and what was repeated within one session is taken out by the next
        assert folder.records == last
        assert lines_in(tmp_path / "records.jsonl") == len(RECORDS)
        folder.append(RECORDS[:1])
        assert lines_in(tmp_path / "records.jsonl") == len(RECORDS) + 1
        assert read_records(tmp_path) == last
    assert lines_in(tmp_path / "records.jsonl") == len(RECORDS)
    assert read_records(tmp_path) == last


def test_force_discards_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.append(RECORDS)
        folder.keep_images({"a": np.zeros((2, 2, 3), np.uint8)})
    with RunFolder(tmp_path / "run", force=True):
        pass
    assert caplog.messages == [f"4 records of 3 pairs in {tmp_path / 'run'} are discarded, with images"]
    assert not (tmp_path / "run" / "images").exists()
    with pytest.raises(UserError, match="no records"):
        read_records(tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), RunFolder(tmp_path / "file" / "below"):
        pass


def test_force_spares_what_no_run_has_made(tmp_path: Path) -> None:
    mine = tmp_path / "images" / "holiday.jpg"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(UserError, match=r"holds images, but no records\.jsonl"), RunFolder(tmp_path, force=True):
        pass
    assert mine.read_text() == "mine"
    with RunFolder(tmp_path / "new", force=True):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_full_disk_leaves_the_records_as_they_were(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        folder.append(RECORDS[:2])
        before = (tmp_path / "records.jsonl").read_bytes()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))
        try:
            with pytest.raises(UserError, match=r"records\.jsonl cannot be written .* make room"):
                folder.append(RECORDS[2:])
            with pytest.raises(UserError, match="cannot be written"):
                folder.keep_images({"a": np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert (tmp_path / "records.jsonl").read_bytes() == before
        assert not (tmp_path / "images" / "a.png").exists()
        folder.append(RECORDS[2:])
    assert read_records(tmp_path) == RECORDS


HOLD = """
import sys, time
from pathlib import Path
from riebench.records import RunFolder
with RunFolder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_writer(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        try:
            said = rf"process {holder.pid} on {socket.gethostname()} \(since 20"
            with pytest.raises(UserError, match=said), RunFolder(tmp_path):
                pass
        finally:
            holder.kill()
    with RunFolder(tmp_path) as folder:  # a killed process holds nothing
        folder.append(RECORDS)
        with pytest.raises(UserError, match=f"process {os.getpid()} on"), RunFolder(tmp_path, force=True):
            pass
    assert read_records(tmp_path) == RECORDS


def test_reports_need_no_torch() -> None:
    code = "import sys, riebench.records, riebench.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_pair_torn_apart_goes_whole(tmp_path: Path) -> None:
    pairs = [[record(pair, i, 0.5) for i in range(3)] for pair in ("p", "q")]
    with RunFolder(tmp_path) as run:
        for records in pairs:
            run.append(records)
    file = tmp_path / "records.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    assert b"hash" in lines[0]
    file.write_bytes(b"".join(lines[:6]) + lines[6][:200])
    with RunFolder(tmp_path) as run:
        assert [r.pair_id for r in run.records] == ["p", "p", "p"]
    # Where the torn line is another pair's, or does not say whose it is, what is whole stays.
    for torn in (lines[6].replace(b'"q"', b'"r"')[:200], lines[6][:20]):
        file.write_bytes(b"".join(lines[:6]) + torn)
        with RunFolder(tmp_path) as run:
            assert len(run.records) == 5


OLD_RUN = Path(__file__).parent / "run_0_1"
"""A run made before shared parts were stored once: each line of its records has all fields."""


def test_a_folder_of_an_earlier_version_is_read_and_gone_on_with(tmp_path: Path) -> None:
    shutil.copytree(OLD_RUN, tmp_path / "run")
    file = tmp_path / "run" / "records.jsonl"
    before, frame = file.read_bytes(), load_records(tmp_path / "run")
    old = read_records(tmp_path / "run")
    assert [json.loads(record.model_dump_json()) for record in old] == [
        json.loads(line) for line in before.splitlines()
    ]
    assert frame["status"].value_counts().to_dict() == {"ok": 15, "failed": 8}
    with RunFolder(tmp_path / "run") as folder:
        assert folder.records == old
        folder.append(RECORDS[:2])
    assert file.read_bytes().startswith(before)
    assert read_records(tmp_path / "run") == [*old, *RECORDS[:2]]
    with RunFolder(tmp_path / "run") as folder:
        folder.append(old[:1])  # on leaving, the file is written anew
    assert b'"riebench":' not in file.read_bytes().split(b'{"key":', 1)[1]
    assert file.stat().st_size < 0.8 * len(before)
    assert read_records(tmp_path / "run") == [*old, *RECORDS[:2]]
    pd.testing.assert_frame_equal(load_records(tmp_path / "run").head(23)[list(frame)], frame)


def test_a_shared_part_is_stored_once(tmp_path: Path) -> None:
    other = RECORDS[3].model_copy(update={"parts": {"clip": "clip-2"}})
    for records in (RECORDS[:2], [*RECORDS[2:3], other]):  # two sessions
        with RunFolder(tmp_path) as folder:
            for one in records:
                folder.append([one])
    lines = [json.loads(line) for line in (tmp_path / "records.jsonl").read_bytes().splitlines()]
    assert ["hash" in line for line in lines] == [True, False, False, False, True, False]
    assert lines[0] == {"hash": lines[1]["shared"], "shared": lines[0]["shared"]}
    assert read_records(tmp_path) == [*RECORDS[:3], other]


def test_files_are_put_together_in_any_order(tmp_path: Path) -> None:
    texts = []
    for name, records in (("a", RECORDS[:2]), ("b", RECORDS[2:])):
        with RunFolder(tmp_path / name) as folder:
            folder.append(records)
        texts.append((tmp_path / name / "records.jsonl").read_text())
    file = tmp_path / "both.jsonl"
    file.write_text("".join([*texts, (OLD_RUN / "records.jsonl").read_text()]))
    assert read_records(file) == [*RECORDS, *read_records(OLD_RUN)]
    file.write_text("".join(sorted(texts[0].splitlines(keepends=True), reverse=True)))
    assert sorted(r.key for r in read_records(file)) == sorted(r.key for r in RECORDS[:2])
    assert len(load_records(file)) == 2


def test_a_missing_or_changed_shared_part_is_named(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        folder.append(RECORDS[:2])
    file = tmp_path / "records.jsonl"
    shared, *records = file.read_text().splitlines(keepends=True)
    file.write_text("".join(records))
    for read in (read_records, load_records):
        with pytest.raises(
            UserError, match=rf"line 1 names the shared part {json.loads(shared)['hash']}, which is miss"
        ):
            read(tmp_path)
    file.write_text("".join([shared.replace("riebench", "paper"), *records]))
    for read in (read_records, load_records):
        with pytest.raises(UserError, match="line 1 is damaged"):
            read(tmp_path)
