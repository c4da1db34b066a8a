"""Extensions by name: installed packages' entry points, ``package.module:name`` and ``my_file.py:name``.

Each kind of extension (methods, models, metrics) has one :class:`Registry`. Nothing is imported before it is used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from pkgutil import resolve_name
from types import FunctionType, ModuleType
from typing import Any, Generic, Protocol, TypeVar

from riebench.util.errors import UserError, unknown
from riebench.util.files import working_folder

EXPECTED = "package.module:name or my_file.py:name"


class Named(Protocol):
    """An entry of a registry: it knows its own name."""

    @property
    def name(self) -> str: ...


Entry = TypeVar("Entry", bound=Named)


@dataclass(frozen=True)
class Listed(Generic[Entry]):
    """A name of a registry, whether its extension can be used or not.

    Attributes:
        name: as users give it.
        origin: the distribution that installed it, or the ``module:name`` that registered it in this process.
        entry: the extension; None if it is broken.
        error: why it is broken, in one line.
    """

    name: str
    origin: str
    entry: Entry | None = None
    error: str = ""


@dataclass(eq=False)
class Registry(Generic[Entry]):
    """All extensions of one kind: registered by a decorator, installed as entry points, or named by their place.

    A decorator calls :meth:`check_free` for a name that is known, then adds its entry to ``registered`` and
    ``decorated``.

    Attributes:
        kind: the noun that messages use, as ``method``. Entry points are those of the group ``riebench.{kind}s``.
        own: name to ``module:name`` of extensions of this package that are no entry points.
        entry_type: the class of entries if the kind has no decorator: an entry point or a place then names an entry, or
            a function without arguments that returns one.
        registered: name to entry, of those that a decorator registered in this process.
        decorated: class or function to the entry that its decorator made.
    """

    kind: str
    entry_type: type[Entry] | None = None
    registered: dict[str, Entry] = field(default_factory=dict)
    decorated: dict[Any, Entry] = field(default_factory=dict)
    own: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def installed(self) -> dict[str, list[EntryPoint]]:
        """Entry points by name; more than one where several distributions have the same name."""
        group = f"riebench.{self.kind}s"
        by_name = {name: [EntryPoint(name, target, group)] for name, target in self.own.items()}
        for point in entry_points(group=group):
            by_name.setdefault(point.name, []).append(point)
        return by_name

    def names(self) -> list[str]:
        """Every name that is registered or installed, sorted."""
        return sorted({*self.registered, *self.installed})

    def check_free(self, name: str, decorated: Any) -> None:
        """Check that a class or function may have a name; one that is defined again, as in a notebook, keeps its name.

        Raises:
            ValueError: if another distribution or another class or function has the name.
        """
        package = decorated.__module__.partition(".")[0]
        if any(point.module.partition(".")[0] == package for point in self.installed.get(name, [])):
            return
        if (holder := self.holder(name)) and self._place_of_name(name) != place_of(decorated):
            raise ValueError(f"the {self.kind} name {name!r} is taken by {holder}; choose another")

    def _place_of_name(self, name: str) -> str | None:
        """The place of the class or function that registered a name; None if none did."""
        if name not in self.registered:
            return None
        return next(place_of(decorated) for decorated, entry in reversed(self.decorated.items()) if entry.name == name)

    def holder(self, name: str) -> str | None:
        """The distributions that installed a name, else the place that registered it; None if the name is free."""
        origins = [
            f"{p.dist.name} {p.dist.version} ({p.value})" if p.dist else f"riebench ({p.value})"
            for p in self.installed.get(name, [])
        ]
        return " and ".join(origins) or self._place_of_name(name)

    def find(self, name: str) -> Entry:
        """The entry of a name, of ``package.module:name`` or of ``my_file.py:name``.

        Raises:
            UserError: if nothing has the name, two distributions have it, its module cannot be imported, or the object
                is no extension of this kind.
        """
        points = self.installed.get(name, [])
        if len(points) > 1:
            end = f"uninstall one, or give {EXPECTED}"
            raise UserError(f"the {self.kind} name {name!r} is taken twice, by {self.holder(name)}; {end}")
        if not points and ":" not in name:
            if name.endswith(".py"):
                raise UserError(f"the {self.kind} {name!r} is a file; name the {self.kind} in it, as {name}:NAME")
            if name not in self.registered:
                raise unknown(self.kind, name, self.names())
            return self.registered[name]
        target = f"{points[0].module}:{points[0].attr}" if points else name
        with one_line_errors(self.kind, name):
            entry = self._entry_of(name, _load(self.kind, target, self._is_like_one))
        if points and entry.name != name:
            same = "expected the same name in the entry point and in the extension"
            raise UserError(f"the {self.kind} {name!r} calls itself {entry.name!r} in {self.holder(name)}; {same}")
        return entry

    def listed(self) -> list[Listed[Entry]]:
        """Every name in order, see :meth:`listing`."""
        return [self.listing(name) for name in self.names()]

    def listing(self, name: str) -> Listed[Entry]:
        """A name, or a place as :meth:`find` takes it; a broken extension is listed with its error."""
        origin = self.holder(name) or name
        try:
            return Listed(name, origin, self.find(name))
        except UserError as error:
            return Listed(name, origin, error=str(error))

    def _entry_of(self, name: str, loaded: Any) -> Entry:
        """The entry of a loaded object.

        Raises:
            UserError: if the object is no extension of this kind.
        """
        if self.entry_type is None:
            for decorated, entry in self.decorated.items():
                if decorated is loaded:
                    return entry
            raise UserError(f"{name} is not a {self.kind}; decorate it with @riebench.{self.kind}s.{self.kind}(...)")
        entry = loaded() if callable(loaded) else loaded
        if not isinstance(entry, self.entry_type):
            expected = f"riebench.{self.kind}s.{self.entry_type.__name__}"
            raise UserError(f"{name} is a {type(entry).__name__}, expected a {expected}")
        return entry

    def _is_like_one(self, loaded: Any) -> bool:
        """Whether an object of a module may be an extension of this kind: those are proposed for unknown names."""
        if self.entry_type is None:
            return any(loaded is decorated for decorated in self.decorated)  # its module may hold unhashable objects
        return isinstance(loaded, self.entry_type | FunctionType)


def place_of(decorated: Any) -> str:
    """``module:name`` of a class or function."""
    return f"{decorated.__module__}:{decorated.__qualname__}"


def load_object(kind: str, target: str) -> Any:
    """The object that ``package.module:name``, ``my_file.py:name`` or ``path/to/my_file:name`` names.

    Modules are looked for in the working directory, too. A file is imported as a module of its own name, with its
    folder on the path, so that it can import its neighbours.

    Args:
        kind: the noun that messages use for the object, as ``dictionary``.
        target: its place.

    Raises:
        UserError: if the module cannot be imported or has no such name.
    """
    with one_line_errors(kind, target):
        return _load(kind, target, callable)


@contextmanager
def one_line_errors(kind: str, name: str) -> Iterator[None]:
    """Turn whatever a stranger's code raises inside the ``with`` statement, ``sys.exit`` included, into a UserError."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's file may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"the {kind} {name!r} cannot be loaded ({reason}); expected {EXPECTED}") from None


def _load(kind: str, target: str, is_like_one: Callable[[Any], bool]) -> Any:
    location, _, path = target.partition(":")
    module = _imported(location)
    try:
        return resolve_name(f"{module.__name__}:{path}")
    except AttributeError:
        like_one = [name for name, value in vars(module).items() if name[:1] != "_" and is_like_one(value)]
        raise unknown(kind, path, like_one or ["none"], f"in {location}") from None


def _imported(location: str) -> ModuleType:
    """The module of a dotted name, or of a file with or without its ``.py``."""
    file = None
    if os.sep in location or location.endswith(".py"):
        file = Path(f"{location.removesuffix('.py')}.py").resolve(strict=True)
    folder = str(file.parent) if file else working_folder()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module = import_module(file.stem if file else location)
    if file and Path(module.__file__ or "").resolve() != file:
        raise ImportError(f"another module is called {file.stem} ({module.__file__}); rename {file}")
    return module
