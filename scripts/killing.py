"""Work in a fork of this process that is killed at some moment."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path


def attempt(work: Callable[[Path], None], folder: Path, seconds: float | None) -> bool:
    """Work in a fork, killed after some seconds (never for None); whether it came to its end.

    Raises:
        SystemExit: if it failed of itself.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work(folder)
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    end = None if seconds is None else time.monotonic() + seconds
    ended, status = os.waitpid(child, 0 if end is None else os.WNOHANG)
    while not ended and end is not None:
        time.sleep(0.005)
        if time.monotonic() >= end:
            os.kill(child, signal.SIGKILL)
            end = None
        ended, status = os.waitpid(child, 0 if end is None else os.WNOHANG)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit(f"an attempt in {folder} failed")
    return os.WIFEXITED(status)
