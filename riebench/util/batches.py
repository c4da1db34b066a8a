"""Work in batches whose size adapts to memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")
SAID = (
    *("out of memory", "not enough memory", "can't allocate memory"),
    *("alloc_failed", "allocation_failed", "unable to find an engine"),  # cuBLAS and cuDNN without room to work in
)
"""How it is worded where PyTorch has no exception of its own: on the CPU and in libraries below it."""


class Batched(Protocol):
    """Whoever works in batches: ``batch`` rows at most."""

    batch: int


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error).lower() for said in SAID)


def in_batches(owner: Batched, count: int, work: Callable[[slice], list[T]]) -> list[T]:
    """Work rows off, ``owner.batch`` at a time.

    When memory runs out the batch is halved, for good, and the work repeated.

    Args:
        owner: holds the size.
        count: how many rows there are.
        work: gives the results of a slice of the rows, one a row.

    Raises:
        Exception: whatever ``work`` raises; out of memory only for a single row.
    """
    done: list[T] = []
    while len(done) < count:
        rows = min(owner.batch, count - len(done))
        try:
            done += work(slice(len(done), len(done) + rows))
            continue
        except (RuntimeError, MemoryError) as error:
            if rows == 1 or not is_out_of_memory(error):
                raise
        # Only here, when the error and the tensors that its frames hold are gone.
        owner.batch = rows // 2
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        said = f"out of memory with {rows} pictures at once; {owner.batch} at most from now on"
        print(f"riebench: {said}", file=sys.stderr, flush=True)
    return done
