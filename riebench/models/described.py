"""Python objects described by what they do: settings, functions of a user's with what they refer to, tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import Enum
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from riebench.models.change_mark import is_of_a_library
from riebench.models.devices import weights_fingerprint

PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.Size, Enum)


def described(value: Any, seen: frozenset[int] = frozenset()) -> str:
    """A text that is the same in every process for objects that do the same, and another one for others.

    A function that no library has is described by its code, its defaults, and the values that it refers to; functions
    that it calls are described, too.

    Args:
        value: any object.
        seen: ids of the objects that hold it; such an object is described by its class alone.
    """
    if isinstance(value, PLAIN):
        return repr(value)
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if id(value) in seen or isinstance(value, (torch.device, ModuleType)):
        return kind  # where a network is does not change what it computes
    seen = seen | {id(value)}
    if isinstance(value, (FunctionType, MethodType, partial, type)):
        return _described_code(value, seen)
    return _described_content(value, seen)


def _described_content(value: Any, seen: frozenset[int]) -> str:
    """The description of an array, a network, a container, or any other object with attributes."""
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{value.dtype} {list(value.shape)} {_array_hash(value)}"
    if isinstance(value, nn.Module):
        return f"{described(type(value), seen)} {weights_fingerprint(value)}"
    if isinstance(value, Mapping):
        return str(sorted((described(key, seen), described(held, seen)) for key, held in value.items()))
    if isinstance(value, (set, frozenset)):
        return str(sorted(described(held, seen) for held in value))
    if isinstance(value, (list, tuple)):
        return str([described(held, seen) for held in value])
    # A pipeline's parts are described on their own.
    attributes = {} if hasattr(value, "components") else getattr(value, "__dict__", {})
    return f"{described(type(value), seen)} {described(attributes, seen)}"


def _described_code(value: Any, seen: frozenset[int]) -> str:
    """The description of a function, a method, a class, or a function with some of its arguments."""
    if isinstance(value, partial):
        return f"partial {described([value.func, value.args, value.keywords], seen)}"
    if isinstance(value, MethodType):
        return f"{described(value.__func__, seen)} of {type(value.__self__).__qualname__}"
    name = f"{value.__module__}.{value.__qualname__}"
    if (is_of_a_library(value) and "<locals>" not in name) or value.__module__ == "builtins":
        return name
    if isinstance(value, type):
        inside = {key: held for key, held in vars(value).items() if key not in ("__doc__", "__dict__", "__weakref__")}
        functions = {key: held for key, held in inside.items() if isinstance(held, (*PLAIN, FunctionType))}
        return f"{name} {described([functions, *value.__bases__], seen)}"
    code, cells = value.__code__, [_value_of(cell) for cell in value.__closure__ or ()]
    referred = {key: value.__globals__[key] for key in _names_in(code) if key in value.__globals__}
    compiled = getattr(value, "_torchdynamo_orig_callable", None)
    facts = [value.__defaults__, value.__kwdefaults__, cells, referred, compiled]
    return f"{name} {_code_hash(code)} {described(facts, seen)}"


def _code_hash(code: CodeType) -> str:
    """A hash of a function's code without the places in its file."""
    constants = [_code_hash(held) if isinstance(held, CodeType) else repr(held) for held in code.co_consts]
    return hashlib.sha256(repr((code.co_code, code.co_names, constants)).encode()).hexdigest()[:16]


def _names_in(code: CodeType) -> set[str]:
    """The names that a function's code, and the functions inside it, may look up among the globals."""
    inner = [held for held in code.co_consts if isinstance(held, CodeType)]
    return set(code.co_names).union(*map(_names_in, inner))


def _value_of(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not set yet
        return None


def _array_hash(array: Any) -> str:
    if isinstance(array, Tensor):
        if array.is_meta:  # of a network that was built without memory
            return "meta"
        array = array.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]
