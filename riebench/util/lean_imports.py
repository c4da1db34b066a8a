"""Import diffusers, open_clip and lpips without what is slow to import in them and nearly never used.

What is left out is imported when it is used.
"""

from __future__ import annotations

import gc
import importlib.metadata
import sys
from collections import UserDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from types import ModuleType
from typing import Any

LATER = {
    "scipy.stats": (),
    "scipy.integrate": (),
    "scipy.ndimage": ("zoom",),
    "scipy.optimize": ("linear_sum_assignment",),
}
"""Modules that diffusers' schedulers, lpips' training and transformers' losses import, with functions of theirs."""


@contextmanager
def lean_imports(*without: str) -> Iterator[None]:
    """Make imports inside the ``with`` statement quick.

    Args:
        without: packages that cannot be imported meanwhile.
    """
    plain = importlib.metadata.packages_distributions
    stand_ins = {name: _StandIn(name) for name in LATER} | {name: ModuleType(name) for name in without}
    stand_ins = {name: stand_in for name, stand_in in stand_ins.items() if name not in sys.modules}
    importlib.metadata.packages_distributions = _Packages
    sys.modules.update(stand_ins)
    collects = gc.isenabled()
    gc.disable()  # modules stay, so looking for garbage meanwhile takes a tenth of the time and finds none
    try:
        yield
    finally:
        if collects:
            gc.enable()
        importlib.metadata.packages_distributions = plain
        for name, stand_in in stand_ins.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]


class _StandIn(ModuleType):
    """Stands for a module of :data:`LATER` until something of it is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._later(name) if name in LATER[self.__name__] else getattr(self._module(), name)

    def _module(self) -> ModuleType:
        for name in LATER:  # its own imports are of these modules, too
            if isinstance(sys.modules.get(name), _StandIn):
                del sys.modules[name]
        return import_module(self.__name__)

    def _later(self, name: str) -> Callable[..., Any]:
        def function(*arguments: Any, **more: Any) -> Any:
            return getattr(self._module(), name)(*arguments, **more)

        return function


class _Packages(UserDict[str, list[str]]):
    """The packages and their distributions, which diffusers lists at its import: they are read when it looks one up."""

    def __init__(self) -> None: ...

    @cached_property
    def data(self) -> dict[str, list[str]]:  # type: ignore[override]
        """Package to the names of its distributions."""
        return dict(importlib.metadata.packages_distributions())
