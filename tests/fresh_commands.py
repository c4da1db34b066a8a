"""Commands in processes that have imported the command line and what most commands read first, without torch.

They are forks of one that has just done so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
SLOW = ("torch", "diffusers", "transformers", "open_clip", "pandas", "matplotlib", "scipy", "ray")
"""What takes most of a second to import, so that a command whose answer needs none of it is quick without it.

A test that counts seconds fails on a machine that is slow or has other work; this holds on every machine.
"""
PROGRAM = (
    f"SLOW = {SLOW}"
    + """
import json, os, sys
import riebench.cli.run_command, riebench.cli.sae_command, riebench.cli.studies_command, riebench.engine.request
import riebench.ablation.ablating, riebench.features.located_saes, riebench.models.flux, riebench.models.mini
from riebench.cli import main

def work(job):
    os.chdir(job["folder"])
    os.environ.update(job["environment"])
    for number, path in enumerate((os.devnull, job["out"], job["err"])):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    try:
        main(job["words"])
    except SystemExit as left:
        print(left.code or 0, *(name for name in SLOW if name in sys.modules))

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            work(json.loads(line))
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
    os.waitpid(child, 0)
    print(flush=True)
"""
)


@dataclass(frozen=True)
class Done:
    """What a command came to.

    Attributes:
        code: the exit code.
        out: its standard output.
        err: its standard error.
        slow: the packages of ``SLOW`` that it imported.
    """

    code: int
    out: str
    err: str
    slow: tuple[str, ...]


class FreshCommands:
    """Runs commands of ``riebench``, each in a process of its own; closes as a file does."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self._folder = TemporaryDirectory()
        self._parent = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    def __call__(self, *words: str) -> Done:
        """Run a command in the current folder, with the environment of now."""
        assert self._parent.stdin
        assert self._parent.stdout
        out, err = (Path(self._folder.name) / name for name in ("out", "err"))
        for path in (out, err):
            path.unlink(missing_ok=True)
        job = {"words": words, "folder": os.getcwd(), "out": str(out), "err": str(err)}
        changed = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
        self._parent.stdin.write(json.dumps({**job, "environment": changed}) + "\n")
        self._parent.stdin.flush()
        self._parent.stdout.readline()
        *shown, end = out.read_text().splitlines(keepends=True) or [""]
        assert end, f"the process ended without an exit code: {err.read_text()}"
        code, *slow = end.split()
        return Done(int(code), "".join(shown), err.read_text(), tuple(slow))

    def close(self) -> None:
        """End the process that is forked."""
        self._parent.communicate()
        self._folder.cleanup()
