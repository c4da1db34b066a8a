"""Names of methods: those in this process, entry points of installed packages, and ``module:Class``."""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from riebench.errors import UserError, unknown
from riebench.methods.plan import Method

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
        taken = _target(_REGISTERED[name]) if name in _REGISTERED else _installed().get(name)
        if taken is not None and taken != _target(cls):
            raise ValueError(f"the method name {name!r} is taken by {taken}; choose another")
        made.method_name = name
        made.needs_sae = needs_sae
        made.needs_neurons = needs_neurons
        _REGISTERED[name] = made
        return made

    return register


def _target(cls: MethodClass) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


@cache
def _installed() -> dict[str, str]:
    """Entry points by name; of two with one name, the first counts and the second is refused when it registers."""
    found: dict[str, str] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, point.value)
    return found


def names() -> list[str]:
    """Every method that can be named."""
    return sorted({*_REGISTERED, *_installed()})


def find(name: str) -> MethodClass:
    """The class of a method, given by its name or as ``package.module:Class``.

    Raises:
        UserError: if there is no such method, or its module cannot be imported.
    """
    if name in _REGISTERED:
        return _REGISTERED[name]
    installed = _installed()
    target = name if ":" in name else installed.get(name)
    if target is None:
        raise unknown("method", name, names())
    module, _, attribute = target.partition(":")
    if name == target and os.getcwd() not in sys.path:  # a stranger's file lies where one stands
        sys.path.insert(0, os.getcwd())
    try:
        cls: MethodClass = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # noqa: BLE001 - importing a stranger's file may raise anything
        said = f"{type(error).__name__}: {error}"
        raise UserError(f"the method {name!r} cannot be loaded ({said}); expected package.module:Class") from None
    if not hasattr(cls, "method_name"):
        raise UserError(f"{target} is not a method; decorate its class with @riebench.methods.method(name)")
    return cls


def option_fields(cls: MethodClass) -> dict[str, dataclasses.Field[Any]]:
    """The options of a method by name."""
    return {f.name: f for f in dataclasses.fields(cls)}


def create(name: str, options: Mapping[str, Any]) -> Method:
    """A method with its options, given as text or values.

    Raises:
        UserError: for an unknown method or option, or a value of the wrong type.
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
    try:
        return TypeAdapter(cls).validate_python(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        raise UserError(f"option {at!r} of method {name!r} is {first['input']!r}: {first['msg']}") from None
