"""The features of one site as the page asks for them: lists, and the card of one. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from riebench.features.feature_index import FULL, FeatureIndex, IndexedFeature, has_words, sort_features
from riebench.util.errors import UserError

Sort = Literal["score", "density", "mean", "maximum", "number"]
BINS = 20
"""Of a feature's histogram."""


@dataclass(frozen=True)
class Shelf:
    """One site with its feature index and what people wrote about its features.

    Attributes:
        site: its name.
        index: of the site's SAE.
        descriptions: number of a feature to a description.
    """

    site: str
    index: FeatureIndex
    descriptions: Mapping[int, str]

    def find(self, text: str, by: Sort) -> list[IndexedFeature]:
        """Features by number, label, prompts of their pictures or description; sorted by a property."""
        found = self.index.search(text)
        known = {feature.number for feature in found}
        words = text.split()
        described = (n for n, said in self.descriptions.items() if n not in known and has_words(said, words))
        return sort_features([*found, *map(self.index.feature, described)], by)

    def row(self, feature: IndexedFeature) -> dict[str, Any]:
        """What a list shows of a feature."""
        return {
            **{name: getattr(feature, name) for name in ("number", "density", "mean", "maximum", "label", "score")},
            "description": self.descriptions.get(feature.number),
        }

    def card(self, number: int) -> dict[str, Any]:
        """All that is known of a feature.

        The histogram counts the positions of its top pictures at which it is active, in :data:`BINS` equal bins of
        its code from 0 to its maximum. Heat is 0 to 255, which is its maximum.

        Raises:
            UserError: if there is no such feature, or the index is damaged.
        """
        feature = self.index.feature(number)
        pictures = self.index.facts.columns.pictures[number]
        heat = self.index.heat[number, : len(pictures)]
        counts, _ = np.histogram(heat[heat > 0], bins=BINS, range=(0, FULL))
        tops = [
            {"picture": picture, "prompt": top.prompt, "seed": top.seed, "highest": top.highest, "heat": cells}
            for picture, top, cells in zip(
                pictures, self.index.pictures(number), heat.reshape(len(pictures), -1).tolist(), strict=True
            )
        ]
        near = [
            {"number": n.number, "cosine": n.cosine, "label": self.index.feature(n.number).label}
            for n in feature.nearest
        ]
        return {
            **self.row(feature),
            "site": self.site,
            "grid": self.index.facts.grid,
            "score_name": self.index.facts.score_name,
            "histogram": counts.tolist(),
            "tops": tops,
            "nearest": near,
        }

    def top_picture(self, picture: int) -> bytes:
        """A stored picture as WebP.

        Raises:
            UserError: if the index stores none of this number.
        """
        if picture not in self.index.facts.prompted:
            raise UserError(f"the index of {self.site} stores no picture {picture}")
        try:
            return self.index.file(picture).read_bytes()
        except OSError as error:
            raise UserError(f"the picture {picture} of {self.site} cannot be read: {error.strerror}") from None


def read_descriptions(file: Path) -> dict[str, dict[int, str]]:
    """Site to feature to description, from JSON as ``{"mid.0": {"240": "a violet colour"}}``.

    Raises:
        UserError: if the file cannot be read or is not of this form.
    """
    form = 'expected JSON as {"mid.0": {"240": "a violet colour"}}'
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {
            str(site): {int(number): str(said) for number, said in features.items()} for site, features in found.items()
        }
    except OSError as error:
        raise UserError(f"the descriptions {file} cannot be read: {error.strerror}") from None
    except (ValueError, AttributeError, RecursionError):
        raise UserError(f"the descriptions {file} cannot be used; {form}") from None
