"""What a record says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Value = float | int | str | bool | None
ALL_STEPS = "all"
"""What stands for all steps where intervals are named."""


ACTS, INSIDE, OUTSIDE = "acts", "inside", "outside"
"""The note that says where a plan acts, and what it may say."""


class Setting(BaseModel):
    """What is done to a pair.

    Attributes:
        method: its name.
        options: all of them, in full.
        blocks: that are edited together.
        strength: factor on the whole intervention.
        steps: number of denoising steps.
        on_steps: the steps, from 0, in which the intervention is on, one following the other; None for all. Left out
            where it is None, so that such records and their keys are those of versions that did not have it.
    """

    model_config = ConfigDict(frozen=True)

    method: str
    options: dict[str, Value] = Field(default_factory=dict)
    blocks: tuple[str, ...]
    strength: float
    steps: int
    on_steps: tuple[int, ...] | None = Field(default=None, exclude_if=lambda steps: steps is None)


class Record(BaseModel):
    """One (pair, setting): its metrics, or why there are none.

    Attributes:
        key: hash of all that can change the numbers.
        method_class: the method as ``--method`` takes it, ``package.module:Class``; with the setting's options it can
            be made again.
        at_lpips: the values of LPIPS in search of which the strength was chosen; left out where it was asked for.
        metrics: see :data:`riebench.metrics.METRICS`; null where undefined; empty for a failure.
        notes: figures of the plan, as the k that was used; and whether it ``acts`` inside the denoiser or outside, as a
            picture, a prompt, or nothing at all do.
        parts: fingerprints of the weights that took part.
        conditions: further settings that can change numbers: type of the weights, size, guidance, mask rules.
        code: versions of the packages that compute, git commit of riebench and whether it was changed since.
        measured_by: metric to what measured it, where that is none of the parts: a network of the metric's own, or a
            command. It is not in the key, as it does not change the picture; left out where it is empty.
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
    measured_by: dict[str, str] = Field(default_factory=dict, exclude_if=lambda names: not names)
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


def joined(earlier: Record, later: Record) -> Record:
    """A record with the metrics of an earlier one of the same key, too: one key stands for one picture."""
    if earlier.status != "ok" or later.status != "ok":
        return later
    both = {name: getattr(earlier, name) | getattr(later, name) for name in ("metrics", "measured_by")}
    return later.model_copy(update=both)


def record_key(**content: Any) -> str:
    """A hash of what can change a record's numbers, whatever the order it is given in."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
