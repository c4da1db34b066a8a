"""The files that a module's code is written in, and those of what it imports."""

from __future__ import annotations

import ast
import hashlib
import re
import site
import sys
import sysconfig
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path

from riebench.util.files import file_hash

OURS = (
    "riebench",
    "riebench_baselines",
    "baselines",
)  # what these share is covered by the version of the numeric parts
CODE = (".py", ".pyc", *EXTENSION_SUFFIXES)
IMPORTS = re.compile(
    rb"""^[ \t]*import[ \t]+(?P<names>[\w., \t]+)|^[ \t]*from[ \t]+(?P<module>\w+)[\w.]*[ \t]+import\b"""
    rb"""|(?:import_module|__import__)\(\s*["'](?P<called>\w+)""",
    re.MULTILINE,
)
"""A statement that imports, also inside a function, or a call that imports a module by its name."""
TEXT = re.compile(rb"""["']([^"'\\]{1,200})["']""")
"""A short text in a line of code."""
WRITES = re.compile(rb"""write|save|dump|to_csv|to_json|to_parquet|mkdir|[(,=]\s*["'][wax]b?\+?["']""", re.IGNORECASE)
"""What a line of code has that writes a file."""


def is_ours(module_name: str) -> bool:
    """Whether a module is riebench's or one of its baselines."""
    return module_name.partition(".")[0] in OURS


def own_files(module_name: str) -> list[Path]:
    """The files of a module's code, as keys of records have always hashed them; none for a module in no file.

    All files of a stranger's package count, since its code may call any of them; of a single file, also those of its
    folder that it imports, directly or through each other.
    """
    file = getattr(sys.modules.get(module_name), "__file__", None)
    if file is None or not Path(file).is_file():
        return []
    top = getattr(sys.modules.get(module_name.partition(".")[0]), "__file__", None)
    if is_ours(module_name):
        return [Path(file)]
    if top is not None and Path(top).name == "__init__.py":
        return sorted(Path(top).parent.rglob("*.py"))
    return _with_neighbours(Path(file))


def _with_neighbours(file: Path) -> list[Path]:
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
    """The first names of the modules that a file imports: ``a`` for ``import a.b``; none if it is no source."""
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError):  # a module without its source, or a neighbour of another Python
        return set()
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return {name.partition(".")[0] for name in names}


def imported_files(files: Iterable[Path]) -> list[Path]:
    """The files of the modules and packages that code imports, directly or through each other, and its data files.

    They are beside a file of the code or anywhere on Python's path, with or without their source; Python's own modules,
    riebench and installed packages do not count. Data files are those that stand beside a file of the code, or in a
    folder there, and that one of its lines names, except in a call that writes.

    Args:
        files: of the code; the result does not hold them.
    """
    known = set(files)
    found: set[Path] = set()
    waiting = list(known)
    while waiting:
        path = waiting.pop()
        names = _first_names(path) if path.suffix == ".py" else set()
        new = {file for name in names for file in module_files(name, path.parent)} - known - found
        found |= new
        waiting += new
    data = {file for path in known | found for file in _named_data(path)}
    return sorted((found | data) - known)


def module_files(name: str, folder: Path) -> list[Path]:
    """The files of a stranger's module or package that code in a folder would import; none if it is not a stranger's.

    Args:
        name: of the module or package, without dots.
        folder: of the code, which is looked into first.
    """
    if is_ours(name) or name in sys.stdlib_module_names:
        return []
    spec = PathFinder.find_spec(name, [str(folder)]) or _spec_elsewhere(name)
    if spec is None:
        return []
    places = [Path(place) for place in spec.submodule_search_locations or ()]
    files = [file for place in places if not is_installed(place) for file in place.rglob("*") if file.suffix in CODE]
    if not places and spec.has_location and spec.origin is not None:
        files = [Path(spec.origin)]
    return [file for file in files if file.is_file() and not is_installed(file) and "__pycache__" not in file.parts]


def _spec_elsewhere(name: str) -> ModuleSpec | None:
    with suppress(ImportError, ValueError, AttributeError):  # a module may be in a strange state, or its finder raise
        return find_spec(name)
    return None


def hash_of_files(files: Iterable[Path]) -> str:
    """A hash of the names and contents of files, 16 hexadecimal digits; empty for no file.

    Raises:
        OSError: if a file cannot be read.
    """
    facts = sorted((file.name, file_hash(file)) for file in files)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16] if facts else ""


@cache
def _installed_places() -> tuple[Path, ...]:
    """The folders of Python's own modules and of installed packages."""
    places = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    places += [*site.getsitepackages(), site.getusersitepackages()]
    return tuple({Path(place).resolve() for place in places})


def is_installed(file: Path) -> bool:
    """Whether a file or a folder belongs to Python or to an installed package."""
    real = file.resolve()
    return any(real.is_relative_to(place) for place in _installed_places())


def _first_names(file: Path) -> set[str]:
    """As :func:`_imported_by`, faster, and with what is imported by a call."""
    names = set()
    for found in IMPORTS.finditer(file.read_bytes()):
        several = (found["names"] or b"").split(b",")
        names |= {(word.split() or [b""])[0].partition(b".")[0] for word in several}
        names |= {found["module"] or b"", found["called"] or b""}
    return {name.decode() for name in names - {b""}}


def _named_data(file: Path) -> list[Path]:
    """The files below the folder of a file of code that its lines name, other than code and what they write."""
    if file.suffix != ".py":
        return []
    names: set[str] = set()
    for line in file.read_bytes().splitlines():
        words = [word.decode(errors="replace") for word in TEXT.findall(line)]
        if words and (b"__file__" in line or not WRITES.search(line)):
            # Each, or all as of Path(folder) / "data" / "table.npy".
            names |= {word for word in (*words, "/".join(words)) if b"__file__" in line or "." in word[1:]}
    below = [file.parent / name for name in names if not name.startswith(("/", "~"))]
    return [data for data in below if data.suffix not in CODE and _is_file(data)]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a text that is no path
        return False
