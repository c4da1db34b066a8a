"""Memory that a program frees and needs again at once."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's parameters (``malloc.h``): from which size on freed memory goes back to the system."""
LARGE = 2**30
"""Bytes."""


def keep_freed_memory() -> None:
    """Let the C library keep blocks of up to 1 GB that are freed, in place of giving them back to the system.

    A training step frees some hundred megabytes that the next one needs; to fetch them anew takes a tenth of the step.
    Elsewhere than on Linux, and with another C library than glibc, nothing is done.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(TRIM_THRESHOLD, LARGE)
        library.mallopt(MMAP_THRESHOLD, LARGE)
