"""Whether functions and classes are a library's or a user's, and what functions are made of."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, MethodType
from typing import Any, TypeVar

FUNCTIONS = (FunctionType, MethodType, functools.partial)
LIBRARIES = ("riebench", "torch", "diffusers", "transformers", "accelerate", "peft", "huggingface_hub")
"""The packages whose functions come and go in a network without a change of what it computes."""
K = TypeVar("K")


def of_users(held: Mapping[K, Any]) -> dict[K, Any]:
    """The entries of functions and classes that no library has written."""
    return {name: code for name, code in held.items() if not is_of_a_library(code)}


def is_of_a_library(code: Any) -> bool:
    """Whether a function or a class is riebench's, Python's or a library's of theirs, and decorates none of a user's.

    A compiled function is none.
    """
    return is_named(code, has_a_librarys_name)


def has_a_librarys_name(code: Any) -> bool:
    """Whether a function or a class itself is a library's, whatever it decorates; a compiled function is none."""
    # A decorator may give a function of a user's the name of the module that it replaces.
    names = code.__globals__ if isinstance(code, FunctionType) else {}
    package = (names.get("__name__") or getattr(code, "__module__", None) or "").partition(".")[0]
    return (package in LIBRARIES or package in sys.stdlib_module_names) and not is_compiled(code)


def is_compiled(function: Any) -> bool:
    """Whether a function is one that torch.compile has made."""
    return hasattr(function, "_torchdynamo_orig_callable") and not hasattr(function, "_torchdynamo_disable")


def is_named(code: Any, named: Callable[[Any], bool], seen: frozenset[int] = frozenset()) -> bool:
    """Whether a function or a class is known by its name, and so are the functions that it decorates or closes over.

    Args:
        code: a function, a method, a partial function or a class.
        named: whether a function or a class itself is known by its name.
        seen: ids of the functions that hold it.
    """
    if id(code) in seen:
        return True
    itself = isinstance(code, MethodType | functools.partial) or named(code)
    return itself and all(is_named(inner, named, seen | {id(code)}) for inner in functions_in(code))


def functions_in(function: Any) -> Iterator[Any]:
    """The functions that a function is made of: what it decorates or closes over, that of a method, of a partial."""
    if isinstance(function, MethodType):
        yield function.__func__
    elif isinstance(function, functools.partial):
        yield function.func
        yield from filter(_is_function, (*function.args, *function.keywords.values()))
    elif isinstance(function, FunctionType):
        yield from filter(_is_function, [*closed_over(function), getattr(function, "__wrapped__", None)])


def closed_over(function: FunctionType) -> list[Any]:
    """The values that a function closes over; None for a variable without a value yet."""
    return [cell.cell_contents if _is_filled(cell) else None for cell in function.__closure__ or ()]


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - an empty cell raises
    except ValueError:
        return False
    return True


def _is_function(value: Any) -> bool:
    return isinstance(value, FUNCTIONS)
