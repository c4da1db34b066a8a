"""Write a package with a new method, from the templates of the folder ``template``."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from string import Template

from riebench.methods.registry import METHODS
from riebench.util.errors import UserError

LONGEST = 30  # letters; a longer name breaks lines in the written files
RESERVED = {"all"}
"""Names with a meaning of their own in ``--method``."""


def write_method(name: str, out: Path | None = None) -> list[Path]:
    """Write a package with one method, its entry point, a test and a README.

    Args:
        name: of the method, lower-case words with dashes between.
        out: folder of the package; ``riebench-NAME`` unless given. It must be new or empty.

    Returns:
        The files that were written.

    Raises:
        UserError: if the name is malformed or taken, or the folder is not empty or cannot be written.
    """
    words = _words(name)
    module = "_".join(["riebench", *words])
    filled = {
        "name": name,
        "distribution": f"riebench-{name}",
        "module": module,
        "class_name": "".join(word.capitalize() for word in words) + "Method",
    }
    folder = out or Path(filled["distribution"])
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{str(folder)!r} exists and is not empty; give another folder with --out")
    targets = {
        "pyproject.toml": folder / "pyproject.toml",
        "README.md": folder / "README.md",
        "method.py": folder / f"{module}.py",
        "test_method.py": folder / "tests" / f"test_{module}.py",
    }
    try:
        for template, target in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            source = files("riebench.methods") / "template" / f"{template}.in"
            text = Template(source.read_text(encoding="utf-8")).substitute(filled)
            target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{str(folder)!r} cannot be written: {error.strerror or error}") from None
    return list(targets.values())


def _words(name: str) -> list[str]:
    """The words of a name; UserError if the name is malformed or taken."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > LONGEST:
        near = "-".join(re.findall(r"[a-z0-9]+", name.lower()))[:LONGEST].strip("-") or "mean-shift"
        expected = f"at most {LONGEST} letters: lower-case words with dashes between, as {near!r}"
        raise UserError(f"the method name is {name!r}; expected {expected}")
    if name in RESERVED:
        raise UserError(f"the method name {name!r} stands for every method in --method; choose another")
    taken = METHODS.holder(name)
    if taken is not None:
        raise UserError(f"the method name {name!r} is taken by {taken}; choose another")
    return name.split("-")
