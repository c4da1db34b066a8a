"""The bits of tensors, read in little time: a change that leaves torch's version of a tensor alone is seen by them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOST_READ = 64e6
"""The bytes of all tensors that are read at each call; of larger networks a part of each tensor is."""
ROW = 61
"""The words of 8 bytes in a row; a prime number, so that two places of a tensor that change places are two columns."""
ON_OTHER_DEVICES = 64
"""The numbers of each tensor that are read from a GPU at each call."""


class TensorBits:
    """The bits of tensors as they are at each call.

    On the CPU the memory of all tensors is read, or rows of it at a fixed distance if there are more than
    :data:`MOST_READ` bytes; on other devices, :data:`ON_OTHER_DEVICES` numbers of each tensor, at a fixed distance.

    Args:
        still: tensors that stay where they are in memory.
        moving: tensors that get other memory from call to call.
    """

    def __init__(self, still: Sequence[Tensor], moving: Sequence[Tensor]) -> None:
        self._apart = max(1, round(sum(tensor.nbytes for tensor in (*still, *moving)) / MOST_READ))
        self._tables, self._rests = self._memory_of(tensor for tensor in still if tensor.is_cpu)
        self._others = [*moving, *(tensor for tensor in still if not tensor.is_cpu)]

    def read(self) -> bytes:
        """Sums of the bits, and bits; equal if none of the memory that is read has changed."""
        tables, rests = self._memory_of(tensor for tensor in self._others if tensor.is_cpu)
        sums = [np.add.reduce(table, 0) for table in (*self._tables, *tables)]
        parts = [np.concatenate(arrays).tobytes() for arrays in (sums, (*self._rests, *rests)) if arrays]
        return b"".join(parts) + _far_numbers(tensor for tensor in self._others if not tensor.is_cpu)

    def _memory_of(self, tensors: Iterable[Tensor]) -> tuple[list[NDArray[np.uint64]], list[NDArray[np.uint8]]]:
        """The memory of tensors on the CPU: the rows that are summed, of words of 8 bytes, and the bytes that are left.

        Args:
            tensors: on the CPU.
        """
        tables, rests = [], []
        for tensor in tensors:
            flat = tensor.detach().as_strided((_span(tensor),), (1,)).view(torch.uint8).numpy()
            rows = len(flat) // (8 * ROW)
            if rows:
                tables.append(flat[: rows * 8 * ROW].view(np.uint64).reshape(rows, ROW)[:: self._apart])
            if len(flat) > rows * 8 * ROW:
                rests.append(flat[rows * 8 * ROW :])
        return tables, rests


class Untouched:
    """Tensors, arrays, lists and mappings, also inside each other, that others are to leave alone.

    Args:
        values: any. Of a function it is what it closes over, of a method the attributes of its object; other objects
            are not looked at.
    """

    def __init__(self, *values: Any) -> None:
        self._tensors: list[Tensor] = []
        self._arrays: list[NDArray[Any]] = []
        self._holders: list[tuple[Any, list[Any]]] = []
        self._met: set[int] = set()
        self._walk(values)
        self._bits = TensorBits(self._tensors, ())
        self._before = self._read()

    def changed(self) -> bool:
        """Whether one of them has changed, other than by new entries of a mapping."""
        for holder, before in self._holders:
            now = _entries(holder)
            if isinstance(holder, Mapping):
                now = now[: len(before)]
            if len(now) != len(before) or any(a is not b for a, b in zip(before, now, strict=True)):
                return True
        return self._read() != self._before

    def _walk(self, value: Any) -> None:
        if isinstance(value, Tensor):
            self._tensors += [value] if value.numel() else []
        elif isinstance(value, np.ndarray):
            self._arrays.append(value)
        elif isinstance(value, partial):
            self._walk((value.func, value.args, value.keywords))
        elif isinstance(value, MethodType):
            self._walk((value.__func__, getattr(value.__self__, "__dict__", None)))
        elif isinstance(value, FunctionType):
            self._walk(value.__closure__ or ())
        elif isinstance(value, list | tuple | Mapping | CellType) and id(value) not in self._met:
            self._met.add(id(value))  # no other gets this identity, as the list of holders keeps the value
            self._holders.append((value, _entries(value)))
            for entry in self._holders[-1][1]:
                self._walk(entry)

    def _read(self) -> tuple[Any, ...]:
        versions = [tensor._version for tensor in self._tensors if not tensor.is_inference()]
        return versions, self._bits.read(), [array.tobytes() for array in self._arrays]


def _entries(holder: Any) -> list[Any]:
    if isinstance(holder, CellType):
        try:
            return [holder.cell_contents]
        except ValueError:  # of a variable without a value yet
            return []
    return list(holder.values() if isinstance(holder, Mapping) else holder)


def _far_numbers(tensors: Iterable[Tensor]) -> bytes:
    """Numbers of each tensor that is not on the CPU."""
    parts: dict[tuple[Any, Any], list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        span = _span(tensor)
        count = min(span, ON_OTHER_DEVICES)
        sample = tensor.detach().as_strided((count,), (span // count,))
        parts[tensor.device, tensor.dtype].append(sample)
    # A copy for each tensor would take longer than a picture.
    return b"".join(torch.cat(each).view(torch.uint8).cpu().numpy().tobytes() for each in parts.values())


def _span(tensor: Tensor) -> int:
    """The numbers in memory from a tensor's first to its last one."""
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
