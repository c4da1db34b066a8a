"""Methods by name, and a method made with its options."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from riebench.methods.interface import FileReader, Method, NamedByItself, RunChecker
from riebench.methods.options import options_of
from riebench.util.errors import UserError, unknown
from riebench.util.plugins import Listed, Registry, place_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from riebench.pairs import Pair
    from riebench.records.schema import Value

MethodClass = TypeVar("MethodClass", bound=type[Any])


@dataclass(frozen=True)
class MethodEntry:
    """A method by name, before it has options; :func:`method` makes it.

    Attributes:
        name: as given to ``--method``.
        cls: the decorated class.
        needs_sae: whether every block that it is run on must have an SAE.
        needs_neurons: whether the values of neurons must be captured for it.
    """

    name: str
    cls: type[Method]
    needs_sae: bool = False
    needs_neurons: bool = False

    @property
    def place(self) -> str:
        """``package.module:Class``, as records keep it and ``--method`` takes it."""
        return place_of(self.cls)

    @property
    def option_names(self) -> tuple[str, ...]:
        """The names of its options, in the order of the class's fields."""
        return tuple(field.name for field in fields(self.cls))

    def values(self, made: Method) -> dict[str, Value]:
        """All options of a method of this entry, by name."""
        return {name: getattr(made, name) for name in self.option_names}

    def files(self, made: Method) -> Sequence[str]:
        """Paths of the files that a method of this entry reads."""
        return made.files if isinstance(made, FileReader) else ()

    def record_name(self, made: Method) -> str:
        """The name that records give to a method of this entry."""
        return made.record_name if isinstance(made, NamedByItself) else self.name

    @property
    def checks_runs(self) -> bool:
        """Whether a method of this entry may refuse a run, see :meth:`check_run`."""
        return issubclass(self.cls, RunChecker)

    def check_run(self, made: Method, pairs: Sequence[Pair], steps: int) -> None:
        """Let a method of this entry refuse a run.

        Raises:
            UserError: if the method cannot do it.
        """
        if isinstance(made, RunChecker):
            made.check(pairs, steps)


METHODS: Registry[MethodEntry] = Registry("method")
"""Every method; entry points are those of the group ``riebench.methods``."""


@dataclass_transform(frozen_default=True)
def method(name: str, needs_sae: bool = False, needs_neurons: bool = False) -> Callable[[MethodClass], MethodClass]:
    """Make a class a frozen dataclass and register it as a method; its fields become the method's typed options.

    Args:
        name: as given to ``--method``.
        needs_sae: whether every block that it is run on must have an SAE; its option ``k``, if it has one, then counts
            SAE features.
        needs_neurons: whether neurons must be captured for it; its option ``k`` then counts neurons.

    Raises:
        ValueError: if another class has the name.
    """

    def register(cls: MethodClass) -> MethodClass:
        dataclass(frozen=True)(cls)  # it changes the class itself
        METHODS.register(cls, MethodEntry(name, cls, needs_sae, needs_neurons))
        return cls

    return register


def catalogue() -> list[Listed[MethodEntry]]:
    """Every name in order; a method that cannot be used is listed with its error."""
    return [_with_readable_options(listed) for listed in METHODS.listed()]


def method_names() -> list[str]:
    """Every method that can be run; a warning is logged for each broken one."""
    every = catalogue()
    for listed in every:
        if listed.error:
            logging.getLogger(__name__).warning("left out: %s", listed.error)
    return [listed.name for listed in every if listed.entry]


def find(name: str) -> MethodEntry:
    """The entry of a method, by its name, as ``package.module:Class`` or as ``my_file.py:Class``.

    Raises:
        UserError: if there is no such method, two distributions have that name, its module cannot be imported, or
            the object is not a method.
    """
    entry = METHODS.find(name)
    if not callable(getattr(entry.cls, "plan", None)):
        raise UserError(f"{name} has no plan; give it the function plan(self, seen: Observed) -> Plan")
    return entry


def entry_of(made: Method) -> MethodEntry:
    """The entry of a method that was made from its class."""
    return METHODS.entry_of(place_of(type(made)), type(made))


def _with_readable_options(listed: Listed[MethodEntry]) -> Listed[MethodEntry]:
    """The same, broken if an option has a type that a record cannot keep, or the class has no plan."""
    if listed.entry is None:
        return listed
    try:
        options_of(find(listed.name).cls)
    except UserError as error:
        return replace(listed, entry=None, error=str(error))
    except Exception as error:  # noqa: BLE001 - pydantic raises many kinds for types that it does not know
        return replace(listed, entry=None, error=_unreadable(listed.entry, error))
    return listed


def _unreadable(entry: MethodEntry, error: Exception) -> str:
    return f"{entry.place} has an option that cannot be read: {str(error).splitlines()[0]}"


def create(name: str, options: Mapping[str, Any]) -> Method:
    """A method with its options, given as text or values.

    Raises:
        UserError: for an unknown method or option, a value of the wrong type, or one that a record cannot keep.
    """
    entry = find(name)
    for option in options:
        if not entry.option_names:
            raise UserError(f"the method {name!r} has no options; leave out {option!r}")
        if option not in entry.option_names:
            raise unknown(f"option of method {name!r}", option, entry.option_names)
    defaults = {field.name: field.default for field in fields(entry.cls) if field.default is not MISSING}
    try:
        made = TypeAdapter(entry.cls).validate_python(defaults | dict(options))  # a default may be wrong, too
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0])
        if first["type"] == "missing":
            raise UserError(f"the method {name!r} needs its option {option!r}; give --option {option}=value") from None
        raise UserError(f"option {option!r} of method {name!r} is {first['input']!r}: {first['msg']}") from None
    except PydanticUserError as error:
        raise UserError(_unreadable(entry, error)) from None
    for option, value in entry.values(made).items():
        if not isinstance(value, bool | int | float | str | None):
            wrong = f"is {type(value).__name__}, which a record cannot keep; options are numbers, text or booleans"
            raise UserError(f"option {option!r} of method {name!r} {wrong}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"option {option!r} of method {name!r} is {value}, expected a finite number")
    return made
