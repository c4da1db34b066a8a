"""A cheap mark of loaded networks and of what belongs to them, which tells whether anything in them has changed.

What a model keeps from one call to the next is valid for one state of its pipeline. A hash of all weights would tell
whether the state is the same, but takes as long as many pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from operator import attrgetter, eq
from types import MethodType, ModuleType
from typing import Any

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from diffusers.hooks import HookRegistry
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as torch_modules
from transformers import PreTrainedTokenizerBase

from riebench.util.library_code import FUNCTIONS, is_of_a_library, of_users
from riebench.util.tensor_bits import TensorBits

MOVERS = ("accelerate.", "diffusers.hooks.", "riebench.")
"""The beginnings of the names of modules whose functions move networks between devices, cast them, or count calls."""
CONTAINERS = ("_modules", "_parameters", "_buffers", "_forward_hooks", "_forward_pre_hooks")
"""The attributes of a module that are changed in place."""
GLOBAL_HOOKS = (torch_modules._global_forward_hooks, torch_modules._global_forward_pre_hooks)
"""The hooks of all modules."""
SET_BY_CALLS = frozenset({"_hf_hook", "_old_forward", "_diffusers_hook", "_output_capturing_hooks_installed"})
"""The attributes that a call of an unchanged network sets, and those of a module that is moved between devices."""
TORCH_ATTRIBUTES = frozenset(vars(nn.Module()))
CONSTANTS = ("_internal_dict", "beta", "alpha", "final_alpha")
"""The beginnings of the names of a scheduler's attributes that calls leave alone."""
SETTABLE = (
    *("_shift", "sigma_min", "sigma_max", "use_", "predict_x0", "solver_p", "pndm_order", "variance_type"),
    "disable_corrector",
)
"""The beginnings of the names of those that its configuration does not always tell, as set_shift sets one."""


class ChangeMark:
    """The mark of an object as it is now: its networks with their tensors, hooks and settings.

    Seen are: anything that is put in, replaced or taken out, be it a module, a tensor, a setting, a hook or a function;
    changes of a tensor in place, also those through ``.data`` or shared memory, as far as :class:`TensorBits` reads
    them. Not seen is what a function refers to.

    Args:
        root: a pipeline of diffusers, or a list of modules.

    Attributes:
        classes: of everything below the object.
    """

    def __init__(self, root: Any) -> None:
        self._root = root
        self._watched: list[Any] = []
        self._hooks: list[Mapping[int, Any]] = []
        self._objects: list[Any] = []  # whose attributes are filtered
        self.classes: set[type] = set()
        self._tensors: list[Tensor] = []
        self._moving: set[int] = set()  # tensors whose memory moves from call to call
        self._walk([root, *GLOBAL_HOOKS])
        self._watched.append(vars(functional))
        self._hooks_set = sum(map(len, self._hooks))
        self._copies = [value.copy() for value in self._watched]
        self._attributes = [*map(lasting_attributes, self._objects)]
        bases = {base for kind in self.classes for base in kind.__mro__ if base is not object}
        self._classes = {base: dict(vars(base)) for base in bases}
        self._tensors.sort(key=lambda tensor: id(tensor) in self._moving)
        self._still = len(self._tensors) - len(self._moving)
        self._counted = [tensor for tensor in self._tensors if not tensor.is_inference()]
        self._bits = TensorBits(self._tensors[: self._still], self._tensors[self._still :])
        self._numbers = self._places(), self._bits.read()

    def changed(self) -> bool:
        """Whether the object differs from what it was when the mark was taken."""
        try:
            same = (
                sum(map(len, self._hooks)) == self._hooks_set
                and all(map(eq, self._watched, self._copies))
                and all(vars(base) == before for base, before in self._classes.items())
                and all(map(eq, map(lasting_attributes, self._objects), self._attributes))
            )
        except (RuntimeError, ValueError):  # tensors and arrays of several numbers are neither equal nor different
            same = False
        places, bits = self._numbers
        if same and self._places() == places and self._bits.read() == bits:
            return False
        now = ChangeMark(self._root)
        if now.is_of_state(self):
            vars(self).update(vars(now))
            return False
        return True

    @cached_property
    def _settled(self) -> list[Any]:
        """All entries and attributes without what calls set; most marks are never compared by them."""
        entries = [*zip(self._watched, self._copies, strict=True)]
        entries += zip(map(vars, self._objects), self._attributes, strict=True)
        return [kept for owner, copied in entries if (kept := _settled(owner, copied))]

    def _functions(self) -> dict[type, dict[str, Any]]:
        return {base: _functions_in(attributes) for base, attributes in self._classes.items()}

    @property
    def has_functions(self) -> bool:
        """Whether a function of a user's is a hook or replaces one of the networks'."""
        held = [value for kept in self._settled for value in _values(kept) if isinstance(value, FUNCTIONS)]
        return bool(of_users(dict(enumerate(held))))

    def is_of_state(self, other: ChangeMark) -> bool:
        """Whether two marks of an object differ at most in what its own calls change."""
        try:
            settled = self._numbers == other._numbers and self._settled == other._settled
            return settled and self._functions() == other._functions()
        except (RuntimeError, ValueError):
            return False

    def _places(self) -> tuple[list[int], list[int]]:
        """The tensors' versions, and the addresses of those that stay where they are."""
        addresses = [*map(Tensor.data_ptr, self._tensors[: self._still])]
        return [*map(attrgetter("_version"), self._counted)], addresses

    def _walk(self, root: Any) -> None:
        """Collect all containers, objects and tensors below an object."""
        seen: set[int] = set()
        stack = [(root, False)]
        while stack:
            value, moving = stack.pop()
            if id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, Tensor):
                if value.layout == torch.strided and value.numel() and not value.is_meta:
                    self._tensors.append(value)
                    self._moving |= {id(value)} if moving else set()
            else:
                moving = moving or _is_moved(value)
                stack += [(child, moving) for child in self._children(value)]

    def _children(self, value: Any) -> Iterator[Any]:
        """Take a value that is no tensor into the mark, and yield the values in it."""
        if isinstance(value, nn.Module):
            self.classes.add(type(value))
            held = [vars(value)[name] for name in CONTAINERS]
            # A module of a fixed class that has no children, parameters or buffers has no use for any.
            self._watched += [vars(value), *filter(None, held)]
            self._hooks += [value._forward_hooks, value._forward_pre_hooks]
            for entries in held:
                yield from entries.values()
            own = sorted(vars(value).keys() - TORCH_ATTRIBUTES)
            yield from (held for name in own if not is_set_by_calls(name, held := vars(value)[name]))
            if "_diffusers_hook" in vars(value):
                self._watched.append(vars(value)["_diffusers_hook"].hooks)
        elif isinstance(value, (dict, list, set)):
            self._watched.append(value)
            yield from value.values() if isinstance(value, dict) else value
        elif isinstance(value, tuple):
            yield from value
        elif isinstance(value, (DiffusionPipeline, SchedulerMixin, PreTrainedTokenizerBase)):
            self.classes.add(type(value))
            self._objects.append(value)
            if not isinstance(value, PreTrainedTokenizerBase):
                yield from lasting_attributes(value).values()
        elif hasattr(value, "__dict__") and not isinstance(value, (*FUNCTIONS, type, ModuleType, HookRegistry)):
            self.classes.add(type(value))
            self._watched.append(vars(value))
            yield from vars(value).values()


def _functions_in(attributes: Mapping[str, Any]) -> dict[str, Any]:
    kinds = (*FUNCTIONS, staticmethod, classmethod, property)
    return {name: held for name, held in attributes.items() if isinstance(held, kinds)}


def lasting_attributes(value: Any) -> Mapping[str, Any]:
    """The attributes of a pipeline, a scheduler, a tokenizer or another object that its calls leave alone."""
    attributes = vars(value).items()
    if isinstance(value, DiffusionPipeline):
        # A call of PRX sets its number of timesteps.
        parts = {n: held for n, held in attributes if not n.startswith("_") and n != "num_timesteps"}
        # Saving a pipeline adds the names of its class and version, with an underscore, to its configuration.
        settings = vars(value).get("_internal_dict", {})
        return {**parts, "_internal_dict": {name: held for name, held in settings.items() if name[0] != "_"}}
    if isinstance(value, SchedulerMixin):
        lasting = (*CONSTANTS, *SETTABLE)
        return {name: held for name, held in attributes if name.startswith(lasting) or isinstance(held, FUNCTIONS)}
    if isinstance(value, PreTrainedTokenizerBase):
        plain = {name: held for name, held in attributes if isinstance(held, (str, int, float))}
        return {**plain, "tokens": len(value), "special": dict(value.special_tokens_map)}
    return dict(attributes)


def is_set_by_calls(name: str, value: Any) -> bool:
    """Whether an attribute of a module is one of :data:`SET_BY_CALLS`, and no hook of a user's."""
    hooks = getattr(value, "hooks", (value,)) if name == "_hf_hook" else ()
    return name in SET_BY_CALLS and all(is_of_a_library(type(hook)) for hook in hooks)


def left_alone(entries: Mapping[Any, Any], owner: Mapping[Any, Any]) -> set[Any]:
    """The names of functions that do what the object that holds them does without them.

    Such are an object's own method, a function of a library that moves modules between devices, and a library's hook.

    Args:
        entries: attributes of the object by name, or hooks by number.
        owner: all attributes of the object, or all hooks.
    """
    functions = {name: held for name, held in entries.items() if isinstance(held, FUNCTIONS)}
    if not functions:  # as nearly always
        return set()
    users = of_users(functions)
    return {name for name, held in functions.items() if name not in users and _leaves_alone(held, name, owner)}


def _leaves_alone(function: Any, name: Any, owner: Mapping[Any, Any]) -> bool:
    """Whether a function of a library's is one of :func:`left_alone`."""
    if isinstance(name, int):
        return True
    if isinstance(function, MethodType):
        holder = function.__self__
        return getattr(holder, "__dict__", None) is owner and getattr(type(holder), name, None) is function.__func__
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__globals__", {}).get("__name__", "").startswith(MOVERS)


def _settled(owner: Any, entries: Any) -> Any:
    """What remains of a container's entries without what calls of an unchanged network set."""
    if not isinstance(entries, dict):
        return entries
    alone = left_alone(entries, owner)
    # Saving a network of transformers puts the name of its dtype in place of the dtype.
    return {
        name: str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value
        for name, value in entries.items()
        if value is not None
        and not is_set_by_calls(name, value)
        and name not in alone
        and not (isinstance(value, Tensor) and value.is_meta)
    }


def _values(entries: Any) -> Iterator[Any]:
    yield from entries.values() if isinstance(entries, dict) else entries


def _is_moved(value: Any) -> bool:
    """Whether a module's tensors get other memory at each call: by offloading, or by casting an autoencoder."""
    if not isinstance(value, nn.Module):
        return False
    hooks = getattr(vars(value).get("_diffusers_hook"), "hooks", None)
    cast = hasattr(getattr(value, "config", None), "force_upcast") and getattr(value, "dtype", None) == torch.float16
    return "_hf_hook" in vars(value) or bool(hooks) or cast
