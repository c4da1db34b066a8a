"""Methods by name, and a method made with its options."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from riebench.methods.interface import Method, RunChecker
from riebench.methods.options import options_of
from riebench.records.code import remember_code
from riebench.records.schema import fits_a_record
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
        place: ``package.module:Class``, as records keep it and ``--method`` takes it.
        option_names: the names of its options, in the order of the class's fields.
        checks_runs: whether it may refuse a run, see :meth:`check_run`.
        needs_sae: whether every block that it is run on must have an SAE.
        needs_neurons: whether the values of neurons must be captured for it.
        takes_transcoders: whether an SAE may be a transcoder, which encodes the values at another site.
    """

    name: str
    cls: type[Method]
    place: str
    option_names: tuple[str, ...]
    checks_runs: bool
    needs_sae: bool
    needs_neurons: bool
    takes_transcoders: bool

    def own_option(self, name: str) -> str:
        """The name of an option in the class and in records, which may differ from a name that it is given by."""
        names: Mapping[str, str] = getattr(self.cls, "other_names", {})
        return names.get(name, name)

    @property
    def acts_outside(self) -> bool:
        """Whether the method changes nothing inside the denoiser, as its class says in ``acts_outside``."""
        return bool(getattr(self.cls, "acts_outside", False))

    def check_intervals(self, intervals: Sequence[Sequence[int] | None]) -> None:
        """Refuse steps for a method that changes nothing in any step.

        Raises:
            UserError: if there are such steps.
        """
        if self.acts_outside and any(interval is not None for interval in intervals):
            why = "changes nothing inside the denoiser, so that on_steps has no effect"
            raise UserError(f"the method {self.name!r} {why}; leave out on_steps, or the method")

    @property
    def required_options(self) -> tuple[str, ...]:
        """The names of the options without a default."""
        absent = (MISSING, MISSING)
        return tuple(field.name for field in fields(self.cls) if (field.default, field.default_factory) == absent)

    def create(self, options: Mapping[str, Any]) -> Method:
        """The method with its options, given as text or values.

        Raises:
            UserError: for an unknown option, a value of the wrong type, one that a record cannot keep, or no plan.
        """
        self.check_plan()
        if len(set(map(self.own_option, options))) < len(options):
            twice = next(name for name in options if self.own_option(name) != name)
            raise UserError(f"option {twice!r} of method {self.name!r} is {self.own_option(twice)!r}; give one of them")
        options = {self.own_option(name): value for name, value in options.items()}
        for option in options:
            if not self.option_names:
                raise UserError(f"the method {self.name!r} has no options; leave out {option!r}")
            if option not in self.option_names:
                raise unknown("option", option, self.option_names, f"of method {self.name!r}")
        defaults = {field.name: field.default for field in fields(self.cls) if field.default is not MISSING}
        try:
            made = TypeAdapter(self.cls).validate_python(defaults | dict(options))  # a default may be wrong, too
        except ValidationError as error:
            first = error.errors()[0]
            option = str(first["loc"][0])
            if first["type"] == "missing":
                wrong = f"the method {self.name!r} needs its option {option!r}; give --option {option}=value"
                raise UserError(wrong) from None
            raise UserError(
                f"option {option!r} of method {self.name!r} is {first['input']!r}: {first['msg']}"
            ) from None
        except PydanticUserError as error:
            raise UserError(self.unreadable(error)) from None
        for option, value in self.values(made).items():
            if not isinstance(value, bool | int | float | str | None):
                wrong = f"is {type(value).__name__}, which a record cannot keep; options are numbers, text or booleans"
                raise UserError(f"option {option!r} of method {self.name!r} {wrong}")
            if isinstance(value, int) and not fits_a_record(value):
                raise UserError(f"option {option!r} of method {self.name!r} is {value}, which is beyond 64 bits")
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"option {option!r} of method {self.name!r} is {value}, expected a finite number")
        return made

    def check_plan(self) -> None:
        """Check that the class can plan.

        Raises:
            UserError: if it has no function ``plan``.
        """
        if not callable(getattr(self.cls, "plan", None)):
            raise UserError(f"{self.name} has no plan; give it the function plan(self, seen: Observed) -> Plan")

    def unreadable(self, error: Exception) -> str:
        """The message for an option whose type raised an error."""
        return f"{self.place} has an option that cannot be read: {str(error).splitlines()[0]}"

    def values(self, made: Method) -> dict[str, Value]:
        """All options of a method of this entry, by name."""
        return {name: getattr(made, name) for name in self.option_names}

    def check_run(self, made: Method, pairs: Sequence[Pair], steps: int) -> None:
        """Let a method of this entry refuse a run.

        Raises:
            UserError: if the method cannot do it.
        """
        if isinstance(made, RunChecker):
            made.check(pairs, steps)


METHODS: Registry[MethodEntry] = Registry("method")
"""Every method; entry points are those of the group ``riebench.methods``."""
find = METHODS.find


@dataclass_transform(frozen_default=True)
def method(
    name: str, needs_sae: bool = False, needs_neurons: bool = False, takes_transcoders: bool = False
) -> Callable[[MethodClass], MethodClass]:
    """Make a class a frozen dataclass and register it as a method; its fields become the method's typed options.

    Args:
        name: as given to ``--method``.
        needs_sae: whether every block that it is run on must have an SAE; its option ``k``, if it has one, then counts
            SAE features.
        needs_neurons: whether neurons must be captured for it; its option ``k`` then counts neurons.
        takes_transcoders: whether it encodes by :meth:`Observed.codes` or the values at :meth:`Observed.read_site`
            alone, so that an SAE may be a transcoder.

    Raises:
        ValueError: if another class has the name.
    """

    def register(cls: MethodClass) -> MethodClass:
        dataclass(frozen=True)(cls)  # it changes the class itself
        remember_code(cls)
        if name in METHODS.registered or name in METHODS.installed:
            METHODS.check_free(name, cls)
        option_names = tuple(field.name for field in fields(cls))
        needs = (needs_sae, needs_neurons, takes_transcoders)
        METHODS.registered[name] = METHODS.decorated[cls] = MethodEntry(
            name, cls, place_of(cls), option_names, issubclass(cls, RunChecker), *needs
        )
        return cls

    return register


def catalogue() -> list[Listed[MethodEntry]]:
    """Every name in order; a method that cannot be used is listed with its error."""
    return [_with_readable_options(listed) for listed in METHODS.listed()]


def method_names() -> list[str]:
    """Every method that runs without an option given; a warning is logged for each other one."""
    names = []
    for listed in catalogue():
        required = listed.entry.required_options if listed.entry else ()
        reason = listed.error or (f"the method {listed.name!r} needs its option {required[0]!r}" if required else "")
        if reason:
            logging.getLogger(__name__).warning("left out: %s", reason)
        else:
            names.append(listed.name)
    return names


def _with_readable_options(listed: Listed[MethodEntry]) -> Listed[MethodEntry]:
    """The same, broken if an option has a type that a record cannot keep, or the class has no plan."""
    if listed.entry is None:
        return listed
    try:
        listed.entry.check_plan()
        options_of(listed.entry.cls)
    except UserError as error:
        return replace(listed, entry=None, error=str(error))
    except Exception as error:  # noqa: BLE001 - pydantic raises many kinds for types that it does not know
        return replace(listed, entry=None, error=listed.entry.unreadable(error))
    return listed


def create(name: str, options: Mapping[str, Any]) -> Method:
    """A method with its options; arguments and errors as of :func:`find` and :meth:`MethodEntry.create`."""
    return find(name).create(options)
