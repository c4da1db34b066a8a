"""What is left to do in a run folder. A task holds no model, so it can be handed to another process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from riebench.engine.pairwork import PairWorker
from riebench.util.errors import UserError
from riebench.pairs import Pair
from riebench.records import Record, Setting


@dataclass(frozen=True)
class Task:
    """Settings to run on one pair.

    Attributes:
        pair: the pair.
        keys: of the records that are wanted, see :meth:`PairWorker.keys`.
        keep_images: whether the pair's pictures are wanted.
    """

    pair: Pair
    keys: tuple[str, ...]
    keep_images: bool = False


def open_tasks(
    worker: PairWorker,
    pairs: Iterable[Pair],
    there: Mapping[str, str],
    keep_images: Callable[[Pair], bool] = lambda pair: False,
    retry_failed: bool = False,
) -> list[Task]:
    """A task for each pair of which something is missing.

    Args:
        worker: knows the settings.
        pairs: to run them on.
        there: key to status of the records that are there.
        keep_images: whether the pictures of a pair are wanted.
        retry_failed: whether a failed record counts as missing.
    """
    done = ("ok",) if retry_failed else ("ok", "failed")
    tasks = []
    for pair in pairs:
        keys = tuple(key for key in worker.keys(pair) if there.get(key) not in done)
        if keys:
            tasks.append(Task(pair, keys, keep_images(pair)))
    return tasks


def refuse_other_runs(worker: PairWorker, pairs: Iterable[Pair], records: Sequence[Record], folder: Path) -> None:
    """See that records of a folder can stand beside those to come; other pairs, methods and strengths are welcome.

    Raises:
        UserError: if a record is of another model, protocol, number of steps, weights or conditions, or of the same
            pair and setting with another seed, text or code, so that tables would mix what cannot be compared.
    """
    end = f"give another --out, or --force to discard the records in {folder}"
    mine = _facts(worker)
    wanted: dict[tuple[str, str], tuple[Pair, set[str]]] = {}
    for pair in pairs:
        for arm, strength in worker.settings:
            setting = _text(worker.recorder.setting(arm, strength))
            _, keys = wanted.setdefault((pair.id, setting), (pair, set()))
            keys.add(worker.recorder.key(pair, arm, strength))
    for record in records:
        theirs = _facts_of(record)
        for name in [n for n in {**theirs, **mine} if n != "sae" or n in theirs]:
            if theirs.get(name) != mine.get(name):
                said = f"the {name} {theirs.get(name)!r}, this run has {mine.get(name)!r}"
                raise UserError(f"the folder has records with {said}; {end}")
        asked = wanted.get((record.pair_id, _text(record.setting)))
        if asked is not None and record.key not in asked[1]:
            raise UserError(f"the folder has a record of {_difference(worker, asked[0], record)}; {end}")


def _difference(worker: PairWorker, pair: Pair, record: Record) -> str:
    """Why a record of the same pair and setting has another key."""
    seed = worker.recorder.seed_of(pair)
    if record.seed != seed:
        return f"the pair {pair.id!r} with the seed {record.seed}, not {seed}"
    if (record.original_prompt, record.editing_prompt) != (pair.original_prompt, pair.editing_prompt):
        return f"the pair {pair.id!r} with other prompts"
    return f"the pair {pair.id!r} made with other phrases, or other code of the method {record.setting.method!r}"


def _facts(worker: PairWorker) -> dict[str, Any]:
    """What all records of a folder share."""
    recorder = worker.recorder
    run = {"model": recorder.instruments.name, "protocol": recorder.protocol.name, "steps": recorder.steps}
    return run | _weights(recorder.instruments.parts) | recorder.conditions


def _facts_of(record: Record) -> dict[str, Any]:
    run = {"model": record.model, "protocol": record.protocol, "steps": record.setting.steps}
    return run | _weights(record.parts) | record.conditions


def _weights(parts: Mapping[str, str]) -> dict[str, str]:
    return {"weights" if name == "model" else name: value for name, value in parts.items()}


def _text(setting: Setting) -> str:
    return json.dumps(setting.model_dump(mode="json"), sort_keys=True)
