"""Prompts with the same edit as a pair, for methods that learn an edit from many prompts. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from riebench.pairs.brackets import without_brackets
from riebench.util.errors import UserError


class Contrast(NamedTuple):
    """Two prompts that differ by an edit, without brackets."""

    original: str
    edit: str


Change: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]
"""The words in square brackets of an original prompt and of its edit prompt."""
UNMARKED: Change = ((), ())


def change_of(original: str, edit: str) -> Change:
    """The words in square brackets of two prompts, in lower case."""
    before, after = (
        tuple(" ".join(words.lower().split()) for words in re.findall(r"\[([^\]]*)\]", prompt))
        for prompt in (original, edit)
    )
    return before, after


def read_contrasts(file: Path) -> Mapping[Change, Sequence[Contrast]]:
    """The prompts of a file, grouped by the words that they change.

    Args:
        file: each line has an original prompt, a tab, and an edit prompt, with brackets around the changed words. Lines
            without brackets are grouped under :data:`UNMARKED`; empty lines are skipped.

    Raises:
        UserError: if the file cannot be read, or a line does not have two prompts.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"the prompt file {file} cannot be read: {error}") from None
    by_change: dict[Change, list[Contrast]] = {}
    for number, line in enumerate(lines, 1):
        prompts = [part for part in line.split("\t") if part.strip()]
        if len(prompts) == 2:
            by_change.setdefault(change_of(*prompts), []).append(Contrast(*map(without_brackets, prompts)))
        elif prompts:
            hint = "expected the original prompt, a tab, the edit prompt"
            raise UserError(f"line {number} of the prompt file {file} has {len(prompts)} parts; {hint}")
    return by_change
