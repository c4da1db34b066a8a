"""Write the result of the checks as JSON and as a table in Markdown."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from gpu_checks.checking import Numbers, Row
from gpu_checks.place import Place
from riebench.records.code import code_version

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "open_clip_torch")


def facts_of(place: Place) -> dict[str, Any]:
    """Facts of the machine and packages of the checks."""
    facts: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": str(place.device),
        "size": place.size,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "code": code_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }
    if place.cuda:
        about = torch.cuda.get_device_properties(place.device)
        facts["machine"] = f"{about.name}, {about.total_memory / 1e9:.0f} GB; {facts['machine']}"
        facts["versions"] |= {"CUDA": torch.version.cuda, "cuDNN": torch.backends.cudnn.version()}
    return facts


def write(out: Path, facts: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write ``gpu-check.json`` and ``gpu-check.md`` into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    report = {**facts, "checks": [{**row._asdict(), "numbers": _in_json(row.numbers)} for row in rows]}
    (out / "gpu-check.json").write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    (out / "gpu-check.md").write_text(table(facts, rows))


def table(facts: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """A line on where it was, and a row for each check."""
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    about = f"{facts['date']}, device {facts['device']}, size {facts['size']}, {facts['machine']}; {versions}"
    counts = {status: sum(row.status == status for row in rows) for status in ("passed", "failed", "skipped")}
    counts_text = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    lines = [about + ".", "", f"{counts_text}; {sum(row.seconds for row in rows):.0f} s.", ""]
    lines += ["| check | | s | peak GB | measured |", "| --- | --- | ---: | ---: | --- |"]
    for row in rows:
        peak = "" if row.peak is None else f"{row.peak / 1e9:.2f}"
        numbers = "; ".join(f"{name} {_short(value)}" for name, value in row.numbers.items())
        what = "; ".join(part for part in (row.reason, numbers) if part).replace("|", "\\|")
        lines.append(f"| {row.name} | {row.status} | {row.seconds:.1f} | {peak} | {what} |")
    return "\n".join(lines) + "\n"


def _in_json(numbers: Numbers) -> Numbers:
    """Numbers that are not finite as text, for which JSON has no other form."""
    odd = {name: str(value) for name, value in numbers.items() if isinstance(value, float) and not math.isfinite(value)}
    return numbers | odd


def _short(value: float | int | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
