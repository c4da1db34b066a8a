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
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from riebench.methods.options import options_of
from riebench.methods.plan import Method
from riebench.util.errors import UserError, unknown

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
        taken = holder(name)
        if taken is not None and not _claims(name, cls):
            raise ValueError(f"the method name {name!r} is taken by {taken}; choose another")
        made.method_name = name
        made.needs_sae = needs_sae
        made.needs_neurons = needs_neurons
        _REGISTERED[name] = made
        return made

    return register


def holder(name: str) -> str | None:
    """Who has a name: the installed distributions, or the class that registered it in this process."""
    if name in _installed():
        return " and ".join(map(_origin, _installed()[name]))
    return _target(_REGISTERED[name]) if name in _REGISTERED else None


def _claims(name: str, cls: MethodClass) -> bool:
    """Whether a name is this class's own: registered by it before, or an entry point of the package it is in."""
    if name in _REGISTERED:
        return _target(_REGISTERED[name]) == _target(cls)
    return cls.__module__.split(".")[0] in {point.module.split(".")[0] for point in _installed()[name]}


def _target(cls: MethodClass) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _origin(point: EntryPoint) -> str:
    """A distribution and what it names, as ``riebench 0.1.0 (riebench_baselines.sae:SAETransfer)``."""
    made_by = f"{point.dist.name} {point.dist.version}" if point.dist else "an unnamed distribution"
    return f"{made_by} ({point.module}:{point.attr})"


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
            logging.getLogger(__name__).warning("riebench: left out: %s", known.error)
    return [known.name for known in every if known.cls]


def find(name: str) -> MethodClass:
    """The class of a method, given by its name or as ``package.module:Class``.

    Raises:
        UserError: if there is no such method, two distributions have that name, its module cannot be imported, or
            what is there is no method.
    """
    points = _installed().get(name, [])
    if len(points) > 1:
        raise UserError(
            f"the method name {name!r} is taken twice, by {holder(name)}; uninstall one, or give package.module:Class"
        )
    if name in _REGISTERED:
        return _checked(_REGISTERED[name], _target(_REGISTERED[name]))
    if ":" not in name and not points:
        raise unknown("method", name, sorted({*_REGISTERED, *_installed()}))
    module, _, attribute = (points[0].value if points else name).partition(":")
    if not points and os.getcwd() not in sys.path:  # a stranger's file lies where one stands
        sys.path.insert(0, os.getcwd())
    cls = _checked(_imported(name, module, attribute), f"{module}:{attribute}")
    if points and cls.method_name != name:
        raise UserError(
            f"the method {name!r} calls itself {cls.method_name!r} in {_origin(points[0])}; "
            "expected the same name in the entry point and in @method"
        )
    return cls


def _imported(name: str, module: str, attribute: str) -> Any:
    before = dict(_REGISTERED)
    try:
        found = importlib.import_module(module)
        for part in attribute.split("."):
            if not hasattr(found, part):
                there = [other for other, value in vars(found).items() if hasattr(value, "method_name")]
                raise unknown(f"method in {module}", part, there or ["none"])
            found = getattr(found, part)
        return found
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - importing a stranger's file may raise anything
        _REGISTERED.clear()  # what a module registered before it broke is not there
        _REGISTERED.update(before)
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"the method {name!r} cannot be loaded ({said}); expected package.module:Class") from None


def _checked(cls: Any, target: str) -> MethodClass:
    """A class that is decorated itself and has a plan."""
    if not isinstance(cls, type) or "method_name" not in vars(cls):
        raise UserError(f"{target} is not a method; decorate its class with @riebench.methods.method(name)")
    if not callable(getattr(cls, "plan", None)):
        raise UserError(f"{target} has no plan; give it the function plan(self, seen: Observed) -> Plan")
    return cls


def _check_options(cls: MethodClass) -> None:
    try:
        options_of(cls)
    except Exception as error:  # noqa: BLE001 - pydantic raises many kinds for types that it does not know
        reason = str(error).splitlines()[0]
        raise UserError(f"{_target(cls)} has an option that cannot be read: {reason}") from None


def option_fields(cls: MethodClass) -> dict[str, dataclasses.Field[Any]]:
    """The options of a method by name."""
    return {f.name: f for f in dataclasses.fields(cls)}


def create(name: str, options: Mapping[str, Any]) -> Method:
    """A method with its options, given as text or values.

    Raises:
        UserError: for an unknown method or option, a value of the wrong type, or one that a record cannot keep.
    """
    cls = find(name)
    fields = option_fields(cls)
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
        raise UserError(f"{_target(cls)} has an option that cannot be read: {str(error).splitlines()[0]}") from None
    for option in fields:
        value = getattr(made, option)
        if not isinstance(value, bool | int | float | str | None):
            wrong = f"is {type(value).__name__}, which a record cannot keep; options are numbers, text or booleans"
            raise UserError(f"option {option!r} of method {name!r} {wrong}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"option {option!r} of method {name!r} is {value}, expected a finite number")
    return made
