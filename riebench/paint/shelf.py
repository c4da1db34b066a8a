"""The features of a site for the page: lists, and the card of a feature. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from riebench.features.feature_index import FULL, FeatureIndex, IndexedFeature, has_words, sort_features, sort_key
from riebench.util.errors import UserError

Sort = Literal["score", "density", "mean", "maximum", "number"]
BINS = 20
"""Number of bins of a feature's histogram."""


@dataclass(frozen=True)
class Shelf:
    """A site with its feature index and descriptions of its features by people.

    Attributes:
        site: name of the site.
        index: feature index of the site's SAE.
        descriptions: number of a feature to its description.
    """

    site: str
    index: FeatureIndex
    descriptions: Mapping[int, str]

    def find(self, text: str, by: Sort) -> list[IndexedFeature]:
        """The features whose number, label, prompts of pictures or description match a text, sorted by a property."""
        matches = self.index.search(text)
        known = {feature.number for feature in matches}
        words = text.split()
        described = (n for n, about in self.descriptions.items() if n not in known and has_words(about, words))
        return sort_features([*matches, *map(self.index.feature, described)], by)

    def row(self, feature: IndexedFeature) -> dict[str, Any]:
        """The facts on a feature that a list shows."""
        return {
            **{name: getattr(feature, name) for name in ("number", "density", "mean", "maximum", "label", "score")},
            "site": self.site,
            "description": self.descriptions.get(feature.number),
        }

    def card(self, number: int) -> dict[str, Any]:
        """All facts on a feature.

        The histogram counts the active positions in its top pictures, in :data:`BINS` equal bins of its code from 0 to
        its maximum. Heat is its code scaled to 0 to 255, where 255 is its maximum.

        Raises:
            UserError: if the feature does not exist or the index is damaged.
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
            "grid": self.index.facts.grid,
            "score_name": self.index.facts.score_name,
            "histogram": counts.tolist(),
            "tops": tops,
            "nearest": near,
        }

    def top_picture(self, picture: int) -> bytes:
        """A stored picture as WebP.

        Raises:
            UserError: if the index stores no picture of this number.
        """
        if picture not in self.index.facts.prompted:
            raise UserError(f"the index of {self.site} stores no picture {picture}")
        try:
            return self.index.file(picture).read_bytes()
        except OSError as error:
            raise UserError(f"the picture {picture} of {self.site} cannot be read: {error.strerror}") from None


def find_in(shelves: Sequence[Shelf], text: str, by: Sort) -> list[tuple[Shelf, IndexedFeature]]:
    """The features of several sites that match a text, as :meth:`Shelf.find` finds them, sorted together.

    Of features with equal values, those of earlier sites come first.
    """
    matches = [(shelf, feature) for shelf in shelves for feature in shelf.find(text, by)]
    return sorted(matches, key=lambda match: sort_key(match[1], by)) if len(shelves) > 1 else matches


def read_descriptions(file: Path) -> dict[str, dict[int, str]]:
    """Site to feature to description, from a JSON file such as ``{"mid.0": {"240": "a violet colour"}}``.

    Raises:
        UserError: if the file cannot be read or has another form.
    """
    form = 'expected JSON as {"mid.0": {"240": "a violet colour"}}'
    try:
        sites = json.loads(file.read_text(encoding="utf-8-sig"))
        return {
            str(site): {int(number): str(text) for number, text in features.items()} for site, features in sites.items()
        }
    except OSError as error:
        raise UserError(f"the descriptions {file} cannot be read: {error.strerror}") from None
    except (ValueError, AttributeError, RecursionError):
        raise UserError(f"the descriptions {file} cannot be used; {form}") from None
