"""One benchmark item, and the nine categories of PIE-Bench."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator

from riebench.pairs.brackets import without_brackets
from riebench.util.errors import UserError, unknown

CATEGORIES: dict[int, str] = {
    1: "change object",
    2: "add object",
    3: "delete object",
    4: "change content",
    5: "change pose",
    6: "change colour",
    7: "change material",
    8: "change background",
    9: "change style",
}
"""PIE-Bench's kinds of edit by number (its kind 0, random, is not part of RIEBench)."""


MAX_SEED = 2**63 - 1
"""The largest seed that torch takes."""


class Pair(BaseModel):
    """A pair of prompts with a grounding phrase for each; the field names are those of RIEBench's file.

    Square brackets in the prompts mark the changed words; :attr:`base_prompt` and :attr:`edit_prompt` are without them.
    An id may be written as a whole number.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str = Field(pattern=r"^[\w.+-]+$")
    editing_type_id: int
    original_prompt: str
    editing_prompt: str
    editing_instruction: str = ""
    original_gsam_prompt: str
    editing_gsam_prompt: str
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    _as_published: bool = PrivateAttr(default=False)

    @field_validator("id", mode="before")
    @classmethod
    def _text_of_number(cls, value: object) -> object:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("editing_type_id", mode="before")
    @classmethod
    def _category(cls, value: object) -> int:
        text = str(value).strip()
        if not text.isdecimal() or int(text) not in CATEGORIES:
            raise ValueError(f"unknown category {value!r}, expected 1 to 9")
        return int(text)

    @field_validator("original_prompt", "editing_prompt", "original_gsam_prompt", "editing_gsam_prompt")
    @classmethod
    def _some_text(cls, value: str) -> str:
        if not value.strip(" []"):
            raise ValueError("has no text")
        return value

    @property
    def category(self) -> str:
        """Name of the category."""
        return CATEGORIES[self.editing_type_id]

    @property
    def base_prompt(self) -> str:
        """The prompt of the base run and of the edited runs: the original prompt without brackets."""
        return without_brackets(self.original_prompt, self._as_published)

    @property
    def edit_prompt(self) -> str:
        """The prompt of the source run: the edit prompt without brackets."""
        return without_brackets(self.editing_prompt, self._as_published)

    def as_published(self) -> Self:
        """The same pair, whose prompts lose their brackets as in the published code."""
        pair = self.model_copy()
        pair._as_published = True
        return pair


def category_named(text: str) -> int:
    """The number of a category, from its number or its name.

    Raises:
        UserError: if there is no such category.
    """
    if text.isdecimal() and int(text) in CATEGORIES:
        return int(text)
    names = {name: number for number, name in CATEGORIES.items()}
    name = text.lower().replace("_", " ").replace("-", " ").replace("color", "colour")
    # The last word is enough if it ends one category's name alone: "colour", but not "object".
    last = [number for known, number in names.items() if known.split()[-1] == name]
    if name in names or len(last) == 1:
        return names.get(name) or last[0]
    raise unknown("category", text, [*names, *map(str, CATEGORIES)])


def categories_named(words: Sequence[str | int]) -> list[int]:
    """The numbers of categories, from their numbers or names; a name may come in several words.

    An environment variable is split at its blanks, so that "change colour" comes as two words.

    Raises:
        UserError: if there is no such category.
    """
    beginnings = {name.split()[0] for name in CATEGORIES.values()}
    numbers, rest = [], [str(word) for word in words]
    while rest:
        length = 2 if rest[0].lower() in beginnings else 1
        numbers.append(category_named(" ".join(rest[:length])))
        rest = rest[length:]
    return numbers


def select(
    pairs: Sequence[Pair], categories: Sequence[int] = (), ids: Sequence[str] = (), limit: int | None = None
) -> list[Pair]:
    """The pairs of the named categories and ids (empty: all), the first ``limit`` of each category.

    Raises:
        UserError: if an id is unknown or no pair is left.
    """
    known = {pair.id for pair in pairs}
    for name in ids:
        if name not in known:
            raise unknown("pair", name, sorted(known))
    counts: dict[int, int] = dict.fromkeys(CATEGORIES, 0)
    chosen = []
    for pair in pairs:
        if (categories and pair.editing_type_id not in categories) or (ids and pair.id not in ids):
            continue
        counts[pair.editing_type_id] += 1
        if limit is None or counts[pair.editing_type_id] <= limit:
            chosen.append(pair)
    if not chosen:
        raise UserError("no pair is left to run; widen --category, --id or --limit")
    return chosen
