"""Prompts with the same edit as a pair, for methods that learn an edit from many prompts. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from riebench.pairs.brackets import mark_whole_words, without_brackets
from riebench.pairs.pair import Pair
from riebench.util.errors import UserError


class Contrast(NamedTuple):
    """Two prompts that differ by an edit, without brackets.

    Attributes:
        original: the prompt without the concept.
        edit: the prompt with it.
        original_phrase: grounding phrase of the original picture; empty for the pair's own.
        edit_phrase: grounding phrase of the edited picture.
    """

    original: str
    edit: str
    original_phrase: str = ""
    edit_phrase: str = ""


Change: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]
"""The words in square brackets of an original prompt and of its edit prompt."""
UNMARKED: Change = ((), ())


def change_of(original: str, edit: str) -> Change:
    """The words in square brackets of two prompts, in lower case."""
    before, after = (
        tuple(" ".join(words.lower().split()) for words in re.findall(r"\[([^\]]*)\]", mark_whole_words(prompt)))
        for prompt in (original, edit)
    )
    return before, after


def read_contrasts(file: Path) -> Mapping[Change, Sequence[Contrast]]:
    """The prompts of a file, grouped by the words that they change.

    Args:
        file: each line has an original prompt, a tab, and an edit prompt, with brackets around the changed words. Lines
            without brackets are grouped under :data:`UNMARKED`; empty lines are skipped. After two further tabs come
            the grounding phrases of both pictures, where they are not the pair's.

    Raises:
        UserError: if the file cannot be read, or a line does not have two prompts, or two prompts and two phrases.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"there is no file of contrasts {file}; 'riebench pairs contrasts' writes one") from None
    except (OSError, ValueError) as error:
        raise UserError(f"the file of contrasts {file} cannot be read: {error}") from None
    by_change: dict[Change, list[Contrast]] = {}
    for number, line in enumerate(lines, 1):
        prompts = [part for part in line.split("\t") if part.strip()]
        if len(prompts) in (2, 4):
            both, phrases = prompts[:2], map(str.strip, prompts[2:])
            contrast = Contrast(*map(without_brackets, both), *phrases)
            by_change.setdefault(change_of(*both), []).append(contrast)
        elif prompts:
            hint = "expected the original prompt, a tab, the edit prompt, and perhaps two tabs with two phrases"
            raise UserError(f"line {number} of the file of contrasts {file} has {len(prompts)} parts; {hint}")
    return by_change


def refuse_reported(by_change: Mapping[Change, Sequence[Contrast]], pairs: Iterable[Pair], file: Path) -> None:
    """Refuse contrasts with a prompt of a pair that is reported: a method would have seen what it is judged on.

    Raises:
        UserError: naming the prompt and the pair.
    """
    reported = {plain(prompt): pair.id for pair in pairs for prompt in (pair.base_prompt, pair.edit_prompt)}
    for contrast in (one for contrasts in by_change.values() for one in contrasts):
        for prompt in (contrast.original, contrast.edit):
            if plain(prompt) in reported:
                wrong = f"{file} has the prompt {prompt!r}, which is one of pair {reported[plain(prompt)]!r}"
                raise UserError(
                    f"{wrong}; contrasts are never prompts of reported pairs: leave out the line or the pair"
                )


def plain(prompt: str) -> str:
    """A prompt as prompts are compared: in lower case, with single spaces, without a full stop at its end."""
    return " ".join(prompt.lower().split()).rstrip(" .")
