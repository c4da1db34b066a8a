"""Fingerprints of weight files, worked out once for each file and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from riebench.util.user_cache import keep_facts, read_facts

BLOCK = 1 << 22
FILE = "hashes.json"


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
    known = read_facts(FILE)
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
        keep_facts(FILE, known)
    return digest.hexdigest()[:16]
