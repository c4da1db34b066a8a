"""Read, check and write pair files: RIEBench's JSON, and files of the same schema."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from riebench.pairs.brackets import glued
from riebench.pairs.grounding import EVERYTHING, is_everything, special_in_capitals, unbalanced
from riebench.pairs.pair import Pair
from riebench.util.errors import UserError
from riebench.util.files import write_whole

CAPITALS = "has capital letters; the masker looks for it in small ones"
LONG = 50
"""Words from which on a prompt may have more than the 77 tokens that CLIP reads."""


class Problem(NamedTuple):
    """A fault of one item in a pair file.

    Attributes:
        item: number and id of the item.
        key: of the item; empty if the fault is of the whole item.
        what: is wrong.
    """

    item: str
    key: str
    what: str

    def __str__(self) -> str:
        return f"{self.item}, key {self.key!r}: {self.what}" if self.key else f"{self.item} {self.what}"


def load_pairs(path: Path) -> list[Pair]:
    """Read a JSON list of pairs.

    Raises:
        UserError: if the file is missing, is not JSON, is not a list, or an item is malformed; the message
            names the item and the key.
    """
    pairs, problems = _read(path)
    if problems:
        raise UserError(f"{path}: {problems[0]}")
    return pairs


def check_pairs(path: Path) -> tuple[list[Pair], list[Problem]]:
    """Read a pair file and find all its faults.

    Beside the faults that :func:`load_pairs` refuses, these are unpaired brackets, prompts that are equal without
    brackets, and phrases that no masker can look for.

    Returns:
        The pairs that can be loaded, and the faults, first those that :func:`load_pairs` refuses.

    Raises:
        UserError: if the file is missing, is not JSON or is not a list.
    """
    pairs, problems = _read(path)
    return pairs, problems + [problem for pair in pairs for problem in _doubts(pair)]


def remarks_on(pairs: Iterable[Pair]) -> list[Problem]:
    """What the user may not expect of pairs that are well-formed: how brackets, phrases and long prompts are read."""
    return [remark for pair in pairs for remark in _remarks(pair)]


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file; a reader sees the whole file or none.

    Raises:
        UserError: if the file cannot be written.
    """
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file; a reader sees the whole file or none.

    Raises:
        UserError: if the file cannot be written.
    """
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be written: {error.strerror or error}") from None


def as_items(pairs: Iterable[Pair]) -> list[dict[str, Any]]:
    """The pairs as items of RIEBench's file, in which the category is text."""
    return [p.model_dump(exclude_none=True) | {"editing_type_id": str(p.editing_type_id)} for p in pairs]


def parse_json(path: Path, kind: str, hint: str) -> Any:
    """The content of a JSON file.

    Args:
        path: of the file.
        kind: of the file, for messages, as "pair file".
        hint: advice for a missing file.

    Raises:
        UserError: if the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))  # Windows puts a mark of the byte order first
    except FileNotFoundError:
        raise UserError(f"there is no {kind} {str(path)!r}; {hint}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON (line {error.lineno}: {error.msg}); expected a {kind}") from None
    except RecursionError:
        raise UserError(f"{path}: brackets inside brackets, too many to read; expected a {kind}") from None
    except (OSError, ValueError) as error:  # no text, or a number of thousands of digits
        raise UserError(f"the {kind} {str(path)!r} cannot be read: {error}") from None


def fault(error: ValidationError) -> tuple[str, str]:
    """The key of the first fault, and the fault."""
    return next(_faults(error))


def _faults(error: ValidationError) -> Iterator[tuple[str, str]]:
    for item in error.errors():
        what = "is missing" if item["type"] == "missing" else item["msg"].removeprefix("Value error, ")
        yield ".".join(map(str, item["loc"])), what


def _read(path: Path) -> tuple[list[Pair], list[Problem]]:
    data = parse_json(path, "pair file", "give a JSON file with --pairs")
    if not isinstance(data, list) or not data:
        found = "an empty one" if data == [] else type(data).__name__
        raise UserError(f"{path}: expected a non-empty JSON list of pairs, found {found}")
    pairs: list[Pair] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    for number, item in enumerate(data):
        if not isinstance(item, dict):
            what = f"is a {type(item).__name__}; expected an object with the keys of a pair"
            problems.append(Problem(f"item {number}", "", what))
            continue
        name = f"item {number} (id {item['id']!r})" if "id" in item else f"item {number}"
        try:
            pair = Pair.model_validate(item)
        except ValidationError as error:
            problems += [Problem(name, *fault) for fault in _faults(error)]
            continue
        if misspelt := _misspelt(item):
            problems += [Problem(name, *fault) for fault in misspelt]
            continue
        if pair.id in seen:
            problems.append(Problem(f"item {number}", "id", f"{pair.id!r} occurs twice; ids must be unique"))
            continue
        seen.add(pair.id)
        pairs.append(pair)
    return pairs, problems


def _misspelt(item: dict[str, Any]) -> list[tuple[str, str]]:
    """The keys that are nearly the name of an optional one, which would be left out in silence; others are a user's."""
    known = Pair.model_fields
    optional = [name for name, field in known.items() if not field.is_required() and name not in item]
    near = {key: get_close_matches(key.casefold(), optional, n=1, cutoff=0.8) for key in item if key not in known}
    return [(key, f"is unknown; did you mean {names[0]!r}?") for key, names in near.items() if names]


def _doubts(pair: Pair) -> Iterator[Problem]:
    """The faults that the schema does not catch."""
    name = f"id {pair.id!r}"
    for key in ("original_prompt", "editing_prompt"):
        if unbalanced(getattr(pair, key)):
            yield Problem(name, key, "its square brackets do not pair up")
    if pair.base_prompt.casefold() == pair.edit_prompt.casefold():
        yield Problem(name, "editing_prompt", "is the original prompt, once brackets are taken off")
    for key in ("original_gsam_prompt", "editing_gsam_prompt"):
        phrase = getattr(pair, key).strip()
        if not phrase.replace("~", "").strip():
            yield Problem(name, key, "has no words to look for")
        if phrase.startswith("#") and not is_everything(phrase):
            yield Problem(name, key, f"is {phrase!r}; of the phrases with '#' there is {EVERYTHING!r} alone")


def _remarks(pair: Pair) -> Iterator[Problem]:
    """The remarks on one pair, see :func:`remarks_on`."""
    name = f"id {pair.id!r}"
    for key in ("original_prompt", "editing_prompt"):
        prompt = getattr(pair, key)
        if words := glued(prompt):
            spaced = f"{words!r} is read as two words (run together by the protocol paper)"
            yield Problem(name, key, f"{spaced}; put a space, or the bracket around the whole word")
        if (count := len(prompt.split())) > LONG:
            yield Problem(name, key, f"has {count} words; CLIP reads 77 tokens, and what comes after does not count")
    for key in ("original_gsam_prompt", "editing_gsam_prompt"):
        phrase = getattr(pair, key).strip()
        if phrase != phrase.lower():
            read = f"{phrase!r} is read as {phrase.lower()!r}"
            yield Problem(name, key, read if special_in_capitals(phrase) else CAPITALS)
        if any(mark in phrase for mark in ",.;"):
            yield Problem(name, key, f"{phrase!r} is one phrase, whatever its commas; boxes of any of its words count")
