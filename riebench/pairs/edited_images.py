"""Pairs with pictures that something else has made of them: an editor, a service, a person."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from riebench.pairs.pair import Pair
from riebench.util.errors import UserError
from riebench.util.files import file_hash

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


class PicturedPair(Pair):
    """A pair with the file of a picture.

    Attributes:
        picture: SHA-256 of the file; empty where there is none. It belongs to the pair, so that a record's key tells
            which picture was scored.
        file: where it is expected; the folder may move, and so it is not part of what the pair is.
    """

    picture: str
    file: Path = Field(exclude=True)


def pictured(pairs: Sequence[Pair], folder: Path) -> list[Pair]:
    """Pairs with the pictures of a folder, each named by the id of its pair; other pictures are told of on stderr.

    Raises:
        UserError: if it is no folder, holds none of the pairs' pictures, or two for a pair.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give one with pictures, each named by the id of its pair")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES:
            if path.stem in files:
                raise UserError(f"{files[path.stem]} and {path.name} are of one pair; keep one of them")
            files[path.stem] = path
    strange = sorted(files.keys() - {pair.id for pair in pairs})
    if len(strange) == len(files):
        raise UserError(f"{folder} has no picture of a chosen pair; expected {pairs[0].id}.png and the like")
    if strange:
        first = files[strange[0]].name
        print(f"riebench: {len(strange)} pictures in {folder} are of no chosen pair (first: {first})", file=sys.stderr)
    return [
        PicturedPair(
            **pair.model_dump(),
            picture=file_hash(files[pair.id]) if pair.id in files else "",
            file=files.get(pair.id, folder / f"{pair.id}.png"),
        )
        for pair in pairs
    ]
