"""Options that several methods share, and how a method's options are read from its class.

An option is a field of the class, documented in its type:
``scale: Annotated[float, Field(gt=0, description="Factor on the shift.")] = 1.0``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from riebench.methods.choosing import Count, Score

K = Annotated[
    Count | None, Field(description="Features (or neurons) moved in each direction; a share of them all unless given.")
]
ScoreStep = Annotated[
    Score, Field(description="Rank by the activations of the first step, or by their mean over all steps.")
]
OnlyAdd = Annotated[bool, Field(description="Add the source's values, and do not remove those of the base.")]
Spatial = Annotated[
    bool, Field(description="Keep the values of each position; else their mean over the mask stands at each.")
]


UNSET = "not set"


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a method, as text.

    Attributes:
        name: as given to ``--option name=value``.
        type: such as "whole number > 0".
        default: its text; ``not set`` for None; empty if the option must be given.
        doc: its description; empty if it has none.
    """

    name: str
    type: str
    default: str
    doc: str


def options_of(cls: type[Any]) -> list[Option]:
    """The options of a method's class, in the order of its fields.

    Raises:
        TypeError: if an option has a type that a record cannot keep.
        pydantic.errors.PydanticUserError: if pydantic does not know a type.
    """
    schemas = TypeAdapter(cls).json_schema().get("properties", {})
    return [
        Option(name, _type(name, schema), _text(schema["default"]) if "default" in schema else "", _doc(schema))
        for name, schema in schemas.items()
    ]


_TYPES = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text"}
_BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}


def _type(name: str, schema: Mapping[str, Any]) -> str:
    """The type of a JSON schema in words, without null: the default shows that an option may be unset."""
    if "anyOf" in schema:
        return " or ".join(_type(name, variant) for variant in schema["anyOf"] if variant.get("type") != "null")
    if "enum" in schema or "const" in schema:
        return " or ".join(map(_text, schema.get("enum", [schema.get("const")])))
    if schema.get("type") not in _TYPES:
        raise TypeError(f"the option {name!r} has a type that a record cannot keep; expected numbers, text or booleans")
    bounds = [f"{sign} {schema[key]:g}" for key, sign in _BOUNDS.items() if key in schema]
    return " ".join([_TYPES[schema["type"]], " and ".join(bounds)]).strip()


def _text(value: object) -> str:
    """A value as the command line takes it."""
    if value is None:
        return UNSET
    return str(value).lower() if isinstance(value, bool) else str(value)


def _doc(schema: Mapping[str, Any]) -> str:
    return " ".join(str(schema.get("description", "")).split())
