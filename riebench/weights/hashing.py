"""Fingerprints of weight files, worked out once for each file and kept."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

BLOCK = 1 << 22


def cache_folder() -> Path:
    """The user's cache folder of riebench."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "riebench"


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(paths: Iterable[Path], root: Path) -> str:
    """A short hash of files, their names under ``root`` and contents; a file that is unchanged is not read again."""
    digest = hashlib.sha256()
    known = _load()
    before = len(known)
    for path in sorted(paths):
        real = path.resolve()
        stat = real.stat()
        key = f"{real}|{stat.st_size}|{stat.st_mtime_ns}"
        if key not in known:
            known[key] = file_hash(real)
        digest.update(str(path.relative_to(root)).encode())
        digest.update(known[key].encode())
    if len(known) != before:
        _keep(known)
    return digest.hexdigest()[:16]


def _load() -> dict[str, str]:
    try:
        known: dict[str, str] = json.loads((cache_folder() / "hashes.json").read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return known


def _keep(known: dict[str, str]) -> None:
    """Keep the hashes; a cache that cannot be written costs time, nothing else."""
    path = cache_folder() / "hashes.json"
    part = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(known))
        os.replace(part, path)
    except OSError:
        return
