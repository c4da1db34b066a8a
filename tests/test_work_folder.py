"""Folders of long work: JSON lines with a torn end, locks, other kinds of work, early ends, stages that are timed."""

from __future__ import annotations

import gzip
import json
import os
import signal
from pathlib import Path

import pytest

from riebench.util.errors import UserError
from riebench.util.json_lines import append_lines, append_whole, mend_lines, read_lines
from riebench.util.trace import TRACE, tracing
from riebench.util.work_folder import KINDS, InTurn, WorkFolder, check_work_folder, work_off


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_torn_last_line_is_left_out(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    pack = gzip.compress if name.endswith(".gz") else bytes
    file = tmp_path / name
    for content, rows in ((b"", 0), (b"1\n2\n", 2), (b"1\n2", 2), (b'1\n{"a":', 1)):
        file.write_bytes(pack(content))
        caplog.clear()
        assert read_lines(file, json.loads) == [1, 2][:rows]
        assert (str(file) in caplog.text) == (content[-1:] == b":")
    file.write_bytes(pack(b"1\n{\n2\n"))
    with pytest.raises(UserError, match=f"{file}: line 2 is damaged"):
        read_lines(file, json.loads)


def test_a_broken_gzip_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(gzip.compress(b"1\n")[:-6])
    with pytest.raises(UserError, match=f"{file} cannot be read"):
        read_lines(file, json.loads)


@pytest.mark.parametrize(("content", "rows"), [(b"", []), (b"1\n", [1]), (b"1", [1]), (b'1\n{"a', [1])])
def test_a_mended_file_can_be_appended_to(tmp_path: Path, content: bytes, rows: list[int]) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(content)
    assert mend_lines(file, json.loads) == rows
    append_lines(file, ["2", "3"])
    assert read_lines(file, json.loads) == [*rows, 2, 3]


def test_what_cannot_be_appended_whole_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    file = tmp_path / "a.jsonl"
    append_whole(file, b"1\n")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            append_whole(file, b"2\n")
        folder = WorkFolder(tmp_path)
        with pytest.raises(UserError, match=r"a\.jsonl cannot be written .*make room"):
            folder.append_to("a.jsonl", b"2\n")
    assert file.read_bytes() == b"1\n"


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_another_kind_is_refused(tmp_path: Path, kind: str) -> None:
    other = next(name for name in KINDS if name != kind)
    (tmp_path / other).touch()
    for enter in (lambda: check_work_folder(tmp_path, kind), WorkFolder(tmp_path, kind).__enter__):
        with pytest.raises(UserError, match=f"{other}.*--out"):
            enter()
    (tmp_path / kind).touch()  # of an earlier version, which put both into one folder
    with WorkFolder(tmp_path, kind):
        pass


def test_a_folder_has_one_writer_and_no_torn_files(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    check_work_folder(folder)
    assert not folder.exists()
    with WorkFolder(folder):
        for enter in (lambda: check_work_folder(folder), WorkFolder(folder).__enter__):
            with pytest.raises(UserError, match=f"process {os.getpid()} on .* is writing to {folder}.*--out"):
                enter()
    torn, other = folder / "a.json.0123abcd.part", folder / "a.part"
    torn.touch()
    other.touch()
    with WorkFolder(folder):
        assert not torn.exists()
        assert other.exists()
    with pytest.raises(UserError, match=f"{other.name} cannot be written.*--out"):
        check_work_folder(other)


def test_work_ends_after_the_task_under_way(caplog: pytest.LogCaptureFixture) -> None:
    def work(task: int) -> int:
        if task == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return 10 * task

    kept: list[tuple[int, int]] = []
    ending = work_off(InTurn(work), [1, 2, 3], lambda task, result: kept.append((task, result)), "shard")
    assert kept == [(1, 10), (2, 20)]
    assert (ending.done, ending.left, ending.signal, ending.reason) == (2, 1, signal.SIGTERM, "ended by SIGTERM")
    assert "1 shards are left" in caplog.text
    ending = work_off(InTurn(work), [1, 2], lambda task, result: None, "shard")
    assert (ending.left, ending.reason) == (0, "")  # nothing was left when the signal came
    ending = work_off(InTurn(abs), [1, 2], lambda task, result: "enough", "shard")
    assert (ending.done, ending.left, ending.signal, ending.reason) == (1, 1, None, "enough")


def test_a_trace_times_stages_and_is_on_inside_its_statement() -> None:
    assert TRACE.get() is None
    with tracing() as trace:
        assert TRACE.get() is trace
    assert TRACE.get() is None
    with trace.stage("plan"):
        pass
    with trace.stage("edit"), pytest.raises(ZeroDivisionError), trace.stage("fail"):
        1 // 0  # noqa: B018
    assert {name: times.count for name, times in trace.stages.items()} == {"plan": 1, "edit": 1, "fail": 1}
    assert all(times.memory > 1e6 for times in trace.stages.values())
    assert len(trace.lines()) == 4
