"""What is left to do in a run folder, and whether its records may stand beside those to come. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from riebench.engine.searching import courses
from riebench.engine.tasks import Survey
from riebench.records import Record
from riebench.settings.lpips_search import lpips_of
from riebench.util.errors import UserError

if TYPE_CHECKING:
    from riebench.engine.tasks import Task


def lacking(before: Iterable[Record], metrics: Iterable[str]) -> list[Record]:
    """The records that were scored, but not by every metric that is named."""
    names = set(metrics)
    return [record for record in before if record.status == "ok" and not names <= record.metrics.keys()]


def left_to_do(survey: Survey, before: Sequence[Record], kept: Iterable[str], retry_failed: bool) -> list[Task]:
    """The tasks of which a record is missing or lacks a metric, with those settings alone, or a search is not over.

    Args:
        survey: everything that was asked for.
        before: the records that the folder holds.
        kept: ids of the pairs whose pictures are kept.
        retry_failed: whether a failed record counts as missing.
    """
    done = {record.key: record for record in before if record.status == "ok" or not retry_failed}
    for record in lacking(before, survey.metrics):
        del done[record.key]
    left = []
    for task in survey.tasks:
        missing = tuple(wanted for wanted in task.wanted if wanted.key not in done)
        known = tuple((wanted, lpips_of(done[wanted.key])) for wanted in task.wanted if wanted.key in done)
        if missing or (survey.at_lpips and any(map(survey.at_lpips.next_strengths, courses(known).values()))):
            known = known if survey.at_lpips else ()
            left.append(task._replace(wanted=missing, keep_images=task.pair.id in kept, known=known))
    return left


def refuse_other_runs(survey: Survey, before: Sequence[Record], folder: Path) -> None:
    """See that a folder's records can stand beside those to come; other pairs, methods and strengths are welcome.

    Raises:
        UserError: if a record is of another model, protocol, number of steps, weights or conditions, or of the same
            pair and setting with another seed, text or code, so that tables would mix what cannot be compared.
    """
    if not before:
        return
    end = f"give another --out, or --force to discard the records in {folder}"
    refuse_other_scorers(survey.measured_by, before, end)
    shared = survey.shared
    mine = {"model": shared["model"], "protocol": shared["protocol"], "steps": shared["steps"]}
    mine |= _facts(shared["parts"], shared["conditions"])
    asked = {
        (task.pair.id, wanted.setting.model_dump_json()): (task, wanted.key)
        for task in survey.tasks
        for wanted in task.wanted
    }
    for record in before:
        theirs = {"model": record.model, "protocol": record.protocol, "steps": record.setting.steps}
        theirs |= _facts(record.parts, record.conditions)
        for name in [n for n in {**theirs, **mine} if n != "sae" or n in theirs]:
            if theirs.get(name) != mine.get(name):
                differ = f"the {name} {theirs.get(name)!r}, this run has {mine.get(name)!r}"
                raise UserError(f"the folder has records with {differ}; {end}")
        task, key = asked.get((record.pair_id, record.setting.model_dump_json()), (None, record.key))
        if task is not None and record.key != key and not _failed_before(task, record):
            raise UserError(f"the folder has a record of {_difference(task, record)}; {end}")


def refuse_other_scorers(mine: Mapping[str, str], before: Iterable[Record], end: str) -> None:
    """See that what measures some metrics is what measured them in earlier records.

    Raises:
        UserError: if it is not; ``end`` says what to do.
    """
    for record in before:
        for name, theirs in record.measured_by.items():
            if mine.get(name, theirs) != theirs:
                raise UserError(f"the folder has records with {name} by {theirs}, and now it is {mine[name]}; {end}")


def _failed_before(task: Task, record: Record) -> bool:
    """Whether a record is a failure of the very pair, which what is made now replaces in every table."""
    pair = task.pair
    same = (pair.original_prompt, pair.editing_prompt, task.seed)
    return record.status == "failed" and same == (record.original_prompt, record.editing_prompt, record.seed)


def _difference(task: Task, record: Record) -> str:
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
