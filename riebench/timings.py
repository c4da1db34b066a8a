"""How long a model took on this machine, for the plan of the next run. Needs no torch."""

from __future__ import annotations

import json
import os

from riebench.weights.hashing import cache_folder


def _load() -> dict[str, float]:
    try:
        known: dict[str, float] = json.loads((cache_folder() / "timings.json").read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return known


def keep_timing(model: str, device: str, seconds: float, rows: int) -> None:
    """Keep the seconds that a pair took for each of its U-Net rows; what cannot be written is let go."""
    known = _load() | {f"{model} {device}": seconds / max(1, rows)}
    path = cache_folder() / "timings.json"
    part = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(known))
        os.replace(part, path)
    except OSError:
        return


def timings(model: str) -> dict[str, float]:
    """Device to seconds for each U-Net row, as the last run of a model on it measured."""
    return {key.partition(" ")[2]: value for key, value in _load().items() if key.partition(" ")[0] == model}
