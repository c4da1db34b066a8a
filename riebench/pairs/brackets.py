"""The square brackets that mark the change of a prompt: taking them off. Needs no torch."""

from __future__ import annotations

import re

_INSIDE_A_WORD = re.compile(r"(\w+)\[(\w|\w+(?=\]\w))\](\w*)")
"""A marked part of one word, as in ``wo[l]f`` and ``cat[s]``."""
_GLUED = re.compile(r"(?<=\w)[\[\]]+(?=\w)")
"""The brackets between two words without white space, as in ``[a view of]the room``."""


def mark_whole_words(prompt: str) -> str:
    """A prompt whose brackets inside words are put around them: ``wo[l]f`` becomes ``[wolf]``."""
    return _INSIDE_A_WORD.sub(r"[\1\2\3]", prompt)


def without_brackets(prompt: str, as_published: bool = False) -> str:
    """A prompt without the square brackets that mark its change, and with single spaces.

    A space takes the place of a bracket only where two words would run together: ``[a view of]the room`` is "a view of
    the room", ``wo[l]f`` is "wolf".

    Args:
        prompt: with brackets.
        as_published: whether nothing takes their place, as in the published code: "a view ofthe room".
    """
    if not as_published:
        prompt = _GLUED.sub(" ", _INSIDE_A_WORD.sub(r"\1\2\3", prompt))
    return " ".join(prompt.replace("[", "").replace("]", "").split())


def without_brackets_at_first(prompt: str) -> str:
    """The same by the rule of riebench's first records, whose keys must not change: a space for every bracket."""
    return " ".join(prompt.replace("[", " ").replace("]", " ").split())


def glued(prompt: str) -> str | None:
    """The first two words that a bracket alone separates, as ``of]the``; None if there are none."""
    match = re.search(rf"\w+{_GLUED.pattern}\w+", mark_whole_words(prompt))
    return match[0] if match else None
