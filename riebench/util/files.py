"""Files: fingerprints of contents, writing that a reader never meets half done, small facts in the user's cache."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from riebench.util.errors import UserError

BLOCK = 1 << 22
HASHES = "hashes.json"
MOST_FACTS = 2000
TORN = f".{'[0-9a-f]' * 8}.part"
"""Pattern of what :func:`writing_whole` adds to the name of a file while it is being written."""


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal.

    Raises:
        OSError: if the file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(paths: Iterable[Path], root: Path) -> str:
    """A hash of files, 16 hexadecimal digits: of their names relative to ``root`` and of their contents.

    The hash of each file is kept in the user's cache folder; a file of the same size and times of change is not read
    again. Hashes of files that are gone or have changed leave the cache as new ones come.

    Raises:
        OSError: if a file cannot be read.
        ValueError: if a file is not under ``root``.
    """
    digest = hashlib.sha256()
    known, used = read_facts(HASHES), {}
    for path in sorted(paths):
        key = _state_of(path.resolve())
        used[key] = kept if isinstance(kept := known.get(key), str) else file_hash(path)
        digest.update(str(path.relative_to(root)).encode())
        digest.update(used[key].encode())
    if not used.items() <= known.items():
        keep_facts(HASHES, used, _is_current)
    return digest.hexdigest()[:16]


def _state_of(file: Path) -> str:
    """The name of a file with its size and times of change."""
    stat = file.stat()
    # The time of change of the entry itself: copying with times (cp -p, tar) keeps the other one.
    return f"{file}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}"


def _is_current(state: str) -> bool:
    """Whether a file is there and in the state that a text of :func:`_state_of` names."""
    try:
        return _state_of(Path(state.rsplit("|", 3)[0])) == state
    except (OSError, ValueError):
        return False


def working_folder() -> str:
    """The working folder of this process.

    Raises:
        UserError: if it was deleted meanwhile.
    """
    try:
        return os.getcwd()
    except OSError:
        raise UserError("the working folder was deleted; change to one that exists, as by cd") from None


def files_under(folder: Path) -> list[Path]:
    """Every file in a folder and the folders below it, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader finds all of it or none of it, as :func:`writing_whole` does.

    Raises:
        OSError: if the file cannot be written.
    """
    with writing_whole(path) as file:
        file.write(data)


@contextmanager
def writing_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which a reader finds whole or not at all, whenever the process ends.

    The data goes to a new file beside it, whose name ends in ``.part``, then to the disk, and takes its name last. The
    folder is made if it is missing. On failure the earlier file stays and the new one is removed.

    Raises:
        OSError: if the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part_of(path)
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        _names_on_disk(path.parent)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def write_each_whole(files: Mapping[Path, bytes]) -> None:
    """Write files of one folder, each as :func:`write_whole` does; all are written before the disk is waited for.

    Raises:
        OSError: if a file cannot be written; none of them has then taken its name, unless that itself failed.
    """
    parts: dict[Path, Path] = {}
    try:
        for path, data in files.items():
            parts[path] = _part_of(path)
            parts[path].write_bytes(data)
        for part in parts.values():
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        for path, part in parts.items():
            os.replace(part, path)
        for folder in {path.parent for path in files}:
            _names_on_disk(folder)
    except BaseException:
        for part in parts.values():
            with suppress(OSError):
                part.unlink()
        raise


def _part_of(path: Path) -> Path:
    """A new name beside a file, for it to be written under."""
    return path.with_name(f"{path.name}.{uuid4().hex[:8]}.part")


def _names_on_disk(folder: Path) -> None:
    """Have the names of the files of a folder on the disk: a file's name is there once its folder is."""
    if hasattr(os, "O_DIRECTORY"):
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def remove_torn(folder: Path) -> None:
    """Remove the files that :func:`writing_whole` left half written in a folder as its process was killed; no others.

    Folders below are not looked into.
    """
    for torn in folder.glob(f"*{TORN}"):
        if torn.is_file():
            torn.unlink()


def cache_folder() -> Path:
    """The user's cache folder of riebench."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "riebench"


def read_facts(name: str) -> dict[str, Any]:
    """The facts kept under a file name; empty where they are missing or damaged."""
    try:
        facts = json.loads((cache_folder() / name).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def keep_facts(name: str, facts: dict[str, Any], stays: Callable[[str], bool] = lambda _: True) -> None:
    """Add facts to those under a file name. If that fails, they are computed again the next time.

    Other processes may do so too: what one of them adds meanwhile may be lost, and no reader finds a half of it.

    Args:
        name: of the file.
        facts: by their keys.
        stays: tells by its key whether an earlier fact stays; of all, the last :data:`MOST_FACTS` do.
    """
    earlier = {key: value for key, value in read_facts(name).items() if key not in facts and stays(key)}
    kept = dict([*earlier.items(), *facts.items()][-MOST_FACTS:])
    with suppress(OSError):
        write_whole(cache_folder() / name, json.dumps(kept).encode())
