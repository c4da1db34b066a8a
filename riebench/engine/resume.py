"""What is left to do in a run folder, and whether what is in it may stand beside what will come."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from riebench.engine.recording import Recorder, Task, Wanted
from riebench.pairs import Pair
from riebench.records import Record, Setting
from riebench.util.errors import UserError


@dataclass(frozen=True)
class Survey:
    """A run as its worker knows it once models are loaded; plain data, so that another process can send it.

    Attributes:
        wanted: pair id to its settings with their keys.
        seeds: pair id to the seed of its runs.
        settings: for each condition and strength, the setting as records keep it.
        shared: what all records of the folder share, as ``run.json`` keeps it.
        locations: where the parts of the model were found.
        device: that the worker computes on.
        bytes: memory that the worker's process holds.
    """

    wanted: Mapping[str, tuple[Wanted, ...]]
    seeds: Mapping[str, int]
    settings: Mapping[tuple[int, float], Setting]
    shared: Mapping[str, Any]
    locations: Mapping[str, str]
    device: str
    bytes: int = 0

    @classmethod
    def of(cls, recorder: Recorder, pairs: Sequence[Pair], **rest: Any) -> Survey:
        """The survey of a recorder's request."""
        strengths = [(i, s) for i, c in enumerate(recorder.request.conditions) for s in c.strengths]
        return cls(
            wanted={pair.id: recorder.wanted(pair) for pair in pairs},
            seeds={pair.id: recorder.seed_of(pair) for pair in pairs},
            settings={key: recorder.setting(*key) for key in strengths},
            **rest,
        )


def left_to_do(
    pairs: Iterable[Pair], survey: Survey, before: Sequence[Record], kept: Iterable[str], retry_failed: bool
) -> list[Task]:
    """A task for each pair of which a record is missing.

    Args:
        pairs: the chosen pairs.
        survey: of the run.
        before: the records that the folder holds.
        kept: ids of the pairs whose pictures are kept.
        retry_failed: whether a failed record counts as missing.
    """
    done = {record.key for record in before if record.status == "ok" or not retry_failed}
    keep, tasks = set(kept), []
    for pair in pairs:
        missing = tuple(wanted for wanted in survey.wanted[pair.id] if wanted.key not in done)
        if missing:
            tasks.append(Task(pair, missing, pair.id in keep))
    return tasks


def refuse_other_runs(pairs: Iterable[Pair], survey: Survey, before: Sequence[Record], folder: Path) -> None:
    """See that a folder's records can stand beside those to come; other pairs, methods and strengths are welcome.

    Raises:
        UserError: if a record is of another model, protocol, number of steps, weights or conditions, or of the same
            pair and setting with another seed, text or code, so that tables would mix what cannot be compared.
    """
    end = f"give another --out, or --force to discard the records in {folder}"
    shared = survey.shared
    mine = _facts(shared["model"], shared["protocol"], shared["steps"], shared["parts"], shared["conditions"])
    asked = {
        (pair.id, _text(survey.settings[wanted.condition, wanted.strength])): (pair, wanted.key)
        for pair in (pairs if before else ())
        for wanted in survey.wanted[pair.id]
    }
    for record in before:
        theirs = _facts(record.model, record.protocol, record.setting.steps, record.parts, record.conditions)
        for name in [n for n in {**theirs, **mine} if n != "sae" or n in theirs]:
            if theirs.get(name) != mine.get(name):
                differ = f"the {name} {theirs.get(name)!r}, this run has {mine.get(name)!r}"
                raise UserError(f"the folder has records with {differ}; {end}")
        pair, key = asked.get((record.pair_id, _text(record.setting)), (None, record.key))
        if pair is not None and record.key != key:
            raise UserError(f"the folder has a record of {_difference(pair, survey.seeds[pair.id], record)}; {end}")


def _difference(pair: Pair, seed: int, record: Record) -> str:
    """Why a record of the same pair and setting has another key."""
    if record.seed != seed:
        return f"the pair {pair.id!r} with the seed {record.seed}, not {seed}"
    if (record.original_prompt, record.editing_prompt) != (pair.original_prompt, pair.editing_prompt):
        return f"the pair {pair.id!r} with other prompts"
    return f"the pair {pair.id!r} made with other phrases, or other code of the method {record.setting.method!r}"


def _facts(
    model: str, protocol: str, steps: int, parts: Mapping[str, str], conditions: Mapping[str, Any]
) -> dict[str, Any]:
    """What all records of a folder share."""
    weights = {"weights" if name == "model" else name: value for name, value in parts.items()}
    return {"model": model, "protocol": protocol, "steps": steps, **weights, **conditions}


def _text(setting: Setting) -> str:
    return json.dumps(setting.model_dump(mode="json"), sort_keys=True)


