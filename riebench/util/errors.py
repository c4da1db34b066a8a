"""Errors that a user can mend; their texts are one line."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TypeVar

E = TypeVar("E", bound=BaseException)
MOST_NAMES = 20


class UserError(Exception):
    """Bad input: the text says what is wrong, what was expected and what to do. The command line exits with 2."""


class PairError(Exception):
    """A fault inside one pair; it becomes a record with the reason, and the run goes on."""

    def __init__(self, reason: str, where: str) -> None:
        super().__init__(reason)
        self.where = where


def without_frames(error: E) -> E:
    """An error that is kept, and those behind it, without their tracebacks.

    The functions that an error has left hold their tensors as long as its traceback does; a GPU out of memory has no
    room for them.
    """
    behind: list[BaseException | None] = [error]
    while behind:
        if link := behind.pop():
            link.__traceback__ = None
            behind += [link.__cause__, link.__context__]
    return error


def unknown(kind: str, name: object, known: Iterable[str], where: str = "") -> UserError:
    """An error for an unknown name; its text suggests the nearest known name.

    Args:
        kind: the noun for what has no such name, as ``method``.
        name: that was given.
        known: names that there are.
        where: what these are the names of, as ``of riebench.run``.
    """
    known = list(known)
    near = get_close_matches(str(name), known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    more = f", and {len(known) - MOST_NAMES} more" if len(known) > MOST_NAMES else ""
    what = f"{kind} {name!r} {where}".rstrip()
    return UserError(f"unknown {what}; {hint}known: {', '.join(known[:MOST_NAMES])}{more}")
