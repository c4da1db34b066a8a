"""Versions and hashes of the code that makes records."""

from __future__ import annotations

import ast
import hashlib
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from riebench.util.errors import UserError
from riebench.version import __version__

OURS = (
    "riebench",
    "riebench_baselines",
    "baselines",
)  # what these share is covered by the version of the numeric parts
COMPUTING = ("torch", "diffusers", "transformers", "open_clip_torch", "lpips", "numpy")


@cache
def code_version() -> dict[str, str | bool | None]:
    """Versions of this package and of those that compute; commit and changes, if it lies in its own git checkout."""
    package = Path(__file__).parents[1]
    versions: dict[str, str | bool | None] = {"riebench": __version__}
    for name in COMPUTING:
        versions[name] = next((dist.version for dist in distributions(name=name)), None)

    def git(*words: str, at: str | Path = package) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(at), *words], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # A site-packages folder inside somebody else's repository is not our checkout.
    top = git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != package.parent.resolve():
        return {**versions, "commit": None, "dirty": None}
    return {
        **versions,
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--", "riebench", "baselines", at=top)),
    }


def code_hash(code: type[Any] | Callable[..., Any], reads: Iterable[str] = ()) -> str:
    """A hash of the files that a class or function is written in, and of the files that it reads.

    All files of a stranger's package are hashed, since it may call any of them. A class or function in no file, as in
    a notebook, has another hash in each process.

    Args:
        code: the class of a method, or the function of a metric.
        reads: paths of the files that it reads.

    Raises:
        UserError: if such a file cannot be read.
    """
    files = _files_of(code)
    try:
        read = b"".join(Path(file).read_bytes() for file in reads)
    except OSError as error:
        raise UserError(f"a file that {code.__qualname__} reads cannot be read: {error}") from None
    return (
        hashlib.sha256(b"".join([*(f.read_bytes() for f in files), read])).hexdigest()[:16]
        if files
        else _UNWRITTEN.setdefault(id(code), uuid.uuid4().hex[:16])
    )


_UNWRITTEN: dict[int, str] = {}
"""Identity of a class or function in no file to the hash that it has in this process."""


def _files_of(code: type[Any] | Callable[..., Any]) -> list[Path]:
    file = getattr(sys.modules.get(code.__module__), "__file__", None)  # a decorator's wrapper is in another file
    if file is None or not Path(file).is_file():
        return []
    package = code.__module__.partition(".")[0]
    top = getattr(sys.modules.get(package), "__file__", None)
    if package in OURS:
        return [Path(file)]
    if top is not None and Path(top).name == "__init__.py":
        return sorted(Path(top).parent.rglob("*.py"))
    return _with_neighbours(Path(file))


def _with_neighbours(file: Path) -> list[Path]:
    """A file and the files of its folder that it imports, directly or through each other."""
    files: set[Path] = set()
    waiting = [file]
    while waiting:
        path = waiting.pop()
        if path not in files:
            files.add(path)
            neighbours = (file.parent / f"{name}.py" for name in _imported_by(path))
            waiting += [neighbour for neighbour in neighbours if neighbour.is_file()]
    return sorted(files)


def _imported_by(file: Path) -> set[str]:
    """The first names of the modules that a file imports: ``a`` for ``import a.b``."""
    nodes = list(ast.walk(ast.parse(file.read_bytes())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return {name.partition(".")[0] for name in names}
