"""Names of methods: those in this process, entry points of installed packages, and ``module:Class``."""

from __future__ import annotations

import dataclasses
import importlib
import logging
import math
import os
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from riebench.methods.options import options_of
from riebench.util.errors import UserError, unknown

if TYPE_CHECKING:
    from riebench.methods.interface import Method

GROUP = "riebench.methods"
MethodClass = type[Any]
C = TypeVar("C", bound=type[Any])
_REGISTERED: dict[str, MethodClass] = {}


def method(name: str, needs_sae: bool = False, needs_neurons: bool = False) -> Callable[[C], C]:
    """Class decorator that makes a method known under a name; its fields become the method's typed options.

    Args:
        name: as given to ``--method``.
        needs_sae: whether every block it is run on must have an SAE; its option ``k``, if it has one, then counts
            SAE features.
        needs_neurons: whether neurons must be captured for it; its option ``k`` then counts neurons.

    Raises:
        ValueError: if the name is taken by another class.
    """

    def register(cls: C) -> C:
        made: Any = dataclasses.dataclass(frozen=True)(cls)
        made.method_name, made.needs_sae, made.needs_neurons = name, needs_sae, needs_neurons
        points, before = _installed().get(name, []), _REGISTERED.get(name)
        own = any(point.module.partition(".")[0] == cls.__module__.partition(".")[0] for point in points)
        same = before is not None and (before.__module__, before.__qualname__) == (cls.__module__, cls.__qualname__)
        if (points or before is not None) and not (own or same):
            raise ValueError(f"the method name {name!r} is taken by {holder(name)}; choose another")
        _REGISTERED[name] = made
        return made

    return register


def holder(name: str) -> str | None:
    """The distributions that installed a name, or the class that registered it in this process; None if it is free."""
    points = _installed().get(name, [])
    origins = [
        f"{p.dist.name} {p.dist.version} ({p.value})" if p.dist else f"an unnamed distribution ({p.value})"
        for p in points
    ]
    if not origins and name in _REGISTERED:
        origins = [f"{_REGISTERED[name].__module__}:{_REGISTERED[name].__qualname__}"]
    return " and ".join(origins) or None


@cache
def _installed() -> dict[str, list[EntryPoint]]:
    """Entry points by name; more than one where distributions quarrel about it."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, []).append(point)
    return found


@dataclasses.dataclass(frozen=True)
class Known:
    """A name that was registered or installed.

    Attributes:
        name: as given to ``--method``.
        origin: the distribution, or the class if none installed it.
        cls: the method; None if it cannot be used.
        error: why it cannot, in one line.
    """

    name: str
    origin: str
    cls: MethodClass | None = None
    error: str = ""


def catalogue() -> list[Known]:
    """Every name, usable or not, in order; a broken plug-in is an entry with its error."""
    found = []
    for name in sorted({*_REGISTERED, *_installed()}):
        origin = holder(name) or name
        try:
            cls = find(name)
            _check_options(cls)
            found.append(Known(name, origin, cls))
        except UserError as error:
            found.append(Known(name, origin, error=str(error)))
    return found


def method_names() -> list[str]:
    """Every method that can be run; for one that is broken there is a warning on stderr."""
    every = catalogue()
    for known in every:
        if known.error:
            logging.getLogger(__name__).warning("left out: %s", known.error)
    return [known.name for known in every if known.cls]


def find(name: str) -> MethodClass:
    """The class of a method, given by its name or as ``package.module:Class``.

    Raises:
        UserError: if there is no such method, two distributions have that name, its module cannot be imported, or
            it is not a method.
    """
    points = _installed().get(name, [])
    if len(points) > 1:
        raise UserError(
            f"the method name {name!r} is taken twice, by {holder(name)}; uninstall one, or give package.module:Class"
        )
    if name in _REGISTERED:
        cls: Any = _REGISTERED[name]
    elif points or ":" in name:
        cls = _imported(name, points[0].value if points else name)
    else:
        raise unknown("method", name, sorted({*_REGISTERED, *_installed()}))
    if not isinstance(cls, type) or "method_name" not in vars(cls):
        raise UserError(f"{name} is not a method; decorate its class with @riebench.methods.method(name)")
    if not callable(getattr(cls, "plan", None)):
        raise UserError(f"{name} has no plan; give it the function plan(self, seen: Observed) -> Plan")
    found: MethodClass = cls
    if points and found.method_name != name:
        raise UserError(
            f"the method {name!r} calls itself {found.method_name!r} in {holder(name)}; "
            "expected the same name in the entry point and in @method"
        )
    return found


def _imported(name: str, target: str) -> Any:
    """What ``module:attribute`` names; a module that breaks leaves no methods behind."""
    module, _, attribute = target.partition(":")
    if target == name and os.getcwd() not in sys.path:  # a stranger's file lies where one stands
        sys.path.insert(0, os.getcwd())
    before = dict(_REGISTERED)
    try:
        found = importlib.import_module(module)
        for part in attribute.split("."):
            if not hasattr(found, part):
                methods = [other for other, value in vars(found).items() if hasattr(value, "method_name")]
                raise unknown(f"method in {module}", part, methods or ["none"])
            found = getattr(found, part)
        return found
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - importing a stranger's file may raise anything
        _REGISTERED.clear()
        _REGISTERED.update(before)
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"the method {name!r} cannot be loaded ({reason}); expected package.module:Class") from None


def _check_options(cls: MethodClass) -> None:
    try:
        options_of(cls)
    except Exception as error:  # noqa: BLE001 - pydantic raises many kinds for types that it does not know
        reason = str(error).splitlines()[0]
        raise UserError(f"{cls.__module__}:{cls.__qualname__} has an option that cannot be read: {reason}") from None


def create(name: str, options: Mapping[str, Any]) -> Method:
    """A method with its options, given as text or values.

    Raises:
        UserError: for an unknown method or option, a value of the wrong type, or one that a record cannot keep.
    """
    cls = find(name)
    fields = cls.__dataclass_fields__
    for option in options:
        if option not in fields:
            raise (
                unknown(f"option of method {name!r}", option, fields)
                if fields
                else UserError(f"the method {name!r} has no options, but {option!r} was given")
            )
    defaults = {f.name: f.default for f in fields.values() if f.default is not dataclasses.MISSING}
    try:
        made: Method = TypeAdapter(cls).validate_python(defaults | dict(options))  # a default may be wrong, too
    except ValidationError as error:
        first = error.errors()[0]
        at = str(first["loc"][0])
        if first["type"] == "missing":
            raise UserError(f"the method {name!r} needs its option {at!r}; give --option {at}=value") from None
        raise UserError(f"option {at!r} of method {name!r} is {first['input']!r}: {first['msg']}") from None
    except PydanticUserError as error:
        raise UserError(
            f"{cls.__module__}:{cls.__qualname__} has an option that cannot be read: {str(error).splitlines()[0]}"
        ) from None
    for option in fields:
        value = getattr(made, option)
        if not isinstance(value, bool | int | float | str | None):
            wrong = f"is {type(value).__name__}, which a record cannot keep; options are numbers, text or booleans"
            raise UserError(f"option {option!r} of method {name!r} {wrong}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"option {option!r} of method {name!r} is {value}, expected a finite number")
    return made
