"""Keep what several methods see as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from riebench.models import Change
from riebench.util.errors import PairError

CHANGED = "changes the values or masks that it is given, which others see too; change a clone"


class SharedKept(TorchDispatchMode):
    """Refuses to change shared tensors in place, before anything is changed: a PairError from the operation.

    Shared are all inference tensors, and those that are named. Torch refuses to change the former too, but only when
    they are changed already, and not through ``tensor.data``.

    Args:
        weights: further tensors, as an SAE's parameters.
    """

    def __init__(self, weights: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self._weights = {weight.untyped_storage().data_ptr() for weight in weights}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Called by torch for every operation."""
        given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | dict(kwargs or {})
        for argument in func._schema.arguments:
            if argument.alias_info is not None and argument.alias_info.is_write:
                value = given.get(argument.name)
                if any(map(self._shared, value if isinstance(value, list | tuple) else [value])):
                    raise PairError(CHANGED, where="method")
        return func(*args, **(kwargs or {}))

    def _shared(self, value: Any) -> bool:
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            return False
        # In inference mode values are made that are shared once they are finished, see Observed.once.
        finished = value.is_inference() and not torch.is_inference_mode_enabled()
        return finished or value.untyped_storage().data_ptr() in self._weights

    def within(self, change: Change) -> Change:
        """The change; if it is a function, one that cannot change shared tensors either."""
        if not callable(change):
            return change
        function: Callable[[Tensor, int], Tensor] = change

        def kept(now: Tensor, step: int) -> Tensor:
            with self:
                return function(now, step)

        return kept
