"""Run riebench commands one after the other; a command may be a function that makes commands from what is there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

Command = Sequence[str]
Commands = Iterable[Command] | Callable[[], Iterable[Command]]


def run_all(commands: Commands, log: Path) -> None:
    """Run commands.

    Raises:
        SystemExit: if one cannot be run; failed pairs (exit code 1) are records with the reason.
    """
    for words in commands() if callable(commands) else commands:
        alone = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "riebench", *words], env=alone, capture_output=True, text=True, check=False
        )
        with log.open("a") as file:
            file.write(f"riebench {' '.join(words)}\n{done.stdout}{done.stderr}\n")
        if done.returncode not in ((0, 1) if words[0] == "run" else (0,)):
            sys.exit(f"riebench {' '.join(words)}\n{done.stderr[-2000:]}")
