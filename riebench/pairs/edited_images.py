"""Pairs with edited pictures from outside: of another editor, a service, a person."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import Field

from riebench.pairs.pair import Pair
from riebench.pairs.picture_file import LOSSY, PictureFile, read_picture
from riebench.util.errors import PairError, UserError

log = logging.getLogger(__name__)
SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff")


class PicturedPair(Pair):
    """A pair with the file of an edited picture.

    Attributes:
        picture: identity of the file, which is part of the record's key; empty if the file cannot be read.
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
    pictures = {pair.id: _readable(files[pair.id]) for pair in pairs if pair.id in files}
    _tell(pictures, files)
    return [
        PicturedPair(
            **pair.model_dump(),
            picture=picture.identity if (picture := pictures.get(pair.id)) else "",
            file=files.get(pair.id, folder / f"{pair.id}.png"),
        )
        for pair in pairs
    ]


def _readable(file: Path) -> PictureFile | None:
    """A picture without its pixels; None if it cannot be read, which its record will say."""
    try:
        return read_picture(file)._replace(pixels=np.empty((0, 0, 3), np.uint8))
    except PairError:
        return None


def _tell(pictures: Mapping[str, PictureFile | None], files: Mapping[str, Path]) -> None:
    """Log how many pictures are lossy, and how many are not taken as they are."""
    kinds: dict[str, list[str]] = {}
    for pair, picture in pictures.items():
        for kind in (picture.format if LOSSY in picture.format else "", picture.changes) if picture else ():
            kinds.setdefault(kind, []).append(files[pair].name)
    for kind, names in kinds.items():
        if kind:
            log.warning("pictures of the kind '%s': %d (first: %s); their records say so", kind, len(names), names[0])
