"""The pictures that a run folder keeps, beside their records. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image as PILImage

from riebench.metrics import Reference
from riebench.pairs.brackets import without_brackets
from riebench.records import Record
from riebench.records.image_hashes import IMAGES, image_hashes, is_changed
from riebench.settings.protocols import PROTOCOLS

if TYPE_CHECKING:
    from riebench.metrics.seen import Image

REFERENCES = ("base", "source", "mask-base", "mask-source")


class KeptPictures(NamedTuple):
    """The pictures of a pair that a run folder keeps.

    Attributes:
        records: of the pair, those with a picture.
        references: file of each of :data:`REFERENCES`.
        pictures: file of the picture of each record.
    """

    records: list[Record]
    references: dict[str, Path]
    pictures: list[Path]

    def reference(self) -> Reference:
        """Base and source image, prompts and region that the pictures are compared with; without the truth."""
        edit, original = scored_prompts(self.records[0])
        base, source, *masks = (pixels(self.references[name]) for name in REFERENCES)
        return Reference(base, source, edit, original, region=np.any([mask[..., 0] > 127 for mask in masks], axis=0))


def kept_pictures(folder: Path, records: Sequence[Record]) -> tuple[list[KeptPictures], list[Path]]:
    """The pictures of some records, pair by pair, and the files that are missing, damaged or not what the run wrote.

    A pair without its base or source image or a mask is left out.
    """
    by_pair: dict[str, list[Record]] = {}
    for record in records:
        by_pair.setdefault(record.pair_id, []).append(record)
    hashes = image_hashes(folder)
    kept, missing = [], []
    for pair, of_pair in by_pair.items():
        references = {name: folder / IMAGES / f"{pair}-{name}.png" for name in REFERENCES}
        pictures = {record.key: folder / IMAGES / f"{pair}-{record.key}.png" for record in of_pair}
        lost = [path for path in (*references.values(), *pictures.values()) if not _as_written(path, hashes)]
        missing += lost
        readable = [record for record in of_pair if pictures[record.key] not in lost]
        if readable and not set(lost).intersection(references.values()):
            kept.append(KeptPictures(readable, references, [pictures[record.key] for record in readable]))
    return kept, missing


def scored_prompts(record: Record) -> tuple[str, str]:
    """The edit prompt and the original prompt as CLIP scores them."""
    prompts = (record.editing_prompt, record.original_prompt)
    brackets = PROTOCOLS[record.protocol].score_brackets
    return prompts if brackets else (without_brackets(prompts[0]), without_brackets(prompts[1]))


def pixels(path: Path) -> Image:
    """A kept picture, ``[height, width, 3]`` in uint8.

    Raises:
        OSError: if it is missing or cannot be read.
    """
    with PILImage.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _as_written(path: Path, hashes: Mapping[str, str]) -> bool:
    """Whether a picture can be read, and is the one that the run wrote as far as its hash is known."""
    try:
        pixels(path)
        return not is_changed(path, hashes)
    except (OSError, SyntaxError):  # pillow raises the latter at some broken files
        return False
