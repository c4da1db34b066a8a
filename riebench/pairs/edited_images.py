"""Pairs with edited pictures from outside: of another editor, a service, a person."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from riebench.pairs.pair import Pair
from riebench.util.errors import UserError
from riebench.util.files import file_hash

log = logging.getLogger(__name__)
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


class PicturedPair(Pair):
    """A pair with the file of an edited picture.

    Attributes:
        picture: SHA-256 of the file, which is part of the record's key; empty if the file is missing.
        file: path of the picture. The key leaves it out, so that the folder may move.
    """

    picture: str
    file: Path = Field(exclude=True)


def pictured(pairs: Sequence[Pair], folder: Path) -> list[Pair]:
    """The pairs with the pictures of a folder, each named by the id of its pair; others are logged.

    Raises:
        UserError: if the folder is missing, holds no picture of a pair, or two of one pair.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give one with pictures, each named by the id of its pair")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES:
            if path.stem in files:
                raise UserError(f"{files[path.stem]} and {path.name} are of one pair; keep one of them")
            files[path.stem] = path
    others = sorted(files.keys() - {pair.id for pair in pairs})
    if len(others) == len(files):
        raise UserError(f"{folder} has no picture of a chosen pair; expected {pairs[0].id}.png and the like")
    if others:
        log.warning("%d pictures in %s are of no chosen pair (first: %s)", len(others), folder, files[others[0]].name)
    return [
        PicturedPair(
            **pair.model_dump(),
            picture=file_hash(files[pair.id]) if pair.id in files else "",
            file=files.get(pair.id, folder / f"{pair.id}.png"),
        )
        for pair in pairs
    ]
