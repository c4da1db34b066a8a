"""Pairs from PIE-Bench's own file, ``mapping_file.json``.

Source: PIE-Bench (PnP Inversion, arXiv 2310.01506), whose items RIEBench's pairs are chosen from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from riebench.pairs.brackets import without_brackets
from riebench.pairs.grounding import grounding_phrases, unbalanced
from riebench.pairs.pair import CATEGORIES, Pair
from riebench.pairs.pair_files import fault, parse_json
from riebench.util.errors import UserError

RANDOM = 0
"""PIE-Bench's kind of edits of all sorts, which RIEBench leaves out."""


class PieItem(BaseModel):
    """One item of PIE-Bench; its image and its mask are not used, because RIEBench generates its images.

    Attributes:
        id: the item's key in the file.
        blended_word: two words with a space between, the object in the original and in the edit. Any other number of
            words counts as none.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str = Field(pattern=r"^[\w.+-]+$")
    editing_type_id: int
    original_prompt: str
    editing_prompt: str
    editing_instruction: str = ""
    blended_word: str = ""

    @field_validator("editing_type_id", mode="before")
    @classmethod
    def _kind(cls, value: object) -> int:
        text = str(value).strip()
        if not text.isdecimal() or int(text) not in {RANDOM, *CATEGORIES}:
            raise ValueError(f'unknown kind of edit {value!r}, expected "0" to "9"')
        return int(text)

    @property
    def blended(self) -> tuple[str, str]:
        """The blended words of the original and of the edit; both empty if there are none."""
        words = self.blended_word.split()
        return (words[0], words[1]) if len(words) == 2 else ("", "")


class LeftOut(NamedTuple):
    """An item that makes no pair, with the reason."""

    id: str
    category: int
    reason: str


@dataclass(frozen=True)
class Built:
    """The pairs that were made, in the file's order, and the items that were left out."""

    pairs: tuple[Pair, ...]
    left_out: tuple[LeftOut, ...]


def read_piebench(path: Path) -> list[PieItem]:
    """Read PIE-Bench's mapping file: a JSON object from id to item.

    Raises:
        UserError: if the file is missing, is not JSON, is not such an object, or an item is malformed; the message
            names the item's id and the key.
    """
    data = parse_json(path, "PIE-Bench file", "give its mapping_file.json with --piebench")
    if not isinstance(data, dict) or not data:
        hint = "; a list of pairs needs no building" if isinstance(data, list) else ""
        raise UserError(f"{path}: expected a non-empty JSON object from id to item, found {type(data).__name__}{hint}")
    return [_item(path, key, value) for key, value in data.items()]


def _item(path: Path, key: str, value: Any) -> PieItem:
    if not isinstance(value, dict):
        raise UserError(f"{path}: id {key!r} is a {type(value).__name__}; expected an object with the keys of an item")
    try:
        return PieItem.model_validate({**value, "id": key})
    except ValidationError as error:
        where, what = fault(error)
        raise UserError(f"{path}: id {key!r}, key {where!r}: {what}") from None


def build_pairs(items: Sequence[PieItem], categories: Sequence[int] = (), limit: int | None = None) -> Built:
    """Make pairs, with grounding phrases by the rule of :mod:`riebench.pairs.grounding`.

    Args:
        items: of PIE-Bench.
        categories: to keep; empty for all nine. Kind 0 (random) never makes a pair.
        limit: largest number of pairs of each category, the first ones; 50 in the published run.
    """
    kept: dict[int, int] = dict.fromkeys(CATEGORIES, 0)
    pairs: list[Pair] = []
    left_out: list[LeftOut] = []
    for item in items:
        made = _made(item, categories)
        if isinstance(made, Pair) and limit is not None and kept[made.editing_type_id] >= limit:
            made = f"beyond the first {limit} of its category"
        if isinstance(made, Pair):
            kept[made.editing_type_id] += 1
            pairs.append(made)
        else:
            left_out.append(LeftOut(item.id, item.editing_type_id, made))
    return Built(tuple(pairs), tuple(left_out))


def _made(item: PieItem, categories: Sequence[int]) -> Pair | str:
    """The pair of an item, or the reason why the item makes none."""
    refused = _refusal(item, categories)
    if refused:
        return refused
    base, source = grounding_phrases(item.editing_type_id, item.original_prompt, item.editing_prompt, item.blended)
    if not base or not source:
        return f"no grounding phrase for the {'edit' if base else 'original'}"
    return Pair(**item.model_dump(exclude={"blended_word"}), original_gsam_prompt=base, editing_gsam_prompt=source)


def _refusal(item: PieItem, categories: Sequence[int]) -> str | None:
    """The reason why an item makes no pair, apart from missing phrases; None if there is no reason."""
    if item.editing_type_id == RANDOM:
        return "kind 0 (random)"
    if categories and item.editing_type_id not in categories:
        return "category not asked for"
    original, edit = without_brackets(item.original_prompt), without_brackets(item.editing_prompt)
    if not original or not edit:
        return "a prompt has no text"
    if original.casefold() == edit.casefold():
        return "prompts are equal"
    if unbalanced(item.original_prompt) or unbalanced(item.editing_prompt):
        return "brackets do not pair up"
    return None


def reasons(built: Built) -> Mapping[str, Mapping[int, int]]:
    """Reason to category to the number of items that were left out."""
    by_reason: dict[str, dict[int, int]] = {}
    for item in built.left_out:
        counts = by_reason.setdefault(item.reason, {})
        counts[item.category] = counts.get(item.category, 0) + 1
    return by_reason
