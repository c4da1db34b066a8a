"""How long a model took on this machine, for the plan of the next run. Needs no torch."""

from __future__ import annotations

from riebench.util.files import keep_facts, read_facts

FILE = "timings.json"


def keep_timing(model: str, device: str, seconds: float, rows: int) -> None:
    """Keep the seconds that so many U-Net rows of a model took on a device, for each row."""
    keep_facts(FILE, read_facts(FILE) | {f"{model} {device}": seconds / max(1, rows)})


def timings(model: str) -> dict[str, float]:
    """Device to seconds for each U-Net row, as the last run of a model on it measured."""
    return {key.partition(" ")[2]: value for key, value in read_facts(FILE).items() if key.partition(" ")[0] == model}
