"""Records as a pandas frame: one row a record, every column documented."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
from numpy.typing import NDArray

from riebench.pairs.pair import CATEGORIES
from riebench.records.folder import records_file
from riebench.records.lines import Row, damaged, for_each_record
from riebench.records.schema import ACTS, ALL_STEPS, interval_name
from riebench.util.errors import UserError

ANY = "any"
"""What stands for the blocks, or the steps, of a method that acts in none, or alike in all."""
AT_ONCE = 16_384
"""Records whose metrics are packed together."""
PARTS = ("model", "masker", "clip", "lpips", "sae")
_pair_of = itemgetter("pair_id", "category", "seed", "original_prompt", "editing_prompt")
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
    "made_by": "hashes of the code that made the picture, as JSON; {} in records of earlier versions",
    "version": "version of riebench",
    "commit": "git commit of riebench; null outside a checkout",
    "dirty": "whether that checkout had changes; null outside one",
    "reason": "why the record failed",
    "error": "type of the exception",
    "where": "stage that failed",
    "seconds": "time spent on the pair, divided by the number of its records",
}
"""Columns of :func:`load_records`, named as the fields of a record; every metric in the records follows by name."""


def load_records(path: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """The records of a run, or of several, as a frame, one row a record.

    Args:
        path: a run folder, its ``records.jsonl`` (or ``records.jsonl.gz``), or a ``records.parquet`` of a report; or a
            list of such, whose rows follow one another; the column ``run`` names their folders.

    Returns:
        The columns of :data:`COLUMNS`, then one for each metric; undefined metrics are null. A torn last line is
        skipped with a warning on stderr, as :func:`riebench.records.read_records` does.

    Raises:
        UserError: if the path is none, a file holds no record, or one is damaged or of another version; the message
            names the line.
    """
    paths = [path] if isinstance(path, str | Path) else list(path) if isinstance(path, list | tuple) else []
    for each in paths or [path]:
        if not isinstance(each, str | Path) or not str(each):
            raise UserError(f"{each!r} is no folder of a run; give its path, or a list of such")
    files = [Path(each) for each in paths]
    for number, file in enumerate(files):
        if file.resolve() in [earlier.resolve() for earlier in files[:number]]:
            raise UserError(f"{file} is named twice; name each run once")
    frames = [_records_of(file) for file in files]
    return frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)


def _records_of(path: Path) -> pd.DataFrame:
    """The records of one run; errors as of :func:`load_records`."""
    if path.suffix == ".parquet":
        return _from_parquet(path)
    file = records_file(path)
    try:
        return _frame_of(file)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise damaged(file) from None


def _frame_of(file: Path) -> pd.DataFrame:
    """The columns of :data:`COLUMNS` and one for each metric.

    Each row is taken apart as it is read: keeping all of them would take twice the time.

    Raises:
        UserError: if the file cannot be read, holds no record, or a line is damaged.
        KeyError, TypeError, ValueError, AttributeError: if a line is no record.
    """
    rows = _Rows()
    shared = for_each_record(file, rows.add)
    if not rows.shared:
        raise UserError(f"there are no records in {file}; give the folder of a finished run")
    numbers = {name: number for number, name in enumerate(shared)}
    columns: dict[str, Any] = {"run": pd.array([file.parent.resolve().name] * len(rows.shared), dtype="str")}
    columns |= rows.columns()
    columns |= _taken(_shared_columns(list(shared.values())), [numbers[name] for name in rows.shared])
    return pd.DataFrame({name: columns[name] for name in COLUMNS} | rows.metrics.columns())


class _Rows:
    """The columns of a file's records without their shared parts, filled one record after the other.

    Values are kept in lists of plain values, as many small tuples would slow down Python's garbage collector.

    Attributes:
        shared: name of the shared part of each record.
        metrics: of each record.
    """

    def __init__(self) -> None:
        self.shared: list[str | bytes] = []
        self.metrics = _Metrics()
        self._keys: list[Any] = []
        self._strengths: list[Any] = []
        self._seconds: list[Any] = []
        self._pairs, self._settings, self._outcomes = _Repeated(), _Repeated(), _Repeated()

    def add(self, row: Row, shared: str | bytes) -> None:
        setting, get = row["setting"], row.get
        self._keys.append(row["key"])
        self._strengths.append(setting.pop("strength"))
        self._seconds.append(get("seconds"))
        self._pairs.add(_pair_of(row))
        self._settings.add(setting)
        self._outcomes.add(
            (row["status"], get("notes") or {}, get("at_lpips"), get("reason"), get("error"), get("where"))
        )
        self.metrics.add(get("metrics") or {})
        self.shared.append(shared)

    def columns(self) -> dict[str, Any]:
        """The columns of :data:`COLUMNS` that neither the run nor shared parts give."""
        return {
            "key": _texts(self._keys),
            "strength": _finite(self._strengths),
            "seconds": _numbers(self._seconds),
            **self._pairs.columns(_pair_columns),
            **self._settings.columns(_setting_columns),
            **self._outcomes.columns(_outcome_columns),
        }


def _taken(columns: Mapping[str, Any], numbers: Sequence[int]) -> dict[str, Any]:
    """The rows of columns with these numbers, from 0."""
    frame = pd.DataFrame(columns).take(numbers)
    return {str(name): frame[name].array for name in frame}


class _Repeated:
    """A value of each record, added one record after the other; equal ones are kept once, as JSON."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._of_records: list[int] = []

    def add(self, value: Any) -> None:
        self._of_records.append(self._numbers.setdefault(orjson.dumps(value), len(self._numbers)))

    def columns(self, make: Callable[[list[Any]], Mapping[str, Any]]) -> dict[str, Any]:
        """The result of ``make`` for each record, computed once for each different value."""
        return _taken(make([orjson.loads(text) for text in self._numbers]), self._of_records)


class _Metrics:
    """The metrics of records, added one record after the other; records with the same metrics are kept together.

    Python's numbers take four times the memory of an array, so that they are packed now and then.
    """

    def __init__(self) -> None:
        self._count, self._sound = 0, True
        self._values: dict[tuple[str, ...], tuple[list[int], list[float | None]]] = {}
        self._packed: list[tuple[tuple[str, ...], NDArray[np.intp], NDArray[np.float64]]] = []

    def add(self, metrics: Mapping[str, float | None]) -> None:
        numbers, values = self._values.setdefault(tuple(metrics), ([], []))
        numbers.append(self._count)
        values.extend(metrics.values())
        self._count += 1
        if len(numbers) == AT_ONCE:
            self._pack(tuple(metrics))

    def _pack(self, names: tuple[str, ...]) -> None:
        numbers, values = self._values.pop(names)
        try:
            if not set(map(type, values)) <= {float, int, type(None)}:
                raise TypeError
            table = np.array(values, np.float64).reshape(len(numbers), len(names))
        except (TypeError, OverflowError):
            self._sound = False  # no error here, where a line is read
        else:
            self._sound = self._sound and not np.isinf(table).any()
            self._packed.append((names, np.array(numbers, np.intp), table))

    def columns(self) -> dict[str, np.ndarray]:
        """All metrics by name, sorted; NaN where a record has no such metric.

        Raises:
            ValueError: if a metric is no finite number.
        """
        for group in list(self._values):
            self._pack(group)
        if not self._sound:
            raise ValueError("not finite numbers")
        columns = {
            name: np.full(self._count, np.nan) for name in sorted({n for names, *_ in self._packed for n in names})
        }
        for group, of_records, table in self._packed:
            for name, column in zip(group, table.T, strict=True):
                columns[name][of_records] = column
        return columns


def _pair_columns(pairs: Sequence[Sequence[Any]]) -> dict[str, Any]:
    pair_id, category, seed, original, editing = zip(*pairs, strict=True)
    return {
        "pair_id": _texts(pair_id),
        "category": _whole(category),
        "category_name": [CATEGORIES[number] for number in category],
        "seed": _whole(seed),
        "original_prompt": _texts(original),
        "editing_prompt": _texts(editing),
    }


def _setting_columns(settings: Sequence[Row]) -> dict[str, Any]:
    setting = _columns(settings, ("method", "options", "blocks", "steps"), ("on_steps",))
    return {
        "method": _texts(setting["method"]),
        "options": [json.dumps({n: v for n, v in o.items() if n != "k"}, sort_keys=True) for o in setting["options"]],
        "k": _numbers([k if type(k := o.get("k")) in (int, float) else None for o in setting["options"]]),
        "blocks": ["+".join(blocks) or ANY for blocks in setting["blocks"]],
        "steps": _whole(setting["steps"]),
        "on_steps": [
            ANY if not blocks else interval_name(steps) if steps else ALL_STEPS
            for blocks, steps in zip(setting["blocks"], setting["on_steps"], strict=True)
        ],
    }


def _outcome_columns(outcomes: Sequence[Sequence[Any]]) -> dict[str, Any]:
    status, notes, at_lpips, reason, error, where = zip(*outcomes, strict=True)
    if not set(status) <= {"ok", "failed"}:
        raise ValueError("not a status")
    return {
        "status": _texts(status),
        "k_used": _numbers([noted.get("k") for noted in notes]),
        "acts": _maybe_texts([noted.get(ACTS) for noted in notes]),
        "at_lpips": _maybe_texts([None if budgets is None else json.dumps(budgets) for budgets in at_lpips]),
        "reason": _maybe_texts(reason),
        "error": _maybe_texts(error),
        "where": _maybe_texts(where),
    }


def _shared_columns(rows: Sequence[Row]) -> dict[str, Any]:
    top = _columns(
        rows, ("model", "protocol", "parts", "code"), ("conditions", "method_class", "measured_by", "made_by")
    )
    code = _columns(top["code"], (), ("riebench", "commit", "dirty"))
    parts = _columns(top["parts"], (), PARTS)
    return {
        "method_class": _maybe_texts(top["method_class"]),
        "model": _texts(top["model"]),
        "protocol": _texts(top["protocol"]),
        **{f"part_{name}": _maybe_texts(parts[name]) for name in PARTS},
        "measured_with": [_measured_with(*both) for both in zip(top["parts"], top["conditions"], strict=True)],
        **{name: [json.dumps(by or {}, sort_keys=True) for by in top[name]] for name in ("measured_by", "made_by")},
        "version": _maybe_texts(code["riebench"]),
        "commit": _maybe_texts(code["commit"]),
        "dirty": pd.array(list(code["dirty"]), dtype="boolean"),
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
    columns = {name: [row[name] for row in rows] for name in required}
    return columns | {name: [row.get(name) for row in rows] for name in optional}


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
    numbers = np.array(values, dtype=np.float64)
    numbers[~np.isfinite(numbers)] = np.nan
    return numbers


def _finite(values: Sequence[Any]) -> np.ndarray:
    numbers = np.array(values, dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError("not finite")
    return numbers


def _from_parquet(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({str(error).splitlines()[0]}); make the report again") from None
    missing = [name for name in COLUMNS if name not in frame]
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r}; it is not a records.parquet of this version")
    return frame.astype(dict.fromkeys(frame.select_dtypes("category"), "str"))  # as reports hold long texts
