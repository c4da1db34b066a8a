"""Records as a pandas frame: one row a record, every column documented."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from riebench.pairs.pair import CATEGORIES
from riebench.records.folder import RECORDS
from riebench.records.schema import ACTS, ALL_STEPS, interval_name
from riebench.report.lines import TEXTS, Row, Rows, damaged, read_rows
from riebench.util.errors import UserError

PACKED = f"{RECORDS}.gz"
ANY = "any"
"""What stands for the blocks, or the steps, of a method that acts in none, or alike in all."""
SUFFIXES = (".jsonl", ".gz", ".parquet")
PARTS = ("model", "masker", "clip", "lpips", "sae")
COLUMNS: dict[str, str] = {
    "run": "name of the run folder",
    "key": "hash of all that can change the numbers",
    "status": "ok or failed",
    "pair_id": "id of the pair",
    "category": "number of the category, 1 to 9",
    "category_name": "its name",
    "seed": "seed of all runs of the pair",
    "original_prompt": "with the square brackets that mark the change",
    "editing_prompt": "likewise",
    "method": "canonical name of the method",
    "method_class": "the method as --method takes it, package.module:Class",
    "options": "the method's options except k, as JSON with sorted names",
    "k": "features (or neurons) requested for each direction; null for a method's default, or if it has no k",
    "k_used": "features (or neurons) that the plan changed; null if the method has no k",
    "acts": "inside if the plan changes values in the denoiser, outside if not; null in records of earlier versions",
    "blocks": "short names joined by +, in the order of the record; any for pictures from elsewhere",
    "strength": "factor on the whole intervention",
    "steps": "denoising steps",
    "on_steps": "those in which the intervention is on, counted from 0, as 1-3; all for all of them; any as for blocks",
    "at_lpips": "budgets in search of which the strength was tried, as JSON; null where it was asked for",
    "model": "name of the model",
    "protocol": "name of the protocol",
    **{f"part_{name}": f"fingerprint of the {name} that took part; null if none did" for name in PARTS},
    "measured_with": "fingerprints except the SAE's, and the conditions (type of weights, size, mask rules), as JSON",
    "measured_by": "metric to the network of its own, or the command, that measured it, as JSON",
    "version": "version of riebench",
    "commit": "git commit of riebench; null outside a checkout",
    "dirty": "whether that checkout had changes; null outside one",
    "reason": "why the record failed",
    "error": "type of the exception",
    "where": "stage that failed",
    "seconds": "time spent on the pair, divided by the number of its records",
}
"""Columns of :func:`load_records`, named as the fields of a record; every metric in the records follows by name."""


def records_file(path: Path) -> Path:
    """The file of records that a path stands for.

    Raises:
        UserError: if there is none.
    """
    if path.is_file() and path.suffix not in SUFFIXES:
        raise UserError(f"{path} is no file of records; give the folder of a finished run")
    for file in (path / RECORDS, path / PACKED) if path.is_dir() else (path,):
        if file.is_file():
            return file
    what = "holds no records.jsonl" if path.is_dir() else "does not exist"
    raise UserError(f"{path} {what}; give the folder of a finished run")


def load_records(path: str | Path) -> pd.DataFrame:
    """The records of a run as a frame, one row a record.

    Args:
        path: a run folder, its ``records.jsonl`` (or ``records.jsonl.gz``), or a ``records.parquet`` of a report.

    Returns:
        The columns of :data:`COLUMNS`, then one for each metric; undefined metrics are null. A torn last line is
        skipped with a warning on stderr, as :func:`riebench.records.read_records` does.

    Raises:
        UserError: if the file holds no record, or one is damaged or of another version; the message names the line.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        return _from_parquet(path)
    file = records_file(path)
    try:
        return _frame_of(file.parent.resolve().name, read_rows(file))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise damaged(file) from None


def _frame_of(run: str, rows: Rows) -> pd.DataFrame:
    """The columns of :data:`COLUMNS` and one for each metric.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, OverflowError: if a row is not a record.
    """
    own, count = rows.own, len(rows.own)
    if own["key"].null_count or not set(own["status"].unique().to_pylist()) <= {"ok", "failed"}:
        raise ValueError("no key, or not a status")
    found: dict[str, Any] = {"run": pd.array([run] * count, dtype="str")}
    found |= {name: pd.array(own[name], dtype="str") for name in TEXTS}
    found["seconds"] = own["seconds"].to_numpy()
    for part, columns in ((rows.pairs, _of_pairs), (rows.settings, _of_settings), (rows.notes, _of_notes)):
        taken = pd.DataFrame(columns(part.rows)).take(part.of)
        found |= {str(name): taken[name].array for name in taken}
    return pd.DataFrame({name: found[name] for name in COLUMNS} | _metrics(own))


def _metrics(own: pa.Table) -> dict[str, np.ndarray]:
    """All metrics by name, NaN where a record has no such metric."""
    if "metrics" not in own.column_names or pa.types.is_null(own["metrics"].type):
        return {}
    struct = own["metrics"].combine_chunks()
    if not pa.types.is_struct(struct.type):
        raise TypeError("metrics are no mapping")
    names = sorted(field.name for field in struct.type)
    return {name: _as_numbers(struct.field(name)) for name in names}


def _as_numbers(values: pa.Array) -> np.ndarray:
    if not any(is_a(values.type) for is_a in (pa.types.is_floating, pa.types.is_integer, pa.types.is_null)):
        raise TypeError("not numbers")
    found = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    if np.isinf(found).any():
        raise ValueError("not finite")
    return found


def _of_pairs(rows: Sequence[Row]) -> dict[str, Any]:
    top = _columns(rows, ("pair_id", "category", "seed", "original_prompt", "editing_prompt"))
    return {
        "pair_id": _texts(top["pair_id"]),
        "category": _whole(top["category"]),
        "category_name": [CATEGORIES[number] for number in top["category"]],
        "seed": _whole(top["seed"]),
        "original_prompt": _texts(top["original_prompt"]),
        "editing_prompt": _texts(top["editing_prompt"]),
    }


def _of_settings(rows: Sequence[Row]) -> dict[str, Any]:
    top = _columns(
        rows,
        ("setting", "model", "protocol", "parts", "code"),
        ("conditions", "method_class", "measured_by", "at_lpips"),
    )
    setting = _columns(top["setting"], ("method", "options", "blocks", "strength", "steps"), ("on_steps",))
    code = _columns(top["code"], (), ("riebench", "commit", "dirty"))
    parts = _columns(top["parts"], (), PARTS)
    return {
        "method": _texts(setting["method"]),
        "method_class": _maybe_texts(top["method_class"]),
        "options": [json.dumps({n: v for n, v in o.items() if n != "k"}, sort_keys=True) for o in setting["options"]],
        "k": _numbers([k if type(k := o.get("k")) in (int, float) else None for o in setting["options"]]),
        "blocks": ["+".join(blocks) or ANY for blocks in setting["blocks"]],
        "strength": _finite(setting["strength"]),
        "steps": _whole(setting["steps"]),
        "on_steps": [
            ANY if not blocks else interval_name(steps) if steps else ALL_STEPS
            for blocks, steps in zip(setting["blocks"], setting["on_steps"], strict=True)
        ],
        "at_lpips": _maybe_texts([None if budgets is None else json.dumps(budgets) for budgets in top["at_lpips"]]),
        "model": _texts(top["model"]),
        "protocol": _texts(top["protocol"]),
        **{f"part_{name}": _maybe_texts(parts[name]) for name in PARTS},
        "measured_with": [_measured_with(*both) for both in zip(top["parts"], top["conditions"], strict=True)],
        "measured_by": [json.dumps(by or {}, sort_keys=True) for by in top["measured_by"]],
        "version": _maybe_texts(code["riebench"]),
        "commit": _maybe_texts(code["commit"]),
        "dirty": pd.array(list(code["dirty"]), dtype="boolean"),
    }


def _of_notes(rows: Sequence[Row]) -> dict[str, Any]:
    notes = _columns(rows, (), ("notes",))["notes"]
    return {
        "k_used": _numbers([n.get("k") if n else None for n in notes]),
        "acts": _maybe_texts([n.get(ACTS) if n else None for n in notes]),
    }


def _measured_with(parts: Mapping[str, str], conditions: Mapping[str, Any] | None) -> str:
    """Fingerprints and conditions as JSON; records that differ in them are never in one table."""
    fingerprints = {name: value for name, value in parts.items() if name != "sae"}
    return json.dumps({**fingerprints, **(conditions or {})}, sort_keys=True)


def _columns(rows: Sequence[Row], required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, list[Any]]:
    """Values by key, null where an optional key is missing.

    Raises:
        KeyError, TypeError: if a required key is missing, or a row is no mapping.
    """
    found = {name: [row[name] for row in rows] for name in required}
    return found | {name: [row.get(name) for row in rows] for name in optional}


def _texts(values: Sequence[Any]) -> Sequence[str]:
    if not set(map(type, values)) <= {str}:
        raise TypeError("not text")
    return values


def _maybe_texts(values: Sequence[str | None]) -> Any:
    """Text or null, of the same type even where all are null."""
    return pd.array(list(values), dtype="str")


def _whole(values: Sequence[Any]) -> Sequence[int]:
    if not set(map(type, values)) <= {int}:
        raise TypeError("not whole numbers")
    return values


def _numbers(values: Sequence[Any]) -> np.ndarray:
    """As float64, null and non-finite values as NaN."""
    found = np.array(values, dtype=np.float64)
    found[~np.isfinite(found)] = np.nan
    return found


def _finite(values: Sequence[Any]) -> np.ndarray:
    found = np.array(values, dtype=np.float64)
    if not np.isfinite(found).all():
        raise ValueError("not finite")
    return found


def _from_parquet(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({str(error).splitlines()[0]}); make the report again") from None
    missing = [name for name in COLUMNS if name not in frame]
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r}; it is not a records.parquet of this version")
    return frame
