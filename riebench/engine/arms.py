"""What a run tries: methods with their options on sets of blocks, each at several strengths."""

from __future__ import annotations

import ast
import hashlib
import inspect
import math
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from riebench.instruments import Instruments
from riebench.lens import FOUR
from riebench.methods import Method, create, find
from riebench.methods.registry import option_fields
from riebench.spec.sweeps import Sweep
from riebench.util.errors import UserError, unknown

OURS = ("riebench", "riebench_baselines")  # what these share is covered by the version of the numeric parts


@dataclass(frozen=True)
class Arm:
    """One method with its options on one set of blocks; every strength of it is one setting."""

    name: str
    options: Mapping[str, Any]
    method: Method
    blocks: tuple[str, ...]
    strengths: tuple[float, ...]

    @property
    def needs_neurons(self) -> bool:
        """Whether neurons must be captured for it."""
        return bool(getattr(self.method, "needs_neurons", False))

    @property
    def needs_sae(self) -> bool:
        """Whether each of its blocks must have an SAE."""
        return bool(getattr(self.method, "needs_sae", False))

    @cached_property
    def code(self) -> str:
        """Hash of the files that the method is written in, so that an edited method makes new records."""
        files = _files(type(self.method))
        if not files:
            return _written_nowhere(type(self.method))
        return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]

    @cached_property
    def with_removal(self) -> Method:
        """The method with ``only_add`` ignored."""
        return replace(self.method, only_add=False) if self.options.get("only_add") else self.method  # type: ignore[type-var]


@cache
def _written_nowhere(method: type[Method]) -> str:
    """What stands for the code of a method that is in no file, as in a notebook: it is another in each process."""
    return uuid.uuid4().hex[:16]


def _files(method: type[Method]) -> list[Path]:
    """The files that a method hangs on: of a stranger's package all, as any of them may be what it calls."""
    try:
        file = inspect.getsourcefile(method)
    except (OSError, TypeError):
        file = None
    if file is None or not Path(file).is_file():
        return []
    package = method.__module__.partition(".")[0]
    top = getattr(sys.modules.get(package), "__file__", None)
    if package in OURS:
        return [Path(file)]
    if top is not None and Path(top).name == "__init__.py":
        return sorted(Path(top).parent.rglob("*.py"))
    return _with_neighbours(Path(file))


def _with_neighbours(file: Path) -> list[Path]:
    """A file, and those files beside it that it imports, or that they import."""
    found: set[Path] = set()
    waiting = [file]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            beside = (file.parent / f"{name}.py" for name in _imported_by(one))
            waiting += [other for other in beside if other.is_file()]
    return sorted(found)


def _imported_by(file: Path) -> set[str]:
    """Names at the top of the modules that a file imports."""
    nodes = list(ast.walk(ast.parse(file.read_bytes())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return {name.partition(".")[0] for name in names}


def block_sets(blocks: Sequence[str], known: Sequence[str], alone: bool) -> list[tuple[str, ...]]:
    """The sets of blocks to run, each in the order in which blocks run.

    Raises:
        UserError: if a block is unknown.
    """
    wanted = [b for name in blocks for b in (FOUR if name == "all" else [name])]
    for name in wanted:
        if name not in known:
            raise unknown("block", name, [*known, "all"])
    together = tuple(sorted(set(wanted), key=list(known).index))
    sets = [together]
    if alone and len(together) > 1:
        sets += [(b,) for b in together]
    return sets


def make_arms(sweeps: Sequence[Sweep], sets: Sequence[tuple[str, ...]], instruments: Instruments) -> list[Arm]:
    """Every method of every sweep with its options on every set of blocks.

    Raises:
        UserError: for an unknown method, an option that none of a sweep's methods has, a block without the SAE
            that a method needs, or a k larger than the number of candidates.
    """
    return [arm for sweep in sweeps for arm in _arms_of(sweep, sets, instruments)]


def _arms_of(sweep: Sweep, sets: Sequence[tuple[str, ...]], instruments: Instruments) -> list[Arm]:
    fields = {name: option_fields(find(name)) for name in sweep.methods}
    for option in [*sweep.options, *(["k"] if sweep.k else [])]:
        if not any(option in known for known in fields.values()):
            every = sorted({name for known in fields.values() for name in known})
            raise unknown(f"option of {', '.join(map(repr, fields))}", option, every or ["none"])
    arms = []
    for name, known in fields.items():
        cls = find(name)
        shared = {o: value for o, value in sweep.options.items() if o in known}
        for k in sweep.k if sweep.k and "k" in known else [None]:
            for blocks in sets:
                candidates = _candidates(cls, blocks, instruments)
                given = shared if k is None else {**shared, "k": _scaled(k, sweep.candidates, candidates)}
                made = create(name, given)
                options = {field: getattr(made, field) for field in known}
                _check_options(str(cls.method_name), options, blocks, candidates)
                arms.append(Arm(str(cls.method_name), options, made, blocks, tuple(sweep.strengths)))
    return arms


def _candidates(cls: Any, blocks: Sequence[str], instruments: Instruments) -> int | None:
    """How many features or neurons a method chooses from, if it chooses."""
    if cls.needs_sae:
        return sum(instruments.sae(block).n_features for block in blocks)
    if cls.needs_neurons:
        infos = [instruments.denoiser.lens.blocks[block] for block in blocks]
        return sum(block.layers * block.neurons for block in infos)
    return None


def _scaled(k: int, of: int | None, candidates: int | None) -> int:
    return k if of is None or candidates is None else max(1, round(k * candidates / of))


def _check_options(name: str, options: Mapping[str, Any], blocks: Sequence[str], candidates: int | None) -> None:
    for option, value in options.items():
        if not (value is None or isinstance(value, (bool, int, float, str))):
            said = f"is {type(value).__name__}, which a record cannot keep; options are numbers, text or booleans"
            raise UserError(f"option {option!r} of method {name!r} {said}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"option {option!r} of method {name!r} is {value}, expected a finite number")
    k = options.get("k")
    if isinstance(k, int) and candidates is not None and k > candidates:
        where = "+".join(blocks)
        raise UserError(f"k is {k}, but {name!r} in {where} has {candidates} to choose from; give a smaller --k")
