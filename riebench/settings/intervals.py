"""Intervals of the denoising steps, as people write them. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeAlias

from riebench.records.schema import ALL_STEPS
from riebench.util.errors import UserError

Intervals: TypeAlias = tuple[tuple[int, ...] | None, ...]
"""The steps of each interval, from 0; None for all."""


def parse_intervals(words: Iterable[str | int], steps: int) -> Intervals:
    """Each interval once; one of all steps is None, however it was written.

    Args:
        words: a step as ``0``, steps that follow one another as ``1-3``, or ``all``; several separated by commas.
        steps: denoising steps of the run.

    Raises:
        UserError: if a word is none of these, or a step does not exist.
    """
    every = [word.strip() for words_together in words for word in str(words_together).split(",")]
    return tuple(dict.fromkeys(_steps_in(word, steps) for word in every))


def _steps_in(word: str, steps: int) -> tuple[int, ...] | None:
    if word == ALL_STEPS:
        return None
    match = re.fullmatch("([0-9]+)(?:-([0-9]+))?", word)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
    if last < first:
        raise UserError(f"on_steps is {word!r}; expected a step as 0, an interval as 1-3, or {ALL_STEPS}")
    if last >= steps:
        known = f"but the run's last step is {steps - 1}, counted from 0"
        raise UserError(f"on_steps is {word!r}, {known}; name others, or set more steps")
    return None if last - first + 1 == steps else tuple(range(first, last + 1))
