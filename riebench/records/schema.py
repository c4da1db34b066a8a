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
        metrics: see :data:`riebench.metrics.METRICS`; null where undefined; empty for a failure.
        notes: figures of the plan, as the k that was used.
        parts: fingerprints of the weights that took part.
        conditions: further settings that can change numbers: type of the weights, size, guidance, mask rules.
        code: versions of the packages that compute, git commit of riebench and whether it was changed since.
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
    method_class: str | None = None
    model: str
    protocol: str
    parts: dict[str, str]
    conditions: dict[str, Value] = Field(default_factory=dict)
    code: dict[str, str | bool | None]
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


def record_key(**content: Any) -> str:
    """A hash of what can change a record's numbers, whatever the order it is given in."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
