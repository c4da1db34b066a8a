"""Run riebench commands, two at a time with one thread each."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

AT_ONCE = 2


def run_all(name: str, commands: Sequence[Sequence[str]], log: Path) -> float:
    """Run commands and return their total time in seconds.

    Raises:
        SystemExit: if a command fails, with the end of its output.
    """
    started = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        errors = pool.map(lambda words: _run(words, log), commands)
        for error in tqdm(errors, name, len(commands), mininterval=0.1 if sys.stderr.isatty() else 20):
            if error is not None:
                pool.shutdown(cancel_futures=True)
                sys.exit(error)
    return time.perf_counter() - started


def _run(words: Sequence[str], log: Path) -> str | None:
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "-m", "riebench", *words], env=alone, capture_output=True, text=True, check=False
    )
    with log.open("a") as file:
        file.write(f"riebench {' '.join(words)}\n{process.stdout}{process.stderr}\n")
    return None if process.returncode == 0 else f"riebench {' '.join(words)}\n{process.stderr[-2000:]}"
