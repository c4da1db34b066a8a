"""What is left to do in a run folder, and whether its records can be beside those of a run. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from riebench.engine.pair_task import LoadedRun, PairTask, searches_of
from riebench.records import Record, read_run
from riebench.records.folder import RECORDS
from riebench.records.schema import measures_alike
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


def refuse_other_request(protocol: str, steps: int, folder: Path) -> None:
    """Refuse, before anything is loaded, what :func:`refuse_other_runs` would refuse for its protocol or steps.

    Args:
        protocol: of the run.
        steps: likewise.
        folder: where the run's records belong.

    Raises:
        UserError: if the folder has records, and its ``run.json`` names another protocol or number of steps.
    """
    file, before = folder / RECORDS, read_run(folder)
    if not file.is_file() or not file.stat().st_size:
        return
    for name, now in (("protocol", protocol), ("steps", steps)):
        if before.get(name, now) != now:
            raise UserError(_other_fact(name, before[name], now, _elsewhere(folder)))


def _elsewhere(folder: Path) -> str:
    return f"give another --out, or discard all records in {folder} with 'riebench run --force'"


def _other_fact(name: str, theirs: Any, ours: Any, end: str) -> str:
    return f"the folder has records with the {name} {theirs!r}, this run has {ours!r}; {end}"


def refuse_other_runs(run: LoadedRun, before: Sequence[Record], folder: Path, mend: str = "") -> None:
    """Check that the run's records can be in one folder with earlier ones; new pairs, methods and strengths can.

    What a record of an earlier version does not say is not compared.

    Args:
        run: with all tasks.
        before: the earlier records.
        folder: of these.
        mend: what to do, for the message; for the records of the run's own folder unless given.

    Raises:
        UserError: if a record is of another model, protocol, number of steps, weights, conditions or code, of a pair
            that was another then, or of the same pair and setting with another seed: tables would mix what cannot be
            compared.
    """
    if not before:
        return
    end = mend or _elsewhere(folder)
    refuse_other_scorers(run.measured_by, before, mend or f"measure it anew by 'riebench score --again', {end}")
    _refuse_other_code(run, before, end)
    _refuse_other_pairs(run.tasks, before, end)
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
                raise UserError(_other_fact(name, theirs.get(name), ours.get(name), end))
        task, key = keys.get((record.pair_id, record.setting.model_dump_json()), (None, record.key))
        if task is not None and record.key != key and not _failed_before(task, record):
            raise UserError(f"the folder has a record of {_difference(task, record)}; {end}")


OTHER_CODE = {
    "numerics": "another version of what riebench computes",
    "masks": "another function of masks= (its code, or what it uses; a text 'fingerprint' of the object may name it)",
    "model": "other code of the model's family",
    "method": "other code of the method {!r}",
    "imports": "other modules or data that the code of the method {!r} uses",
    "files": "other contents of the files that the method {!r} reads",
}
"""What differs, by the facts of :attr:`Record.made_by`: of every record, of one method, of one method with options."""


def _refuse_other_code(run: LoadedRun, before: Iterable[Record], end: str) -> None:
    """Check that earlier records were made by the code that the run has now, as far as they say.

    Raises:
        UserError: if a record was not.
    """
    known = {
        (record.setting.method, json.dumps(record.setting.options, sort_keys=True), tuple(record.made_by.items()))
        for record in before
        if record.status == "ok" and record.made_by
    }
    for arm, ours in zip(run.shared["arms"], run.made_by, strict=True):
        options = json.dumps(arm["options"], sort_keys=True)
        for method, of_method, made_by in known:
            theirs, same = dict(made_by), method == arm["method"]
            compared = ["numerics", "masks", "model"] + ["method", "imports"] * same
            compared += ["files"] * (same and options == of_method)
            for fact in compared:
                if theirs.get(fact) != ours.get(fact):
                    what = OTHER_CODE[fact].format(method)
                    raise UserError(f"the folder has records made with {what}; {end}")


def refuse_other_makers(then: Mapping[str, Any], now: Mapping[str, Any], methods: Sequence[str], end: str) -> None:
    """Check that weights, conditions, code, scorers and pictures are what they were, see :func:`.session.made_with`.

    Args:
        then: of an earlier session.
        now: of this run, which has the same request.
        methods: of the conditions of the request.
        end: of the message, what to do.

    Raises:
        UserError: if one is not.
    """
    ours, theirs = (_facts(facts["parts"], facts["conditions"]) for facts in (now, then))
    for name in {**theirs, **ours}:
        if theirs.get(name) != ours.get(name):
            raise UserError(f"it was run with the {name} {theirs.get(name)!r}, now it is {ours.get(name)!r}; {end}")
    for method, made_before, made_now in zip(methods, then["made_by"], now["made_by"], strict=True):
        for fact, what in OTHER_CODE.items():
            if made_before.get(fact) != made_now.get(fact):
                raise UserError(f"it was run with {what.format(method)}; {end}")
    for name, by in then["measured_by"].items():
        if not measures_alike(by, now["measured_by"].get(name, "")):
            raise UserError(f"it was run with {name} by {by}, and now it is {now['measured_by'].get(name)}; {end}")
    for pair, picture in then.get("pictures", {}).items():
        if picture != now["pictures"].get(pair):
            raise UserError(f"it was run on another picture of the pair {pair!r}; {end}")


def _refuse_other_pairs(tasks: Iterable[PairTask], before: Iterable[Record], end: str) -> None:
    """Check that the pairs of earlier records are what they are in the run's tasks, as far as these say.

    Raises:
        UserError: if one is not. The phrases of a pair that failed may have been mended since.
    """
    by_id = {task.pair.id: (task, task.pair_hash) for task in tasks}
    for record in before:
        task, pair_hash = by_id.get(record.pair_id, (None, ""))
        if task is None:
            continue
        texts = (task.pair.editing_type_id, task.pair.original_prompt, task.pair.editing_prompt)
        other = (record.category, record.original_prompt, record.editing_prompt) != texts
        if other or (record.status == "ok" and record.pair_hash not in (None, pair_hash)):
            what = "another category or other prompts" if other else "other phrases, or another instruction"
            raise UserError(f"the folder has a record of the pair {record.pair_id!r} with {what}; {end}")


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
            if not measures_alike(theirs, measured_by.get(name, theirs)):
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
    other = f"other phrases, another picture, or other code or files of the method {record.setting.method!r}"
    return f"the pair {pair.id!r} made with {other}"


def _facts(parts: Mapping[str, str], conditions: Mapping[str, Any]) -> dict[str, Any]:
    return {"weights" if name == "model" else name: value for name, value in parts.items()} | dict(conditions)
