"""Validate a contributed run folder: schema, fingerprints, completeness."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from riebench.records.folder import RUN
from riebench.records.schema import ALL_STEPS, Value, interval_name
from riebench.report.arms import CURVE, TRUTH
from riebench.report.frame import ANY, COLUMNS, PARTS, load_records
from riebench.util.errors import UserError


class RunArm(BaseModel):
    """A method with its options on a set of blocks, and the intervals of the steps, as ``run.json`` lists it."""

    method: str
    options: dict[str, Value]
    blocks: list[str]
    strengths: list[float] | None = None
    on_steps: list[list[int] | None] = [None]


class RunFile(BaseModel):
    """What ``run.json`` must hold for results to be shared."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: str
    steps: int
    strengths: list[float]
    arms: list[RunArm]
    pairs: int
    parts: dict[str, str]
    code: dict[str, Any]
    command: list[str]
    finished: str


@dataclass
class Checked:
    """The result of a check: a summary of the folder, and the problems found."""

    summary: str = ""
    problems: list[str] = field(default_factory=list)


def check_folder(folder: Path) -> Checked:
    """Check a folder with ``run.json`` and records.

    Raises:
        UserError: if it is no folder, or ``run.json`` or the records cannot be read at all.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give one with {RUN} and records")
    run = _run_file(folder)
    frame = load_records(folder)
    checked = Checked(_counts(frame))
    checked.problems += [*_consistency(run, frame), *_soundness(frame), *_completeness(run, frame)]
    return checked


def _counts(frame: pd.DataFrame) -> str:
    failed = int((frame["status"] != "ok").sum())
    row = frame.iloc[0]
    model = row["model"] if pd.isna(row["part_model"]) else row["part_model"]
    return f"{len(frame)} records ({failed} failed) of {frame['pair_id'].nunique()} pairs, {model}"


def _run_file(folder: Path) -> RunFile:
    try:
        return RunFile.model_validate_json((folder / RUN).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{folder / RUN} is missing; copy the whole folder of a finished run") from None
    except ValidationError as error:
        first = error.errors()[0]
        key, message = ".".join(map(str, first["loc"])) or "file", first["msg"].lower()
        raise UserError(f"{folder / RUN}, key {key!r}: {message}; expected the file of a finished run") from None


def _consistency(run: RunFile, frame: pd.DataFrame) -> list[str]:
    """Check that model, weights and steps of the records are those of ``run.json``."""
    problems = []
    for name, value in (("model", run.model), ("steps", run.steps)):
        wrong = frame[frame[name] != value]
        if len(wrong):
            problems.append(f"{len(wrong)} records have {name} {wrong[name].iloc[0]}, run.json says {value}")
    for part in PARTS:
        known = frame[f"part_{part}"].dropna()
        other = known[known != run.parts.get(part)]
        if len(other):
            named = run.parts.get(part, "none")
            problems.append(f"{len(other)} records have the {part} {other.iloc[0]}, run.json says {named}")
        if part != "sae" and len(known) < len(frame):
            problems.append(f"{len(frame) - len(known)} records have no fingerprint of the {part}")
    return problems


def _soundness(frame: pd.DataFrame) -> list[str]:
    """Check that each record is complete and its numbers are possible."""
    problems = []
    ok = frame[frame["status"] == "ok"]

    def note(rows: pd.DataFrame, problem: str) -> None:
        if len(rows):
            problems.append(f"{len(rows)} records {problem} (first: {rows['key'].iloc[0]})")

    note(frame[frame["key"].duplicated()], "have a key that another record has, too")
    note(frame[~frame["key"].str.fullmatch("[0-9a-f]{32}")], "have a key that is no hash of 32 hexadecimal digits")
    note(frame[(frame["status"] != "ok") & frame["reason"].isna()], "failed without a reason")
    for metric in CURVE:
        note(ok if metric not in ok else ok[ok[metric].isna()], f"are scored, but have no {metric}")
    metrics = [name for name in map(str, ok) if name not in COLUMNS]
    for metric in [m for m in metrics if m.startswith("clip_")]:
        note(ok[ok[metric].abs() > 1 + 1e-6], f"have a {metric} outside -1 to 1")
    for metric in [m for m in metrics if m.startswith("lpips_")]:
        note(ok[ok[metric] < 0], f"have a {metric} below 0")
    for metric in [m for m in TRUTH if m in metrics]:
        note(ok[(ok[metric] < 0) | (ok[metric] > 1)], f"have a {metric} outside 0 to 1")
    texts = frame.drop_duplicates(["pair_id", "category", "seed", "original_prompt", "editing_prompt"])
    note(texts[texts["pair_id"].duplicated()], "have a pair id that another pair or seed has, too")
    return problems


def _completeness(run: RunFile, frame: pd.DataFrame) -> list[str]:
    """Check that every pair has every setting of ``run.json``, and others only at strengths that were searched."""
    expected = dict.fromkeys(
        (*cells, strength)
        for arm in run.arms
        for cells in _arm_cells(arm)
        for strength in (run.strengths if arm.strengths is None else arm.strengths)
    )
    columns = ["method", "options", "k", "blocks", "on_steps", "strength"]
    settings = frame[columns].astype(object).where(frame[columns].notna(), None)
    cells = pd.Series([tuple(row) for row in settings.itertuples(index=False)], index=frame.index)
    problems = []
    if frame["pair_id"].nunique() != run.pairs:
        problems.append(f"there are records of {frame['pair_id'].nunique()} pairs, run.json says {run.pairs}")
    recorded = set(zip(frame["pair_id"], cells, strict=True))
    missing = [(pair, cell) for pair in frame["pair_id"].unique() for cell in expected if (pair, cell) not in recorded]
    if missing:
        pair, (method, _, _, blocks, on_steps, strength) = missing[0]
        first = f"first: pair {pair}, {method} in {blocks}, steps {on_steps}, strength {strength:g}"
        problems.append(f"{len(missing)} of {len(expected) * frame['pair_id'].nunique()} records are missing ({first})")
    arms = {cell[:-1] for cell in expected}
    tried = frame["at_lpips"].notna()
    strange = {cell for cell in cells[~tried] if cell not in expected} | {c for c in cells[tried] if c[:-1] not in arms}
    if strange:
        method, _, _, blocks, on_steps, strength = min(strange, key=str)
        first = f"first: {method} in {blocks}, steps {on_steps}, strength {strength:g}"
        problems.append(f"{len(strange)} settings are not in run.json ({first})")
    return problems


def _arm_cells(arm: RunArm) -> list[tuple[str, str, float | None, str, str]]:
    k = arm.options.get("k")
    options = json.dumps({n: v for n, v in arm.options.items() if n != "k"}, sort_keys=True)
    number = float(k) if isinstance(k, (int, float)) and not isinstance(k, bool) else None
    if not arm.blocks:
        return [(arm.method, options, number, ANY, ANY)]
    intervals = [interval_name(steps) if steps else ALL_STEPS for steps in arm.on_steps]
    return [(arm.method, options, number, "+".join(arm.blocks), interval) for interval in intervals]
