"""Read pair files: RIEBench's JSON, and files of the same schema."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from riebench.errors import UserError
from riebench.pairs.pair import Pair


def load_pairs(path: Path) -> list[Pair]:
    """Read a JSON list of pairs.

    Raises:
        UserError: if the file is missing, is not JSON, is not a list, or an item is malformed; the message
            names the item and the key.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no pair file {str(path)!r}; give a JSON file with --pairs") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the pair file {str(path)!r} cannot be read: {error}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON (line {error.lineno}: {error.msg}); expected a list of pairs") from None
    if not isinstance(data, list) or not data:
        raise UserError(f"{path}: expected a non-empty JSON list of pairs, found {type(data).__name__}")
    pairs = [_pair(path, number, item) for number, item in enumerate(data)]
    seen: set[str] = set()
    for number, pair in enumerate(pairs):
        if pair.id in seen:
            raise UserError(f"{path}: item {number}, key 'id': {pair.id!r} is there twice; ids must be unique")
        seen.add(pair.id)
    return pairs


def _pair(path: Path, number: int, item: object) -> Pair:
    if not isinstance(item, dict):
        raise UserError(f"{path}: item {number} is a {type(item).__name__}; expected an object with the keys of a pair")
    try:
        return Pair.model_validate(item)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        name = f"item {number} (id {item['id']!r})" if "id" in item else f"item {number}"
        what = "is missing" if first["type"] == "missing" else first["msg"].removeprefix("Value error, ")
        raise UserError(f"{path}: {name}, key {key!r}: {what}") from None
