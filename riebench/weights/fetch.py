"""Download the parts of a model: resumable, at a fixed revision, every file checked by its hash."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import requests

from riebench.util.errors import UserError
from riebench.util.files import BLOCK, file_hash
from riebench.weights.parts import Download, HubFiles, Part

LEDGER = "fetched.json"
ROOM = 1.05  # a little more than the files need
Report = Callable[[str, int, int], None]
"""Called with a file's name, bytes that are there and bytes in all."""


@dataclass(frozen=True)
class RemoteFile:
    """A file as its source describes it: name, bytes, and its SHA-256 where that is published."""

    name: str
    size: int
    sha256: str | None


def fetch(
    parts: Sequence[Part], root: Path, only: Collection[str] = (), report: Report = lambda *_: None
) -> Iterator[tuple[Part, str]]:
    """Download what is not there yet; yields each part when it is complete, with its revision.

    Args:
        parts: of a model.
        root: the weights folder.
        only: names of parts; empty for all.
        report: is told of progress within one file.

    Raises:
        UserError: if a source cannot be reached, there is no room, or a file is not what was published.
    """
    root.mkdir(parents=True, exist_ok=True)
    for part in parts:
        if only and part.name not in only:
            continue
        ledger = read_ledger(root)
        known = ledger.get(part.name, {})
        source = part.source
        if isinstance(source, Download):
            target = root / part.folder / source.name
            _download(source, target, report)
            revision = file_hash(target)
            entry: dict[str, Any] = {"url": source.url, "revision": revision, "files": {source.name: revision}}
        else:
            revision, files = describe_repository(source, known.get("revision"))
            _make_room(root, root / part.folder, files)
            entry = {"repo": source.repo, "revision": revision, "files": {}}
            for file in files:
                entry["files"][file.name] = _from_hub(source, revision, file, root / part.folder, report)
        ledger[part.name] = entry
        (root / LEDGER).write_text(json.dumps(ledger, indent=2) + "\n")
        yield part, revision


def read_ledger(root: Path) -> dict[str, Any]:
    """What was fetched into a weights folder: part to repository, revision and hashes."""
    try:
        ledger: dict[str, Any] = json.loads((root / LEDGER).read_text())
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError:
        raise UserError(f"{root / LEDGER} is damaged; remove it, no file that is there is fetched again") from None
    return ledger


def describe_repository(source: HubFiles, kept: str | None = None) -> tuple[str, list[RemoteFile]]:
    """Commit and files of a repository on the hub; a branch is the commit that it was when first fetched.

    Raises:
        UserError: if the hub cannot be reached, or none of its files is one of those asked for.
    """
    from huggingface_hub import HfApi

    wanted = kept or source.revision
    try:
        info = HfApi().model_info(source.repo, revision=wanted, files_metadata=True, timeout=20)
    except Exception as error:  # noqa: BLE001 - whatever the HTTP library of the hub's client raises
        said = str(error).strip().splitlines()[0]
        raise UserError(f"https://huggingface.co/{source.repo} cannot be reached: {said}; try again later") from None
    published = dict(source.sha256)
    files = [
        RemoteFile(s.rfilename, s.size or 0, published.get(s.rfilename) or (s.lfs.sha256 if s.lfs else None))
        for s in info.siblings or []
        if any(fnmatch(s.rfilename, pattern) for pattern in source.patterns)
    ]
    if not files:
        raise UserError(
            f"https://huggingface.co/{source.repo} has none of {', '.join(source.patterns[:3])} at {wanted}"
        )
    return str(info.sha), files


def _make_room(root: Path, folder: Path, files: list[RemoteFile]) -> None:
    need = sum(f.size for f in files if not (folder / f.name).is_file())
    free = shutil.disk_usage(root).free
    if need * ROOM > free:
        raise UserError(f"{root} has {free / 1e9:.1f} GB free, {need / 1e9:.1f} GB are needed; name another --weights")


def _from_hub(source: HubFiles, revision: str, file: RemoteFile, folder: Path, report: Report) -> str:
    """One file of a repository, checked; gives its SHA-256."""
    from huggingface_hub import hf_hub_download

    target = folder / file.name
    report(file.name, target.stat().st_size if target.is_file() else 0, file.size)
    if not (target.is_file() and target.stat().st_size == file.size):
        try:
            hf_hub_download(source.repo, file.name, revision=revision, local_dir=folder)
        except Exception as error:  # noqa: BLE001 - whatever the HTTP library of the hub's client raises
            said = str(error).strip().splitlines()[0]
            raise UserError(f"{source.repo}/{file.name} stopped: {said}; the same command goes on from there") from None
    return _checked(target, file.sha256)


def _checked(path: Path, sha256: str | None) -> str:
    """The SHA-256 of a file; one that does not begin as it should is put aside.

    Raises:
        UserError: if it is another file than was published.
    """
    found = file_hash(path)
    if sha256 and not found.startswith(sha256):
        aside = path.with_name(path.name + ".damaged")
        path.replace(aside)
        raise UserError(f"{path.name} has the SHA-256 {found[:16]}..., expected {sha256[:16]}...; it is now {aside}")
    return found


def _download(source: Download, target: Path, report: Report) -> None:
    """One file from an address; a part of it that is there is not fetched again.

    Raises:
        UserError: if the address cannot be reached or the file is another one than was published.
    """
    if target.is_file():
        _checked(target, source.sha256)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    have = part.stat().st_size if part.is_file() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    try:
        with requests.get(source.url, headers=headers, stream=True, timeout=30) as answer:
            if answer.status_code != requests.codes.requested_range_not_satisfiable:
                answer.raise_for_status()
                _append(answer, part, have, source.name, report)
            # Otherwise all of it is there already, or it is damaged; the hash decides.
    except OSError as error:  # of the disk, and of requests
        raise UserError(f"{source.url} stopped: {error}; the same command goes on from there") from None
    _checked(part, source.sha256)
    part.replace(target)


def _append(answer: requests.Response, part: Path, have: int, name: str, report: Report) -> None:
    if answer.status_code != requests.codes.partial_content:  # a server that cannot resume starts over
        have = 0
    total = have + int(answer.headers.get("Content-Length", 0))
    with part.open("ab" if have else "wb") as file:
        for block in answer.iter_content(BLOCK):
            file.write(block)
            have += len(block)
            report(name, have, total)
