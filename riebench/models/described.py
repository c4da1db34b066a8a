"""Python objects described by what they do: settings, tensors, networks, and functions of a user's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import Enum
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from riebench.models.change_mark import TORCH_ATTRIBUTES
from riebench.models.devices import weights_fingerprint
from riebench.util.library_code import closed_over, has_a_librarys_name, is_of_a_library
from riebench.util.live_code import live_hash

PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.Size, Enum)


def described(value: Any, seen: frozenset[int] = frozenset()) -> str:
    """A text that is the same in every process for objects that do the same, and another one for others.

    A function or class that no library has is described by its code and by what that refers to.

    Args:
        value: any object.
        seen: ids of the objects that hold it; such an object is described by its class alone.

    Raises:
        UserError: if a value that a user's code refers to raises an error when it is looked at.
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
        return f"{described(type(value), seen)} {weights_fingerprint(value)} {described(_attributes(value), seen)}"
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
    if not is_of_a_library(value):
        return live_hash(value, named=has_a_librarys_name, content=_content_in_code)
    if isinstance(value, partial):
        return f"partial {described([value.func, value.args, value.keywords], seen)}"
    if isinstance(value, MethodType):
        return f"{described(value.__func__, seen)} of {type(value.__self__).__qualname__}"
    name = f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, FunctionType) and value.__closure__:
        return f"{name} {described(closed_over(value), seen)}"
    return name


def _content_in_code(value: Any) -> str | None:
    """The description of a tensor, a network or a pipeline that a user's code refers to; None for other objects."""
    fits = isinstance(value, (nn.Module, Tensor, torch.device, *PLAIN)) or hasattr(value, "components")
    return described(value) if fits else None


def _attributes(network: nn.Module) -> dict[str, Any]:
    """What the modules of a network hold beside weights: of a library's, numbers and text; of a user's, all."""
    return {
        f"{path}.{name}": held
        for path, part in network.named_modules()
        for name, held in vars(part).items()
        if name not in TORCH_ATTRIBUTES and (isinstance(held, PLAIN) or not is_of_a_library(type(part)))
    }


def _array_hash(array: Any) -> str:
    if isinstance(array, Tensor):
        if array.is_meta:  # of a network that was built without memory
            return "meta"
        array = array.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]
