"""Work in batches whose size adapts to memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")
log = logging.getLogger(__name__)
OUT_OF_MEMORY = (
    *("out of memory", "not enough memory", "can't allocate memory"),
    *("alloc_failed", "allocation_failed", "unable to find an engine"),  # cuBLAS and cuDNN without room to work in
)
"""Words of errors for which PyTorch has no exception of its own: on the CPU and in libraries below it."""


class Batched(Protocol):
    """Something that works in batches of ``batch`` rows at most."""

    batch: int


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in OUT_OF_MEMORY)


def in_batches(owner: Batched, count: int, work: Callable[[slice], list[T]]) -> list[T]:
    """Work rows off, ``owner.batch`` at a time.

    When memory runs out the batch is halved, for good, and the work repeated.

    Args:
        owner: holds the size.
        count: number of rows.
        work: returns the results of a slice of the rows, one a row.

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
        log.warning("out of memory with %d pictures at once; %d at most from now on", rows, owner.batch)
    return done
