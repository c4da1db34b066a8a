"""What is left to do in a run folder, and whether its records can be beside those of a run. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from riebench.engine.pair_task import LoadedRun, PairTask, searches_of
from riebench.records import Record
from riebench.util.errors import UserError


def lacking(records: Iterable[Record], metrics: Iterable[str]) -> list[Record]:
    """The records with a picture that lack one of the metrics."""
    names = set(metrics)
    return [record for record in records if record.status == "ok" and not names <= record.metrics.keys()]


def left_to_do(run: LoadedRun, before: Sequence[Record], kept: Iterable[str], retry_failed: bool) -> list[PairTask]:
    """The tasks with the settings whose record is missing or lacks a metric, and those whose search is not at its end.

    Args:
        run: with all tasks.
        before: the records of the folder.
        kept: ids of the pairs whose pictures are kept.
        retry_failed: whether a failed record counts as missing.
    """
    done = {record.key: record for record in before if record.status == "ok" or not retry_failed}
    for record in lacking(before, run.metrics):
        del done[record.key]
    left = []
    for task in run.tasks:
        missing = tuple(setting for setting in task.settings if setting.key not in done)
        searches = tuple(searches_of(run.search, task.settings, done).values()) if run.search else ()
        if missing or any(search.next_strengths() for search in searches):
            keep = task.pair.id in kept
            left.append(task._replace(settings=missing, keep_images=keep, searches=searches))
    return left


def refuse_other_runs(run: LoadedRun, before: Sequence[Record], folder: Path) -> None:
    """Check that the run's records can be in one folder with earlier ones; new pairs, methods and strengths can.

    Raises:
        UserError: if a record is of another model, protocol, number of steps, weights or conditions, or of the same
            pair and setting with another seed, text or code: tables would mix what cannot be compared.
    """
    if not before:
        return
    end = f"give another --out, or --force to discard the records in {folder}"
    refuse_other_scorers(run.measured_by, before, end)
    shared = run.shared
    ours = {"model": shared["model"], "protocol": shared["protocol"], "steps": shared["steps"]}
    ours |= _facts(shared["parts"], shared["conditions"])
    keys = {
        (task.pair.id, setting.setting.model_dump_json()): (task, setting.key)
        for task in run.tasks
        for setting in task.settings
    }
    for record in before:
        theirs = {"model": record.model, "protocol": record.protocol, "steps": record.setting.steps}
        theirs |= _facts(record.parts, record.conditions)
        for name in [n for n in {**theirs, **ours} if n != "sae" or n in theirs]:
            if theirs.get(name) != ours.get(name):
                differ = f"the {name} {theirs.get(name)!r}, this run has {ours.get(name)!r}"
                raise UserError(f"the folder has records with {differ}; {end}")
        task, key = keys.get((record.pair_id, record.setting.model_dump_json()), (None, record.key))
        if task is not None and record.key != key and not _failed_before(task, record):
            raise UserError(f"the folder has a record of {_difference(task, record)}; {end}")


def refuse_other_scorers(measured_by: Mapping[str, str], before: Iterable[Record], end: str) -> None:
    """Check that metrics are measured by what measured them in earlier records.

    Args:
        measured_by: metric to the network or command that measures it now.
        before: the earlier records.
        end: of the message, what to do.

    Raises:
        UserError: if a metric is not.
    """
    for record in before:
        for name, theirs in record.measured_by.items():
            if measured_by.get(name, theirs) != theirs:
                now = measured_by[name]
                raise UserError(f"the folder has records with {name} by {theirs}, and now it is {now}; {end}")


def _failed_before(task: PairTask, record: Record) -> bool:
    """Whether a record is a failure of the same pair; the new record replaces it in every table."""
    pair = task.pair
    same = (pair.original_prompt, pair.editing_prompt, task.seed)
    return record.status == "failed" and same == (record.original_prompt, record.editing_prompt, record.seed)


def _difference(task: PairTask, record: Record) -> str:
    """Why a record of the same pair and setting has another key."""
    pair = task.pair
    if record.seed != task.seed:
        return f"the pair {pair.id!r} with the seed {record.seed}, not {task.seed}"
    if (record.original_prompt, record.editing_prompt) != (pair.original_prompt, pair.editing_prompt):
        return f"the pair {pair.id!r} with other prompts"
    other = f"other phrases, another picture, or other code or files of the method {record.setting.method!r}"
    return f"the pair {pair.id!r} made with {other}"


def _facts(parts: Mapping[str, str], conditions: Mapping[str, Any]) -> dict[str, Any]:
    return {"weights" if name == "model" else name: value for name, value in parts.items()} | dict(conditions)
