"""The settings of a pair with the keys of their records, and how what became of one is written down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from riebench.engine.request import Request
from riebench.engine.searching import courses, next_settings
from riebench.engine.tasks import Task, Wanted
from riebench.methods.registry import create, find
from riebench.pairs import Pair
from riebench.records import Record, Setting, record_key
from riebench.records.code import code_hash, code_version
from riebench.util.errors import PairError

if TYPE_CHECKING:
    from riebench.instruments.loading import Instruments

NUMERICS = 3
"""Version of the parts of this package that compute; raised when a change of them changes numbers."""
LONGEST = 500
"""Letters of a reason; some libraries append pages."""
PUBLISHED_SEED = 42


class _Facts(NamedTuple):
    """What the records of a condition share."""

    name: str
    method_class: str
    code: str
    parts: dict[str, str]


class Recorder:
    """Writes down everything that can change a record's numbers, and works out a hash of it as the record's key.

    Args:
        request: of the run.
        instruments: of the run.

    Attributes:
        methods: the method of each condition, with its options.
    """

    def __init__(self, request: Request, instruments: Instruments) -> None:
        self.request = request
        self.conditions = dict(instruments.conditions)
        self.methods = [create(c.method, c.options) for c in request.conditions]
        self._facts = []
        for condition, made in zip(request.conditions, self.methods, strict=True):
            entry = find(condition.method)
            parts = {n: value for n, value in instruments.parts.items() if n != "sae" or entry.needs_sae}
            code = code_hash(entry.cls, entry.files(made))
            self._facts.append(_Facts(entry.record_name(made), entry.place, code, parts))
        self._code = code_version()
        self._measured_by = dict(instruments.measured_by)
        self._settings = [
            [
                Setting(
                    method=facts.name,
                    options=c.options,
                    blocks=c.sites,
                    strength=strength,
                    steps=request.steps,
                    on_steps=on_steps,
                )
                for on_steps in c.on_steps
                for strength in c.strengths
            ]
            for c, facts in zip(request.conditions, self._facts, strict=True)
        ]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """The condition that a setting is one of, whatever its strength."""
        return {_without_strength(one): number for number, group in enumerate(self._settings) for one in group}

    def task(self, pair: Pair, before: Iterable[Record] = ()) -> Task:
        """Every setting of a pair in the order of its records; of settings with the same key, the first.

        The seed is the request's, else the pair's own, else the published one. Settings of this pair that were run
        ``before``, by one of this run's conditions, are among them, so that a search goes on from them.

        A key is a hash of everything that can change a record's numbers, and of nothing else: the pair with its id
        (methods and functions for masks see all of it) and its seed; the setting, and the files that the method is
        written in and reads; the protocol; fingerprints of the weights of model, masker, scorers and (if the method
        needs them) SAEs; the conditions, as the type of the weights, size, guidance and mask rules; and
        :data:`NUMERICS`.

        Not in it are the size of batches, the number of workers, the device and the versions of torch, diffusers and
        the like. They move numbers by rounding alone, within the tolerance that the tests state, and a run must be
        able to go on after an update or on another machine. Records keep the versions (``code``), ``run.json`` the
        device of each session.
        """
        asked = self.request.seed if self.request.seed is not None else pair.seed
        task = Task(pair, PUBLISHED_SEED if asked is None else asked, ())
        wanted = [(number, setting, None) for number, group in enumerate(self._settings) for setting in group]
        found = ((self._numbers.get(_without_strength(record.setting)), record) for record in before)
        tried = [(number, record.setting, record.at_lpips) for number, record in found if number is not None]
        return task._replace(wanted=self.wanted(task, [*wanted, *tried]))

    def wanted(
        self, task: Task, settings: Iterable[tuple[int, Setting, tuple[float, ...] | None]]
    ) -> tuple[Wanted, ...]:
        """Settings of a task's pair, by the numbers of their conditions, with their keys; each key once."""
        about_pair = task.pair.model_dump(exclude={"seed"})
        found: dict[str, Wanted] = {}
        for number, setting, at_lpips in settings:
            facts = self._facts[number]
            key = record_key(
                pair=about_pair,
                seed=task.seed,
                setting=setting.model_dump(mode="json"),
                method=facts.code,
                protocol=self.request.protocol,
                parts=facts.parts,
                conditions=self.conditions,
                numerics=NUMERICS,
            )
            found.setdefault(key, Wanted(number, setting, key, at_lpips))
        return tuple(found.values())

    def record(
        self,
        task: Task,
        wanted: Wanted,
        metrics: Mapping[str, float | None] | None = None,
        notes: Mapping[str, Any] | None = None,
        error: Exception | None = None,
        where: str = "method",
    ) -> Record:
        """The record of one setting: its metrics, or the error and the stage in which it was raised."""
        facts, pair = self._facts[wanted.condition], task.pair
        return Record(
            key=wanted.key,
            status="failed" if error else "ok",
            pair_id=pair.id,
            category=pair.editing_type_id,
            seed=task.seed,
            original_prompt=pair.original_prompt,
            editing_prompt=pair.editing_prompt,
            setting=wanted.setting,
            at_lpips=wanted.at_lpips,
            method_class=facts.method_class,
            model=self.request.model,
            protocol=self.request.protocol,
            parts=facts.parts,
            conditions=self.conditions,
            code=self._code,
            measured_by=self._measured_by if metrics else {},
            metrics=dict(metrics or {}),
            notes=dict(notes or {}),
            reason=reason_of(error) if error else None,
            error=type(error).__name__ if error else None,
            where=(error.where if isinstance(error, PairError) else where) if error else None,
        )

    def failures(self, task: Task, error: Exception, where: str) -> list[Record]:
        """Records that say why a task's settings were not run; where a search alone is left, those that are next."""
        wanted = task.wanted
        if not wanted and self.request.at_lpips:
            like = [one for one, _ in task.known]
            wanted = self.wanted(task, next_settings(self.request.at_lpips, courses(task.known), like))
        return [self.record(task, one, error=error, where=where) for one in wanted]


def _without_strength(setting: Setting) -> str:
    """A text that settings have in common which differ in their strength alone."""
    return setting.model_dump_json(exclude={"strength"})


def reason_of(error: BaseException) -> str:
    """What an error says, in letters that a file takes; a stranger's may not even say that."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a stranger's error
        text = ""
    return (text or type(error).__name__)[:LONGEST].encode(errors="backslashreplace").decode()
