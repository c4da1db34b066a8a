"""The fields of a record and of its setting, and the hash that is a record's key."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Value = float | int | str | bool | None
ALL_STEPS = "all"
"""The name of the interval of all steps."""


ACTS, INSIDE, OUTSIDE = "acts", "inside", "outside"
"""The note that tells where a plan acts, and its two values."""


PICTURE_FORMAT, PICTURE_CHANGES = "picture_format", "picture_changes"
"""The notes on a picture that was handed in: the kind of its file, and what was done to its pixels if anything was."""


class Setting(BaseModel):
    """A method with its options, the blocks and steps in which it is on, and its strength.

    Attributes:
        method: name of the method.
        options: all options of the method.
        blocks: blocks that are edited together.
        strength: factor on the whole intervention.
        steps: number of denoising steps.
        on_steps: consecutive denoising steps, counted from 0, in which the intervention is on; None for all steps. None
            is not written, so that records of all steps keep the keys they had before intervals existed.
    """

    model_config = ConfigDict(frozen=True)

    method: str
    options: dict[str, Value] = Field(default_factory=dict)
    blocks: tuple[str, ...]
    strength: float
    steps: int
    on_steps: tuple[int, ...] | None = Field(default=None, exclude_if=lambda steps: steps is None)


class Record(BaseModel):
    """The metrics of one setting on one pair, or the reason why it failed.

    Attributes:
        key: hash of all that can change the numbers.
        method_class: ``package.module:Class``, as ``--method`` takes it.
        at_lpips: LPIPS budgets for which the strength was searched; not written if the user chose the strength.
        metrics: see :data:`riebench.metrics.METRICS`; null where undefined; empty for a failure.
        notes: facts about the plan: the ``k`` it used, and whether it ``acts`` inside the denoiser or outside (as a
            picture, a prompt or an empty plan does); of a picture that was handed in, how its file was read.
        parts: fingerprints of the weights that took part.
        conditions: other settings that can change numbers: dtype, size, guidance, mask rules.
        code: versions of the packages that compute, git commit of riebench, and whether its files differ from it.
        made_by: hashes of the code that made the picture: ``numerics`` is riebench's version of it, ``method`` the
            method's files, ``imports`` what these import, ``files`` what the method reads, ``masks`` a user's function,
            ``model`` a user's family. Only what there is; empty in records of earlier versions.
        measured_by: metric to the network of its own, the function or the command that measured it, with hashes. It is
            not in the key because it does not change the picture; not written if it is empty.
        pair_hash: hash of the pair as its file has it, without the seed; null in records of earlier versions.
        seconds: time spent on the whole pair, divided by the number of its records.
    """

    key: str
    status: Literal["ok", "failed"]
    pair_id: str
    category: int
    seed: int
    original_prompt: str
    editing_prompt: str
    setting: Setting
    at_lpips: tuple[float, ...] | None = Field(default=None, exclude_if=lambda budgets: budgets is None)
    method_class: str | None = None
    model: str
    protocol: str
    parts: dict[str, str]
    conditions: dict[str, Value] = Field(default_factory=dict)
    code: dict[str, str | bool | None]
    made_by: dict[str, str] = Field(default_factory=dict, exclude_if=lambda names: not names)
    measured_by: dict[str, str] = Field(default_factory=dict, exclude_if=lambda names: not names)
    pair_hash: str | None = Field(default=None, exclude_if=lambda name: name is None)
    metrics: dict[str, float | None] = Field(default_factory=dict)
    notes: dict[str, Value] = Field(default_factory=dict)
    reason: str | None = None
    error: str | None = None
    where: str | None = None
    seconds: float = 0.0


def interval_name(on_steps: Sequence[int]) -> str:
    """``1-3`` for the steps 1, 2 and 3, ``0`` for step 0 alone."""
    first, last = on_steps[0], on_steps[-1]
    return f"{first}-{last}" if first < last else str(first)


def fits_a_record(number: int) -> bool:
    """Whether a whole number has at most 64 bits with its sign, as JSON's writer takes."""
    return -(2**63) <= number < 2**63


def joined(earlier: Record, later: Record) -> Record:
    """The later of two records of one key with the metrics of both: one key stands for one picture."""
    if earlier.status != "ok" or later.status != "ok":
        return later
    both = {name: getattr(earlier, name) | getattr(later, name) for name in ("metrics", "measured_by")}
    return later.model_copy(update=both)


def with_hash(name: str, code: str) -> str:
    """The name of what measures a metric with a hash of its code, if there is one; see :func:`measures_alike`."""
    return f"{name} with {code}" if code else name


def measures_alike(earlier: str, now: str) -> bool:
    """Whether a metric is measured by what measured it before, as far as that is known.

    Args:
        earlier: of ``measured_by`` in a record; earlier versions did not hash all that a metric is made of.
        now: of ``measured_by`` of a new record.
    """
    return now == earlier or (_WITH.search(earlier) is None and _WITH.sub("", now) == earlier)


_WITH = re.compile(r" with (?:[0-9a-f]{16})+(?= |$)")


def record_key(**content: Any) -> str:
    """A hash of everything that can change a record's numbers; the order of the arguments does not matter."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
