"""Records as a pandas frame: one row a record, every column documented."""

from __future__ import annotations

import gc
import gzip
import json
import multiprocessing
import os
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
from pydantic import ValidationError

from riebench.errors import UserError
from riebench.pairs.pair import CATEGORIES
from riebench.records import Record
from riebench.records.folder import RECORDS

MANY = 20_000  # records that are worth a second process
_shared: list[bytes] = []
PACKED = f"{RECORDS}.gz"
REQUIRED = (
    "key",
    "status",
    "pair_id",
    "category",
    "seed",
    "original_prompt",
    "editing_prompt",
    "setting",
    "model",
    "protocol",
    "parts",
    "code",
)
OPTIONAL = ("conditions", "metrics", "notes", "reason", "error", "where", "seconds")
PARTS = ("model", "masker", "clip", "lpips", "sae")
COLUMNS: dict[str, str] = {
    "run": "name of the run folder",
    "key": "hash of all that can change the numbers",
    "status": "ok or failed",
    "pair": "id of the pair",
    "category": "number of the category, 1 to 9",
    "category_name": "its name",
    "seed": "seed of all runs of the pair",
    "original_prompt": "with the square brackets that mark the change",
    "editing_prompt": "the same of the edit prompt",
    "method": "canonical name of the method",
    "options": "the method's options except k, as JSON with sorted names",
    "k": "features (or neurons) asked for in each direction; null for a method's default, or where it has none",
    "k_used": "features (or neurons) that the plan moved; null where the method has no k",
    "blocks": "short names joined by +, in the order of the record",
    "strength": "factor on the whole intervention",
    "steps": "denoising steps",
    "model": "name of the model",
    "protocol": "name of the protocol",
    **{f"part_{name}": f"fingerprint of the {name} that took part; null if none did" for name in PARTS},
    "parts": "all fingerprints but the SAE's, and the conditions (type of the weights, size, mask rules), as JSON",
    "version": "version of riebench",
    "commit": "git commit of riebench; null outside a checkout",
    "dirty": "whether that checkout had changes; null outside one",
    "reason": "why the record failed",
    "error": "type of the exception",
    "where": "stage that failed",
    "seconds": "time spent on the pair, divided by the number of its records",
}
"""Columns of :func:`load_records`; every metric of :data:`riebench.metrics.METRICS` in the records follows by name."""


def load_records(path: str | Path) -> pd.DataFrame:
    """The records of a run as a frame, one row a record.

    Args:
        path: a run folder, its ``records.jsonl`` (or ``records.jsonl.gz``), or a ``records.parquet`` of a report.

    Returns:
        The columns of :data:`COLUMNS`, then one for each metric; undefined metrics are null. A torn last line is
        left out with a warning on stderr, as :func:`riebench.records.read_records` does.

    Raises:
        UserError: if there are none, or one is damaged or of another version; the message names the line.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        return _from_parquet(path)
    file = records_file(path)
    lines = _lines(file)
    run = file.parent.resolve().name
    if (found := _by_processes(run, lines)) is not None:
        return found
    with _no_collector():
        rows = _rows(file, lines)
        if not rows:
            raise UserError(f"there are no records in {file}; give the folder of a finished run")
        try:
            return _frame(run, rows)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise _damaged(file, lines) from None


def records_file(path: Path) -> Path:
    """The file of records that a path stands for.

    Raises:
        UserError: if there is none.
    """
    for file in (path / RECORDS, path / PACKED) if path.is_dir() else (path,):
        if file.is_file():
            return file
    what = "holds no records.jsonl" if path.is_dir() else "is not there"
    raise UserError(f"{path} {what}; give the folder of a finished run")


def _lines(file: Path) -> list[bytes]:
    try:
        data = file.read_bytes()
        if file.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file} cannot be read ({error}); restore the file or run again") from None
    return data.removesuffix(b"\n").split(b"\n")


def _by_processes(run: str, lines: Sequence[bytes]) -> pd.DataFrame | None:
    """Many records, read by two processes that share the lines; None where that is no gain, or a line is damaged."""
    if len(lines) < MANY or (os.cpu_count() or 1) < 2 or "fork" not in multiprocessing.get_all_start_methods():
        return None
    _shared[:] = lines
    half = len(lines) // 2
    try:
        with multiprocessing.get_context("fork").Pool(2) as pool:
            frames = pool.map(_part, [(0, half), (half, len(lines))])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None  # read again in order, which says what is wrong and where
    finally:
        _shared.clear()
    return pd.concat(frames, ignore_index=True).assign(run=run)


def _part(bounds: tuple[int, int]) -> pd.DataFrame:
    with _no_collector():
        return _frame("", [orjson.loads(line) for line in _shared[slice(*bounds)]])


def _rows(file: Path, lines: Sequence[bytes]) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(orjson.loads(line))
        except ValueError:
            if number < len(lines):
                raise UserError(f"{file}: line {number} is damaged; restore the file or run again") from None
            if line:
                print(f"riebench: the torn last line of {file} is left out", file=sys.stderr)
    return rows


def _damaged(file: Path, lines: Sequence[bytes]) -> UserError:
    """What is wrong with the first line that is no record of this version."""
    for number, line in enumerate(lines, 1):
        try:
            Record.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            key, said = ".".join(map(str, first["loc"])) or "line", first["msg"].lower()
            return UserError(
                f"{file}: line {number} is not a record of this version of riebench (key {key!r}: {said}); "
                "make the run again, or read it with the version that made it"
            )
    return UserError(f"{file}: a record is damaged; restore the file or run again")


@contextmanager
def _no_collector() -> Iterator[None]:
    """Without the cyclic collector, which would walk through all rows again and again as they are made."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _frame(run: str, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Columns from rows, each checked as a whole.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: if a row is not a record.
    """
    top = _columns(rows, REQUIRED, OPTIONAL)
    setting = _columns(top["setting"], ("method", "options", "blocks", "strength", "steps"))
    code = _columns(top["code"], (), ("riebench", "commit", "dirty"))
    parts = _columns(top["parts"], (), PARTS)
    options, k = _options(setting["options"])
    columns: dict[str, Any] = {
        "run": [run] * len(rows),
        "key": _text(top["key"]),
        "status": _status(top["status"]),
        "pair": _text(top["pair_id"]),
        "category": _whole(top["category"]),
        "category_name": [CATEGORIES[number] for number in top["category"]],
        "seed": _whole(top["seed"]),
        "original_prompt": _text(top["original_prompt"]),
        "editing_prompt": _text(top["editing_prompt"]),
        "method": _text(setting["method"]),
        "options": options,
        "k": _numbers(k),
        "k_used": _numbers(_columns([n or {} for n in top["notes"]], (), ("k",))["k"]),
        "blocks": ["+".join(blocks) for blocks in setting["blocks"]],
        "strength": _finite(setting["strength"]),
        "steps": _whole(setting["steps"]),
        "model": _text(top["model"]),
        "protocol": _text(top["protocol"]),
        **{f"part_{name}": _maybe_text(parts[name]) for name in PARTS},
        "parts": _measured_with(top["parts"], top["conditions"]),
        "version": _maybe_text(code["riebench"]),
        "commit": _maybe_text(code["commit"]),
        "dirty": pd.array(list(code["dirty"]), dtype="boolean"),
        **{name: _maybe_text(top[name]) for name in ("reason", "error", "where")},
        "seconds": _numbers(top["seconds"]),
    }
    metrics = [m or {} for m in top["metrics"]]
    sets = sorted({tuple(m) for m in metrics}, key=len, reverse=True)  # the fullest gives the order
    found = _columns(metrics, (), tuple(dict.fromkeys(name for names in sets for name in names)))
    return pd.DataFrame(columns | {name: _numbers(values) for name, values in found.items()})


def _columns(
    rows: Sequence[Mapping[str, Any]], required: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, Sequence[Any]]:
    """Values by key, null where an optional key is not there.

    Raises:
        KeyError, TypeError: if a required key is not there, or a row is no mapping.
    """
    names = (*required, *optional)
    get = itemgetter(*names) if len(names) > 1 else lambda row: tuple(row[name] for name in names)
    found = []
    for row in rows:
        try:
            found.append(get(row))
        except KeyError:
            found.append((*[row[name] for name in required], *[row.get(name) for name in optional]))
    return dict(zip(names, zip(*found, strict=True), strict=True)) if found else dict.fromkeys(names, ())


def _text(values: Sequence[Any]) -> Sequence[str]:
    if not set(map(type, values)) <= {str}:
        raise TypeError("not text")
    return values


def _maybe_text(values: Sequence[str | None]) -> Any:
    """Text or null, of the same type even where all are null."""
    return pd.array(list(values), dtype="str")


def _whole(values: Sequence[Any]) -> Sequence[int]:
    if not set(map(type, values)) <= {int}:
        raise TypeError("not whole numbers")
    return values


def _status(values: Sequence[Any]) -> Sequence[str]:
    if not set(values) <= {"ok", "failed"}:
        raise ValueError("not a status")
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


def _options(values: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[Any]]:
    """Options without k as JSON, and k."""
    known: dict[str, str] = {}
    texts, ks = [], []
    for value in values:
        said = repr(value)  # 1, 1.0 and True are equal as keys, and not as options
        if said not in known:
            known[said] = json.dumps({n: v for n, v in value.items() if n != "k"}, sort_keys=True)
        texts.append(known[said])
        k = value.get("k")
        ks.append(k if type(k) in (int, float) else None)
    return texts, ks


def _measured_with(parts: Sequence[Mapping[str, str]], conditions: Sequence[Mapping[str, Any] | None]) -> list[str]:
    """Fingerprints and conditions as JSON; records that differ in them are never in one table."""
    known: dict[tuple[object, ...], str] = {}
    texts = []
    for part, condition in zip(parts, conditions, strict=True):
        said = (*part.items(), *(condition or {}).items())
        if said not in known:
            fingerprints = {name: value for name, value in part.items() if name != "sae"}
            known[said] = json.dumps({**fingerprints, **(condition or {})}, sort_keys=True)
        texts.append(known[said])
    return texts


def _from_parquet(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({str(error).splitlines()[0]}); make the report again") from None
    missing = [name for name in COLUMNS if name not in frame]
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r}; it is not a records.parquet of this version")
    return frame
