"""Versions and hashes of the code that makes records."""

from __future__ import annotations

import ast
import hashlib
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType
from typing import Any

from riebench.util.code_files import hash_of_files, imported_files, is_ours, own_files
from riebench.util.errors import UserError
from riebench.version import __version__

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
        UserError: if such a file cannot be read, or the code was edited since this process loaded it.
    """
    files = own_files(code.__module__)
    return (
        hashlib.sha256(b"".join([*map(_as_loaded, files), *_contents(code, reads)])).hexdigest()[:16]
        if files
        else _UNWRITTEN.setdefault(id(code), uuid.uuid4().hex[:16])
    )


_UNWRITTEN: dict[int, str] = {}
"""Identity of a class or function in no file to the hash that it has in this process."""
_LOADED: dict[Path, str] = {}
"""File of code to the hash of its content when this process met it first."""


def import_hash(code: type[Any] | Callable[..., Any]) -> str:
    """A hash of what a class or function imports beside the files of :func:`code_hash`; empty if there is nothing.

    Raises:
        UserError: if a file was edited since this process loaded it.
    """
    if is_ours(code.__module__):
        return ""
    files = imported_files(own_files(code.__module__))
    for file in files:
        _as_loaded(file)
    return hash_of_files(files)


def remember_code(code: type[Any] | Callable[..., Any]) -> None:
    """Note the content of the files of a class or function that is being loaded, so that a later edit is seen."""
    with suppress(OSError):
        own = own_files(code.__module__)
        _LOADED.pop(Path(getattr(sys.modules.get(code.__module__), "__file__", None) or ""), None)  # it is loaded now
        for file in [*own, *([] if is_ours(code.__module__) else imported_files(own))]:
            if file not in _LOADED:
                _as_loaded(file)


def _as_loaded(file: Path) -> bytes:
    """The content of a file of code.

    Raises:
        UserError: if it is not what it was when this process met it first: the code that runs is older.
    """
    content = file.read_bytes()
    now = hashlib.sha256(content).hexdigest()
    if _LOADED.setdefault(file, now) != now:
        raise UserError(f"{file} was edited after this Python process had loaded it; start a new process")
    _refuse_set_constants(file, content)
    return content


def _refuse_set_constants(file: Path, content: bytes) -> None:
    """Check that constants of a stranger's module are what its file says: a hash of the file stands for them.

    Raises:
        UserError: if a name that the file gives one literal value has another one in this process.
    """
    modules = [module for module in [*sys.modules.values()] if isinstance(module, ModuleType)]
    loaded = next((module for module in modules if vars(module).get("__file__") == str(file)), None)
    if loaded is None or is_ours(loaded.__name__) or file.suffix != ".py":
        return
    tree = ast.parse(content)
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    stored = Counter(node.id for node in names if isinstance(node.ctx, ast.Store))
    for line in tree.body:
        if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant):
            for name in (target.id for target in line.targets if isinstance(target, ast.Name)):
                now = vars(loaded).get(name)
                if stored[name] == 1 and (type(now), now) != (type(line.value.value), line.value.value):
                    mend = "write it into the file, or make it an option"
                    raise UserError(f"{name} is {now!r} in this process and {line.value.value!r} in {file}; {mend}")


def _contents(code: type[Any] | Callable[..., Any], reads: Iterable[str]) -> list[bytes]:
    try:
        return [Path(file).read_bytes() for file in reads]
    except OSError as error:
        raise UserError(f"a file that {code.__qualname__} reads cannot be read: {error}") from None
