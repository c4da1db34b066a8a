"""Score files: a JSON for each dictionary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from riebench.features.score_groups import Facts
from riebench.util.work_folder import WorkFolder

VERSION = 1
"""Of the scores: it grows whenever a score comes to mean something else."""


def score_path(folder: Path, name: str, key: str) -> Path:
    """The score file of a dictionary."""
    safe = "".join(c if c.isalnum() or c in ".-_" else "_" for c in name)
    return folder / f"{safe}-{key[:8]}.json"


def read_scores(path: Path) -> dict[str, Any] | None:
    """The content of a score file; None for any other file."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) and "summary" in facts and "key" in facts else None


def write_scores(folder: WorkFolder, name: str, facts: Facts) -> None:
    """Write a score file, undefined numbers as null.

    Raises:
        UserError: if it cannot be written.
    """
    folder.write(name, (json.dumps(facts, indent=1, allow_nan=False) + "\n").encode())


def read_all_scores(folder: Path) -> list[dict[str, Any]]:
    """The contents of all score files of a folder: by site, dictionaries before baselines, by name."""
    return sorted(
        (facts for facts in map(read_scores, folder.glob("*.json")) if facts),
        key=lambda facts: (facts["block"], facts["kind"] not in ("sae", "dictionary"), facts["name"]),
    )
