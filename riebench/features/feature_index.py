"""The feature index of an SAE: how often and where each feature is active, and in which pictures. Needs no torch.

A folder with three parts: ``feature-index.json`` (all numbers, and the prompts of the pictures),
``pictures/NUMBER.webp`` (each picture once) and ``heat.npz`` (where each feature is active in its top pictures). The
contents are ours; no source prescribes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from riebench.util.errors import UserError

FACTS, HEAT, PICTURES, UNFINISHED = "feature-index.json", "heat.npz", "pictures", "unfinished-index.pt"
FULL = 255
"""The heat of a feature's maximum."""
Number = Annotated[float, Field(allow_inf_nan=False)]
Counter = Annotated[int, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Columns(_Strict):
    """One list for each property, with one entry for each feature, in the order of their numbers.

    Attributes:
        density: share of positions at which it is active.
        mean: mean code where it is active; null if it never is.
        maximum: largest code; 0 if it is never active.
        label: what the feature detects; null if unknown.
        score: how well the feature detects its label.
        pictures: numbers of the pictures with the largest codes, the largest first.
        highest: the largest code in each of those.
        nearest: the features whose decoder directions have the largest cosines with its own.
        cosines: those cosines.
    """

    density: list[Number]
    mean: list[Number | None]
    maximum: list[Number]
    label: list[str | None]
    score: list[Number | None]
    pictures: list[list[Counter]]
    highest: list[list[Number]]
    nearest: list[list[Counter]]
    cosines: list[list[Number]]


class IndexFacts(_Strict):
    """The content of ``feature-index.json``.

    Attributes:
        schema_version: counts up when a reader of an older one would fail.
        name: of the SAE, for titles.
        sae: fingerprint of the SAE.
        site: where the SAE reads.
        width: length of the vectors there.
        grid: rows and columns of positions.
        model: name of the model.
        model_fingerprint: of its weights.
        steps: denoising steps of each picture.
        prompts: where the prompts come from: a file or ``grammar``.
        pictures_made: how many pictures were generated; only those that some feature shows are stored.
        score_name: name of the scores; null without scores.
        columns: the features.
        prompted: number of each stored picture to its prompt and seed.
    """

    schema_version: Literal[1] = 1
    name: str
    sae: str
    site: str
    width: Counter
    grid: tuple[Counter, Counter]
    model: str
    model_fingerprint: str
    steps: Counter
    prompts: str
    pictures_made: Counter
    score_name: str | None
    columns: Columns
    prompted: dict[Counter, tuple[str, int]]

    @model_validator(mode="after")
    def _fits(self) -> IndexFacts:
        columns = self.columns
        lengths = {len(getattr(columns, name)) for name in Columns.model_fields}
        if len(lengths) != 1:
            raise ValueError(f"its columns have {sorted(lengths)} entries, expected one for each feature")
        count = lengths.pop()
        for several, values in ((columns.pictures, columns.highest), (columns.nearest, columns.cosines)):
            if [len(row) for row in several] != [len(row) for row in values]:
                raise ValueError("a feature has not as many values as pictures or nearest features")
        if any(number not in self.prompted for row in columns.pictures for number in row):
            raise ValueError("a feature names a picture that is not stored")
        if any(number >= count for row in columns.nearest for number in row):
            raise ValueError("a feature names a nearest feature that does not exist")
        return self


class Near(NamedTuple):
    """A feature with a similar direction, and the cosine of the two decoder directions."""

    number: int
    cosine: float


class IndexedFeature(NamedTuple):
    """The facts of one feature; see :class:`Columns`."""

    number: int
    density: float
    mean: float | None
    maximum: float
    label: str | None
    score: float | None
    nearest: tuple[Near, ...]


def sort_features(features: Iterable[IndexedFeature], by: str) -> list[IndexedFeature]:
    """Features by a property: by ``number`` from the lowest, else from the highest, those without a value last."""
    return sorted(features, key=lambda feature: sort_key(feature, by))


def sort_key(feature: IndexedFeature, by: str) -> tuple[bool, float, int]:
    """The key with which :func:`sort_features` sorts."""
    value = -feature.number if by == "number" else getattr(feature, by)
    return value is None, -(value or 0), feature.number


class TopPicture(NamedTuple):
    """A picture in which a feature is strongly active.

    Attributes:
        prompt: of the picture.
        seed: of the picture.
        highest: the feature's largest code in it.
        file: the picture, a small WebP.
        heat: the feature's code at each position ``[rows, columns]``; over several steps, the largest.
    """

    prompt: str
    seed: int
    highest: float
    file: Path
    heat: NDArray[np.float32]

    def image(self) -> Image.Image:
        """The picture in RGB.

        Raises:
            UserError: if the file is missing or damaged.
        """
        try:
            with Image.open(self.file) as image:
                return image.convert("RGB")
        except (OSError, UnidentifiedImageError, SyntaxError) as error:
            raise UserError(f"the picture {self.file} of the feature index cannot be read: {error}") from None


class FeatureIndex:
    """A feature index that was read from its folder; ``riebench sae index`` makes one.

    Example::

        index = FeatureIndex("mid.0-index")
        index.search("red")[0].label        # features by number, label or the prompts of their pictures
        index.feature(240).density
        index.pictures(240)[0].image()

    Args:
        folder: the folder.

    Raises:
        UserError: if it holds no feature index, or a damaged or newer one.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        try:
            text = (self.folder / FACTS).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise UserError(
                f"{self.folder} is no feature index: it has no {FACTS} that can be read; make one with"
                f" 'riebench sae index SAE --out {self.folder}'"
            ) from None
        try:
            self.facts = IndexFacts.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            at = ".".join(map(str, first["loc"][:3]))
            reason = " ".join(f"{at}: {first['msg']}".split())
            raise UserError(
                f"the feature index {self.folder} cannot be read ({reason}); make it again with 'riebench sae index'"
            ) from None

    def __len__(self) -> int:
        return len(self.facts.columns.density)

    def __iter__(self) -> Iterator[IndexedFeature]:
        return (self.feature(number) for number in range(len(self)))

    def feature(self, number: int) -> IndexedFeature:
        """The facts of a feature.

        Raises:
            UserError: if there is no such feature.
        """
        check_feature(number, len(self), self.facts.name)
        c = self.facts.columns
        nearest = tuple(map(Near, c.nearest[number], c.cosines[number]))
        return IndexedFeature(
            number, c.density[number], c.mean[number], c.maximum[number], c.label[number], c.score[number], nearest
        )

    def pictures(self, number: int) -> list[TopPicture]:
        """The top pictures of a feature, the largest code first; empty if it is never active.

        Raises:
            UserError: if there is no such feature, or the heat maps cannot be read.
        """
        check_feature(number, len(self), self.facts.name)
        c, scale = self.facts.columns, self.facts.columns.maximum[number] / FULL
        pictures = []
        for place, (picture, highest) in enumerate(zip(c.pictures[number], c.highest[number], strict=True)):
            prompt, seed = self.facts.prompted[picture]
            heat = self.heat[number, place] * np.float32(scale)
            pictures.append(TopPicture(prompt, seed, highest, self.file(picture), heat))
        return pictures

    def search(self, text: str, least_score: float | None = None) -> list[IndexedFeature]:
        """Features by number or words.

        Each word must begin a word of the feature's label, or one in the prompts of at least half of its top pictures.
        Features whose label matches come first, those with higher scores before others; then features in the order of
        the share of their pictures that match.

        Args:
            text: a number, or words in any case; empty finds all.
            least_score: leave out features with a lower score or none.
        """
        words = text.split()
        if len(words) == 1 and words[0].isdecimal() and int(words[0]) < len(self):
            numbers = [int(words[0])]
        else:
            ranks = {number: self._match(number, words) for number in range(len(self))}
            numbers = sorted((n for n, rank in ranks.items() if rank is not None), key=lambda n: (ranks[n], n))
        scores = self.facts.columns.score
        return [self.feature(n) for n in numbers if least_score is None or (scores[n] or 0) >= least_score]

    def file(self, picture: int) -> Path:
        """Where a stored picture lies: in the index, or in a folder beside it that several indexes share."""
        name = f"{PICTURES}/{picture}.webp"
        own, shared = self.folder / name, self.folder.parent / name
        return shared if shared.is_file() and not own.is_file() else own

    @cached_property
    def heat(self) -> NDArray[np.uint8]:
        """Heat maps ``[features, top pictures, rows, columns]``; 255 is the feature's maximum.

        Raises:
            UserError: if they cannot be read.
        """
        most = max((len(row) for row in self.facts.columns.pictures), default=0)
        expected = (len(self), most, *self.facts.grid)
        try:
            with np.load(self.folder / HEAT, allow_pickle=False) as file:
                heat: NDArray[np.uint8] = file["heat"]
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise UserError(
                f"the heat maps {self.folder / HEAT} cannot be read: {error}; make the index again"
            ) from None
        if heat.shape != expected or heat.dtype != np.uint8:
            reason = f"they are {heat.dtype} {list(heat.shape)}, expected uint8 {list(expected)}"
            raise UserError(f"the heat maps {self.folder / HEAT} do not fit: {reason}; make the index again")
        return heat

    def _match(self, number: int, words: list[str]) -> tuple[float, float] | None:
        """How well the words fit a feature, as a key for sorting (smaller is better); None if they do not."""
        columns = self.facts.columns
        if has_words(columns.label[number] or "", words):
            return 0.0, -(columns.score[number] or 0)
        pictures = columns.pictures[number]
        fitting = sum(has_words(self.facts.prompted[picture][0], words) for picture in pictures)
        return (1.0, -fitting / len(pictures)) if pictures and 2 * fitting >= len(pictures) else None


def has_words(text: str, words: Sequence[str]) -> bool:
    """Whether each of some words begins a word of a text, in any case."""
    return all(re.search(rf"(?<!\w){re.escape(word)}", text, re.IGNORECASE) for word in words)


def check_feature(number: int, count: int, name: str) -> None:
    """See that an SAE has a feature.

    Raises:
        UserError: if it has not.
    """
    if not 0 <= number < count:
        raise UserError(f"there is no feature {number}; {name} has the features 0 to {count - 1}")


def is_index(folder: Path) -> bool:
    """Whether a folder holds a feature index, of whatever version."""
    return (folder / FACTS).is_file()


def check_index_of(index: FeatureIndex, fingerprint: str) -> None:
    """See that an index was made of the SAE with a fingerprint.

    Raises:
        UserError: if it was made of another.
    """
    if index.facts.sae != fingerprint:
        raise UserError(
            f"{index.folder} is the index of another SAE (fingerprint {index.facts.sae}, this one has {fingerprint});"
            " make its own with 'riebench sae index', or give another --index"
        )
