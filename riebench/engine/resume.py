"""What is left to do in a run folder, and whether its records may stand beside those to come. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from riebench.records import Record, Setting
from riebench.util.errors import UserError

if TYPE_CHECKING:
    from riebench.engine.recording import Task


@dataclass(frozen=True)
class Survey:
    """A run as its worker knows it once models are loaded; plain data, so that another process can send it.

    Attributes:
        tasks: one for each pair, with every setting that was asked for.
        settings: number of the condition and strength to the setting as records keep it.
        shared: what all records of the folder share, as ``run.json`` keeps it.
        locations: where the parts of the model were found.
        device: that the worker computes on.
        bytes: memory that the worker's process holds.
    """

    tasks: Sequence[Task]
    settings: Mapping[tuple[int, float], Setting]
    shared: Mapping[str, Any]
    locations: Mapping[str, str]
    device: str
    bytes: int


def left_to_do(tasks: Iterable[Task], before: Sequence[Record], kept: Iterable[str], retry_failed: bool) -> list[Task]:
    """The tasks of which a record is missing, with the missing settings alone.

    Args:
        tasks: everything that was asked for.
        before: the records that the folder holds.
        kept: ids of the pairs whose pictures are kept.
        retry_failed: whether a failed record counts as missing.
    """
    done = {record.key for record in before if record.status == "ok" or not retry_failed}
    missing = [(task, tuple(wanted for wanted in task.wanted if wanted.key not in done)) for task in tasks]
    return [task._replace(wanted=some, keep_images=task.pair.id in kept) for task, some in missing if some]


def refuse_other_runs(survey: Survey, before: Sequence[Record], folder: Path) -> None:
    """See that a folder's records can stand beside those to come; other pairs, methods and strengths are welcome.

    Raises:
        UserError: if a record is of another model, protocol, number of steps, weights or conditions, or of the same
            pair and setting with another seed, text or code, so that tables would mix what cannot be compared.
    """
    if not before:
        return
    end = f"give another --out, or --force to discard the records in {folder}"
    shared = survey.shared
    mine = {"model": shared["model"], "protocol": shared["protocol"], "steps": shared["steps"]}
    mine |= _facts(shared["parts"], shared["conditions"])
    asked = {
        (task.pair.id, survey.settings[wanted.condition, wanted.strength].model_dump_json()): (task, wanted.key)
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
        if task is not None and record.key != key:
            raise UserError(f"the folder has a record of {_difference(task, record)}; {end}")


def _difference(task: Task, record: Record) -> str:
    """Why a record of the same pair and setting has another key."""
    pair = task.pair
    if record.seed != task.seed:
        return f"the pair {pair.id!r} with the seed {record.seed}, not {task.seed}"
    if (record.original_prompt, record.editing_prompt) != (pair.original_prompt, pair.editing_prompt):
        return f"the pair {pair.id!r} with other prompts"
    return (
        f"the pair {pair.id!r} made with other phrases, or other code or files of the method {record.setting.method!r}"
    )


def _facts(parts: Mapping[str, str], conditions: Mapping[str, Any]) -> dict[str, Any]:
    return {"weights" if name == "model" else name: value for name, value in parts.items()} | dict(conditions)
