"""The log of a training run, one JSON line for each SAE now and then, and its figure. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from riebench.util.errors import UserError
from riebench.util.files import write_whole

LOG = "log.jsonl"


class TrainingLog:
    """Lines in ``log.jsonl``.

    Args:
        folder: that holds it.
        step: where training goes on; lines of later steps, which a killed process wrote, are taken out.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / LOG
        kept = [line for line in read_log(folder) if line["step"] <= step]
        write_whole(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._waiting: list[str] = []

    def add(self, sae: str, step: int, vectors: int, measured: Mapping[str, float]) -> None:
        """One line; written with the next :meth:`flush`."""
        self._waiting.append(json.dumps({"sae": sae, "step": step, "vectors": vectors, **measured}) + "\n")
        if len(self._waiting) >= 100:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        with self.path.open("a") as file:
            file.writelines(self._waiting)
        self._waiting.clear()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a log; a torn last one is left out, and without a file there are none.

    Raises:
        UserError: if it is something else.
    """
    try:
        lines = (folder / LOG).read_text().splitlines(keepends=True)
    except OSError:
        return []
    try:
        return [json.loads(line) for line in lines if line.endswith("\n")]
    except ValueError:
        raise UserError(f"{folder / LOG} is damaged; remove it, or give another --out") from None
