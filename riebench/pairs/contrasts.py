"""Prompts that make the same edit as a pair, for methods that learn an edit from many prompts. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from riebench.pairs.pair import without_brackets
from riebench.util.errors import UserError


class Contrast(NamedTuple):
    """Two prompts that differ by an edit, without brackets."""

    original: str
    edit: str


Change: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]
"""What an edit changes: the words in square brackets of the original prompt and of the edit prompt."""
UNMARKED: Change = ((), ())


def change_of(original: str, edit: str) -> Change:
    """The words in square brackets of two prompts, in lower case."""
    before, after = (
        tuple(" ".join(words.lower().split()) for words in re.findall(r"\[([^\]]*)\]", prompt))
        for prompt in (original, edit)
    )
    return before, after


def read_contrasts(file: Path) -> Mapping[Change, Sequence[Contrast]]:
    """The prompts of a file by what they change.

    Args:
        file: a line for each two prompts, original and edit with a tab between, brackets around what changes. Lines
            without brackets are under :data:`UNMARKED`. Empty lines are skipped.

    Raises:
        UserError: if the file cannot be read, or a line has not two prompts.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"the prompt file {file} cannot be read: {error}") from None
    found: dict[Change, list[Contrast]] = {}
    for number, line in enumerate(lines, 1):
        prompts = [part for part in line.split("\t") if part.strip()]
        if len(prompts) == 2:
            found.setdefault(change_of(*prompts), []).append(Contrast(*map(without_brackets, prompts)))
        elif prompts:
            wanted = "expected the original prompt, a tab, the edit prompt"
            raise UserError(f"line {number} of the prompt file {file} has {len(prompts)} parts; {wanted}")
    return found
