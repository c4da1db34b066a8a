"""Freed memory that is kept for what comes next."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from riebench.util.freed_memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def step():
    return [b"x" * size for size in (20_000_000, 20_000_000, 60_000_000)]
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 5)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has these settings")
def test_what_a_step_frees_serves_the_next_one() -> None:
    pages = {}
    for how in ("keep", "plain"):
        words = [sys.executable, "-c", PROGRAM, how]
        pages[how] = int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert pages["keep"] < 100, pages
    assert pages["plain"] > 10_000, pages
