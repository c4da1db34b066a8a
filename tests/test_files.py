"""Fingerprints of files, and writing that a reader never meets half done."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from riebench.util import files
from riebench.util.files import file_hash, files_under, fingerprint, write_each_whole, write_whole


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files, one of them in a folder below."""
    path = tmp_path / "weights"
    (path / "unet").mkdir(parents=True)
    (path / "a.json").write_text("a")
    (path / "unet" / "b.bin").write_bytes(b"b" * 3)
    return path


def test_a_hash_is_the_contents(folder: Path) -> None:
    assert file_hash(folder / "unet" / "b.bin") == hashlib.sha256(b"bbb").hexdigest()


def test_a_fingerprint_names_contents_and_names_under_the_root(folder: Path, tmp_path: Path) -> None:
    paths = files_under(folder)
    assert [path.name for path in paths] == ["a.json", "b.bin"]
    first = fingerprint(paths, folder)
    assert len(first) == 16
    assert fingerprint(reversed(paths), folder) == first
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert fingerprint(files_under(copy), copy) == first
    (copy / "a.json").rename(copy / "c.json")
    assert fingerprint(files_under(copy), copy) != first
    (folder / "a.json").write_text("other")
    assert fingerprint(paths, folder) != first


def test_an_unchanged_file_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fingerprint(files_under(folder), folder)
    monkeypatch.setattr(files, "file_hash", lambda path: pytest.fail(f"{path} is read again"))
    assert fingerprint(files_under(folder), folder) == first


def test_the_hashes_of_files_that_are_gone_or_changed_leave_the_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept() -> list[str]:
        return [Path(key.partition("|")[0]).name for key in files.read_facts(files.HASHES)]

    (tmp_path / "cache/riebench").mkdir(parents=True)
    (tmp_path / "cache/riebench/hashes.json").write_text('{"no file": "0", "/nowhere/a|1|2|3": "0"}')
    fingerprint(files_under(folder), folder)
    assert kept() == ["a.json", "b.bin"]
    (folder / "a.json").write_text("other")
    fingerprint([folder / "a.json"], folder)
    assert kept() == ["b.bin", "a.json"]
    (folder / "unet" / "b.bin").rename(folder / "c.bin")
    fingerprint(files_under(folder), folder)
    assert kept() == ["a.json", "c.bin"]
    monkeypatch.setattr(files, "MOST_FACTS", 1)
    fingerprint([Path(shutil.copy(folder / "c.bin", folder / "d.bin"))], folder)
    assert kept() == ["d.bin"]


def test_processes_that_keep_facts_at_once_leave_a_whole_file(tmp_path: Path) -> None:
    code = """
import sys
from riebench.util.files import keep_facts
for number in range(60):
    keep_facts("f", {f"{sys.argv[1]}{number}": "x" * 999})
"""
    started = [subprocess.Popen([sys.executable, "-c", code, name]) for name in "ab"]
    while any(process.poll() is None for process in started):
        path = tmp_path / "cache/riebench/f"
        assert not path.exists() or json.loads(path.read_text())
    assert [process.returncode for process in started] == [0, 0]
    assert len(files.read_facts("f")) >= 60


def test_a_file_is_written_in_a_new_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.json"
    for data in (b"first", b"second"):
        write_whole(path, data)
        assert path.read_bytes() == data
    assert list(path.parent.iterdir()) == [path]
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert path.stat().st_mode == plain.stat().st_mode  # others may read what they may read elsewhere


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_the_earlier_file_and_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "a.json"
    write_whole(path, b"first")
    monkeypatch.setattr(os, step, full)
    for write in (write_whole, lambda path, data: write_each_whole({path.with_name("b"): data, path: data})):
        with pytest.raises(OSError, match="No space left"):
            write(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_files_written_together_are_each_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync, synced = os.fsync, []
    monkeypatch.setattr(os, "fsync", lambda number: (synced.append(os.fstat(number).st_ino), fsync(number)))
    paths = [tmp_path / name for name in "abc"]
    write_each_whole({path: path.name.encode() for path in paths})
    assert [path.read_text() for path in paths] == ["a", "b", "c"]
    assert sorted(synced) == sorted(path.stat().st_ino for path in (*paths, tmp_path))


def test_a_file_that_is_copied_over_another_with_its_times_is_hashed_anew(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    mine.write_bytes(b"1" * 64)
    other.write_bytes(b"2" * 64)
    os.utime(mine, ns=(10**18, 10**18))
    before = fingerprint([mine], tmp_path)
    os.utime(other, ns=(10**18, 10**18))
    other.replace(mine)
    assert fingerprint([mine], tmp_path) != before
