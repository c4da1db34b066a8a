"""The settings of a pair with the keys of their records, and the records themselves."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from riebench.engine.conditions import Condition
from riebench.engine.pair_task import PairSetting, PairTask, searches_of
from riebench.engine.request import Request
from riebench.methods.interface import FileReader, Method, NamedByItself
from riebench.methods.registry import MethodEntry, find
from riebench.pairs import Pair
from riebench.pairs.brackets import without_brackets_at_first
from riebench.pairs.grounding import special_in_capitals
from riebench.records import Record, Setting, record_key
from riebench.records.code import code_hash, code_version, import_hash
from riebench.settings.lpips_search import LpipsSearch
from riebench.settings.protocols import PROTOCOLS
from riebench.util.code_files import hash_of_files
from riebench.util.errors import PairError

if TYPE_CHECKING:
    from riebench.instruments.loading import Instruments

NUMERICS = 3
"""Version of the code of this package that computes; raised if a change of it changes numbers."""
FIXED_CODE = {"riebench.engine.pictures:Pictures": "8a22cfb65256cecf"}
"""Stands for the file of a method in keys, which therefore outlive a change of the file that changes no number."""
EARLIER_CODE = {
    "ecc714be9321110d": "5bb6318e6f2c39be",  # caa
    "e64defd23df51db6": "e92692727067e7a8",  # noise
    "b60689d337fa1404": "7b2826061fffbc71",  # paste
    "6be5be92943405b3": "426f5035b9dc78bc",  # prompt
    "71a3eef67187925c": "2d5cf1d4dba65480",  # random
    "09b9171baf5e4f74": "36a9b71277d11cc4",  # sae-adaptive
    "58a365d519347fd6": "f5603325e2bf9cb4",  # sae-random
    "01a0b9b8891ae266": "84f54fbd23f41eed",  # sdedit
    "09e2357e75abd7a4": "f34b65692d8b0e4c",  # sae
    "cc780d28ea0603e9": "e8e30bd02c835c39",  # sae-feature
    "1be714d797db13d2": "1ccce1fe64ac1399",  # sae-sum
    "e1a91b61ec39816b": "b3fc7e6cfd57a280",  # per
}
"""Hash of a method's file to that of the file as it was, which keys keep since both give the same numbers."""
WITHOUT_RATIO = {"36a9b71277d11cc4": "c3405657ba53dced"}
"""As :data:`EARLIER_CODE`: ``sae-adaptive`` changed under protocols with the published ratio alone."""
LONGEST = 500
"""The most letters of a reason; some libraries append pages."""
PUBLISHED_SEED = 42


class ConditionMethod(NamedTuple):
    """The method of a condition, with what all of its records share.

    Attributes:
        method: with its options.
        entry: of the method.
        name: of the method in records.
        code: hash of the files that the method is written in and reads.
        parts: fingerprints of the weights that take part.
        made_by: the code that takes part, as records say it.
        in_keys: what of it keys have beside ``code``; empty for riebench's own methods, models and masks.
    """

    method: Method
    entry: MethodEntry
    name: str
    code: str
    parts: dict[str, str]
    made_by: dict[str, str]
    in_keys: dict[str, str]


class Recorder:
    """Makes the settings of each pair, their keys, and their records.

    Args:
        request: of the run.
        instruments: of the run.

    Attributes:
        methods: the method of each condition.
        code: hash of the code and the weights of all conditions.
        earlier: keys in the folder that an earlier version made without ``made_by``; what they lack is not known.
    """

    def __init__(self, request: Request, instruments: Instruments) -> None:
        self.request = request
        self.conditions = dict(instruments.conditions)
        self.methods: list[ConditionMethod] = []
        for condition in request.conditions:
            self.methods.append(_condition_method(condition, instruments, request.protocol))
        facts = [(method.code, method.parts, method.made_by) for method in self.methods]
        self.code = record_key(methods=facts, conditions=self.conditions)[:16]
        self.earlier: Collection[str] = ()
        self._code = code_version()
        self._measured_by = dict(instruments.measured_by)
        self._settings = [
            [
                Setting(
                    method=method.name,
                    options=c.options,
                    blocks=c.sites,
                    strength=strength,
                    steps=request.steps,
                    on_steps=on_steps,
                )
                for on_steps in c.on_steps
                for strength in c.strengths
            ]
            for c, method in zip(request.conditions, self.methods, strict=True)
        ]

    @cached_property
    def _condition_of(self) -> dict[str, int]:
        """A setting without its strength to the number of its condition."""
        return {_without_strength(s): number for number, group in enumerate(self._settings) for s in group}

    def task(self, pair: Pair, before: Iterable[Record] = ()) -> PairTask:
        """All settings of a pair in the order of its records; of settings with the same key, the first.

        The seed is the request's, else the pair's own, else the published one. The settings of the records ``before``
        that are of this pair and one of this run's conditions are among them, as points of the search.
        """
        seed = self.request.seed if self.request.seed is not None else pair.seed
        task = PairTask(pair, PUBLISHED_SEED if seed is None else seed, (), code=self.code)
        if PROTOCOLS[self.request.protocol].delete_marks:
            task = task._replace(pair=pair.as_published())
        settings = [(number, setting, None) for number, group in enumerate(self._settings) for setting in group]
        numbered = ((self._condition_of.get(_without_strength(record.setting)), record) for record in before)
        tried = [(number, record.setting, record.at_lpips) for number, record in numbered if number is not None]
        keyed = self.with_keys(task, [*settings, *tried])
        options = self.request.at_lpips
        searches = searches_of(options, keyed, {}) if options else {}
        return task._replace(settings=keyed, searches=tuple(searches.values()))

    def with_keys(
        self, task: PairTask, settings: Iterable[tuple[int, Setting, tuple[float, ...] | None]]
    ) -> tuple[PairSetting, ...]:
        """Settings of a task's pair with their keys, each key once.

        A key is a hash of everything that can change a record's numbers, and of nothing else: the pair with its id
        (methods and functions for masks see all of it) and its seed; the setting, and the files that the method is
        written in and reads; the protocol; fingerprints of the weights of model, masker, scorers and (if the method
        needs them) SAEs; the conditions, as the type of the weights, size, guidance and mask rules;
        :data:`NUMERICS`; and a user's code that takes part.

        The size of batches, the number of workers, the device and the versions of torch, diffusers and the like are
        not in the key. They move numbers by rounding alone, within the tolerance that the tests state, and a run must
        be able to go on after an update or on another machine. Records keep the versions (``code``), ``run.json`` the
        device of each session.

        Args:
            task: gives pair and seed.
            settings: number of the condition, setting, and the budgets that its strength is tried for.
        """
        about_pair = task.pair.model_dump(exclude={"seed"}) | _read_otherwise(task.pair)
        by_key: dict[str, PairSetting] = {}
        for number, setting, at_lpips in settings:
            method = self.methods[number]
            content = {
                "pair": about_pair,
                "seed": task.seed,
                "setting": setting.model_dump(mode="json"),
                "method": method.code,
                "protocol": self.request.protocol,
                "parts": method.parts,
                "conditions": self.conditions,
                "numerics": NUMERICS,
            }
            key = record_key(**content)
            if method.in_keys and key not in self.earlier:
                key = record_key(**content, made_by=method.in_keys)
            by_key.setdefault(key, PairSetting(number, setting, key, at_lpips))
        return tuple(by_key.values())

    def next_of(self, task: PairTask, searches: Iterable[LpipsSearch]) -> tuple[PairSetting, ...]:
        """The settings that searches on a task's pair come to next; none at their end."""
        settings = [(s.condition, setting, s.options.budgets) for s in searches for setting in s.next_settings()]
        return self.with_keys(task, settings)

    def record(
        self,
        task: PairTask,
        setting: PairSetting,
        metrics: Mapping[str, float | None] | None = None,
        notes: Mapping[str, Any] | None = None,
        error: Exception | None = None,
        where: str = "method",
    ) -> Record:
        """The record of a setting: its metrics, or the error and the stage in which it was raised."""
        method, pair = self.methods[setting.condition], task.pair
        return Record(
            key=setting.key,
            status="failed" if error else "ok",
            pair_id=pair.id,
            category=pair.editing_type_id,
            seed=task.seed,
            original_prompt=pair.original_prompt,
            editing_prompt=pair.editing_prompt,
            setting=setting.setting,
            at_lpips=setting.at_lpips,
            method_class=method.entry.place,
            model=self.request.model,
            protocol=self.request.protocol,
            parts=method.parts,
            conditions=self.conditions,
            code=self._code,
            made_by=method.made_by,
            measured_by=self._measured_by if metrics else {},
            pair_hash=task.pair_hash,
            metrics=dict(metrics or {}),
            notes=dict(notes or {}),
            reason=_reason(error) if error else None,
            error=type(error).__name__ if error else None,
            where=(error.where if isinstance(error, PairError) else where) if error else None,
        )

    def failures(self, task: PairTask, error: Exception, where: str) -> list[Record]:
        """Failed records of a task's settings; if it has none, of the settings that its searches come to next."""
        settings = task.settings or self.next_of(task, task.searches)
        return [self.record(task, setting, error=error, where=where) for setting in settings]


def _read_otherwise(pair: Pair) -> dict[str, list[str]]:
    """The prompts and phrases of a pair, if the first version of riebench read them otherwise; else nothing.

    So a key changes with the reading, and those of all other pairs stay.
    """
    prompts = [pair.base_prompt, pair.edit_prompt]
    first = [without_brackets_at_first(text) for text in (pair.original_prompt, pair.editing_prompt)]
    phrases = (pair.original_gsam_prompt, pair.editing_gsam_prompt)
    capitals = [phrase for phrase in phrases if special_in_capitals(phrase)]
    changed = {"prompts": prompts if prompts != first else [], "phrases": capitals}
    return {name: texts for name, texts in changed.items() if texts}


def _condition_method(condition: Condition, instruments: Instruments, protocol: str) -> ConditionMethod:
    """The method of a condition.

    Raises:
        UserError: if a file of the method cannot be read, or was edited since this process loaded it.
    """
    entry = find(condition.method)
    method = entry.create(condition.options)
    name = method.record_name if isinstance(method, NamedByItself) else entry.name
    reads = [str(file) for file in method.files] if isinstance(method, FileReader) else []
    of_options = [file for file in _option_files(condition.options) if str(file) not in reads]
    fixed = FIXED_CODE.get(entry.place)
    beside = {"imports": "" if fixed else import_hash(entry.cls), **instruments.code}
    in_keys = {**beside, "files": hash_of_files(of_options)}
    made_by = {
        "numerics": str(NUMERICS),
        "method": fixed or _same_numbers(code_hash(entry.cls), protocol),
        **beside,
        "files": hash_of_files([*map(Path, reads), *of_options]),
    }
    return ConditionMethod(
        method,
        entry,
        name,
        code=fixed or _same_numbers(code_hash(entry.cls, reads), protocol),
        parts={part: value for part, value in instruments.parts.items() if part != "sae" or entry.needs_sae},
        made_by={fact: value for fact, value in made_by.items() if value},
        in_keys={fact: value for fact, value in in_keys.items() if value},
    )


def _same_numbers(code: str, protocol: str) -> str:
    """The hash of a method's files, or of earlier ones that give the same numbers under a protocol."""
    earlier = EARLIER_CODE.get(code, code)
    return earlier if PROTOCOLS[protocol].adaptive_ratio else WITHOUT_RATIO.get(earlier, earlier)


def _option_files(options: Mapping[str, Any]) -> list[Path]:
    """The files that options name, and those in the folders that they name by a path."""
    files: list[Path] = []
    for path in (Path(value) for value in options.values() if isinstance(value, str)):
        with suppress(OSError, ValueError):  # a text that is no name of a file
            inside = path.iterdir() if len(path.parts) > 1 and path.is_dir() else [path]
            files += [file for file in inside if file.is_file()]
    return sorted(files)


def _without_strength(setting: Setting) -> str:
    """A text that is the same for settings that differ in their strength alone."""
    return setting.model_dump_json(exclude={"strength"})


def _reason(error: Exception) -> str:
    """The text of an error, in letters that a file of UTF-8 can hold."""
    return (str(error) or type(error).__name__)[:LONGEST].encode(errors="backslashreplace").decode()
