"""Small facts kept in the user's cache folder; what cannot be read or written there costs time, nothing else."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from riebench.util.files import write_whole


def cache_folder() -> Path:
    """The user's cache folder of riebench."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "riebench"


def read_facts(name: str) -> dict[str, Any]:
    """What was kept under a file name; empty where there is nothing sound."""
    try:
        found = json.loads((cache_folder() / name).read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def keep_facts(name: str, facts: dict[str, Any]) -> None:
    """Keep facts under a file name, whole or not at all."""
    with suppress(OSError):
        write_whole(cache_folder() / name, json.dumps(facts).encode())
