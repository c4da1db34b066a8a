"""Switch features of a dictionary on and off in pictures, and measure how the pictures change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from riebench.features.held_out_pictures import Picture, SharedPictures
from riebench.features.scores.causality import appeared, change_ratio, clip_causality, share_kept, vanished
from riebench.features.scores.estimate import Array, Estimate, mean_estimate
from riebench.features.scores.interpretability import Indices
from riebench.features.subjects import Subject
from riebench.models.sae_sites import change_by_codes
from riebench.models.sites import Change, Edit
from riebench.sae.dictionary import Dictionary, rebuilt

Descriptions = Mapping[int, str]
"""Feature to its description."""
KINDS = ("on", "on_random", "off", "off_random")
"""A feature switched on or off, and a random direction of the same norm in its place."""


def switched_on(direction: Tensor, level: float, area: Tensor, steps: int) -> Tensor:
    """A direction ``[d]`` added at a level in an area ``[positions]``: ``[steps, positions, d]``."""
    return (level * area.float()[:, None] * direction).expand(steps, -1, -1)


def switched_off(dictionary: Dictionary, index: int, direction: Tensor, area: Tensor) -> Change:
    """Takes away a direction ``[d]`` times the code of a feature, as it is in each step, in an area ``[positions]``."""

    def change(read: Tensor, values: Tensor, step: int) -> Tensor:
        return -(dictionary.encode(read)[:, index] * area)[:, None] * direction

    return change_by_codes(dictionary, change)


def reconstructed(dictionary: Dictionary) -> Change:
    """Puts the reconstruction in the place of the values."""
    return change_by_codes(dictionary, lambda read, values, step: rebuilt(dictionary, read) - values)


def zeroed(values: Tensor, step: int) -> Tensor:
    """Puts 0 in the place of the values."""
    return -values


class Chosen(NamedTuple):
    """A feature to switch.

    Attributes:
        number: of the feature.
        drawn: whether it was drawn at random.
        best: whether it is one of the best.
        value: attribute and value that it detects; None if no truth is known.
    """

    number: int
    drawn: bool
    best: bool
    value: tuple[str, str] | None


class _Trial(NamedTuple):
    """A switch of a feature: its place in the list, the kind, and the number of the picture."""

    row: int
    kind: str
    picture: int


class Trials:
    """Switches features of one subject.

    Args:
        pictures: the pictures to be edited.
        subject: whose features they are.
        chosen: which features.
        levels: feature to the code at which it is switched on everywhere at strength 1.
        norms: site to the root mean square norm of its values, to which a feature is switched on in an area at
            strength 1: so all dictionaries change the values by as much.
    """

    def __init__(
        self,
        pictures: SharedPictures,
        subject: Subject,
        chosen: Sequence[Chosen],
        levels: Mapping[int, float],
        norms: Mapping[str, float],
    ) -> None:
        self.pictures, self.settings, self.subject = pictures, pictures.settings, subject
        self.chosen, self.levels, self.norms = chosen, levels, norms

    def run(self, tops: Sequence[Indices], descriptions: Descriptions) -> list[dict[str, Any]]:
        """The measures of each feature, means over its pictures; NaN where undefined.

        Args:
            tops: the top pictures of every feature.
            descriptions: of the features; they take the place of the top pictures.
        """
        rows: list[dict[str, Any]] = [
            {**c._asdict(), "value": c.value and "=".join(c.value), "level": self.levels[c.number]} for c in self.chosen
        ]
        everywhere, areas = self._everywhere(tops, descriptions), self._in_areas()
        return [row | whole | area for row, whole, area in zip(rows, everywhere, areas, strict=True)]

    def _everywhere(self, tops: Sequence[Indices], descriptions: Descriptions) -> list[dict[str, float]]:
        """Switch each feature on everywhere from the neutral prompt (v1 of the paper)."""
        if not self.chosen:
            return []
        settings, model = self.settings, self.pictures.model
        meanings = torch.stack([self._meaning(c.number, tops, descriptions) for c in self.chosen])
        controls = [i for i, c in enumerate(self.chosen) if c.drawn]
        rows: list[dict[str, float]] = [{} for _ in self.chosen]
        for strength in settings.strengths:
            images: list[Picture] = []
            for start in range(0, len(self.chosen), model.batch):
                part = self.chosen[start : start + model.batch]
                edits = [Edit(self._on(c.number, strength, None)) for c in part]
                seed = self.pictures.prompted[self.pictures.order[0]].seed
                runs = model.generate([settings.neutral] * len(part), [seed] * len(part), settings.steps, edits=edits)
                images += [run.image for run in runs]
            embedded = self.pictures.scorers.clip.images(images).double()
            for row, score in zip(rows, clip_causality((meanings @ embedded.T).numpy(), controls), strict=True):
                row[f"clip_x{strength:g}"] = float(score)
        for row in rows:
            row["clip"] = float(np.mean(list(row.values())))
        return rows

    def _meaning(self, number: int, tops: Sequence[Indices], descriptions: Descriptions) -> Tensor:
        if number in descriptions:
            return self.pictures.scorers.clip.texts([descriptions[number]])[0].double()
        return F.normalize(torch.from_numpy(self.pictures.embeddings[tops[number]]).mean(0), dim=0)

    def _in_areas(self) -> list[dict[str, float]]:
        """Switch each feature on and off in the area of its value, in several pictures."""
        outcomes: list[dict[str, list[float]]] = [{} for _ in self.chosen]
        trials = sorted(self._planned(), key=lambda t: (t.picture, self.chosen[t.row].value or ("", "")))
        batch = self.pictures.model.batch
        for start in range(0, len(trials), batch):
            part = trials[start : start + batch]
            images = self.pictures.edited([t.picture for t in part], [self._change(t) for t in part])
            for trial, image in zip(part, images, strict=True):
                for name, value in self._outcome(trial, image).items():
                    outcomes[trial.row].setdefault(name, []).append(value)
        return [{name: _mean(values) for name, values in row.items()} for row in outcomes]

    def _planned(self) -> list[_Trial]:
        """Pictures that lack the value for switching on, and that show it for switching off."""
        pictures, most = self.pictures, self.settings.pictures
        planned = []
        for row, c in enumerate(self.chosen):
            if c.value is None:
                planned += [_Trial(row, "on", picture) for picture in pictures.order[:most]]
                continue
            attribute, value = c.value
            values = [(i, pictures.shown[i].get(attribute)) for i in pictures.order]
            lacking = [i for i, shown in values if shown not in (None, value)][:most]
            showing = [i for i, shown in values if shown == value][:most]
            planned += [_Trial(row, kind, i) for kind in KINDS[:2] for i in lacking]
            planned += [_Trial(row, kind, i) for kind in KINDS[2:] for i in showing]
        return planned

    def _change(self, trial: _Trial) -> dict[str, Change]:
        number = self.chosen[trial.row].number
        random = trial.kind.endswith("_random")
        if trial.kind.startswith("on"):
            return self._on(number, self.settings.area_strength, trial, random)
        feature = self.subject.feature(number)
        area = self.pictures.area(self._cells(trial))
        return {feature.site: switched_off(feature.dictionary, feature.index, self._direction(number, random), area)}

    def _on(self, number: int, strength: float, trial: _Trial | None, random: bool = False) -> dict[str, Change]:
        site = self.subject.feature(number).site
        positions = self.pictures.model.sites[site].positions
        cells = np.ones(positions, bool) if trial is None else self._cells(trial)
        direction = self._direction(number, random)
        level = self.levels[number] if trial is None else self.norms[site] / float(direction.norm())
        return {site: switched_on(direction, strength * level, self.pictures.area(cells), self.settings.steps)}

    def _direction(self, number: int, random: bool) -> Tensor:
        """The direction of a feature, or a random one of the same norm that is the same for all its pictures."""
        own = self.subject.feature(number).direction()
        if not random:
            return own
        drawn = torch.randn(own.shape, generator=torch.Generator().manual_seed(self.settings.seed + number)).to(own)
        return drawn * (own.norm() / drawn.norm())

    def _cells(self, trial: _Trial) -> Any:
        chosen = self.chosen[trial.row]
        site = self.subject.feature(chosen.number).site
        return self.pictures.cells(trial.picture, site, chosen.value and chosen.value[0])

    def _outcome(self, trial: _Trial, image: Picture) -> dict[str, float]:
        pictures, chosen = self.pictures, self.chosen[trial.row]
        measures = {}
        if trial.kind == "on":
            site = self.subject.feature(chosen.number).site
            inside = pictures.pixels(self._cells(trial), site)
            measures["locality"] = change_ratio(pictures.images[trial.picture], image, inside)
        if chosen.value is not None:
            attribute, value = chosen.value
            before, after = pictures.reading(trial.picture), pictures.read(image, trial.picture)
            judged = appeared if trial.kind.startswith("on") else vanished
            measures[trial.kind] = judged(before, after, attribute, value)
            measures[f"{trial.kind}_kept"] = share_kept(before, after, without=attribute)
        return measures


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if np.isfinite(value)]
    return float(np.mean(defined)) if defined else float("nan")


def switched_summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
    """Means over the drawn features with their intervals; those of the best features end in ``_best``."""
    names = ["clip", "locality", *KINDS, *(f"{kind}_kept" for kind in KINDS)]
    names += sorted({name for row in rows for name in row if name.startswith("clip_x")})
    summary = {}
    for group, ending in (("drawn", ""), ("best", "_best")):
        part = [row for row in rows if row[group]]
        for name in names:
            summary[name + ending] = mean_estimate(_column(part, name))
        for kind in ("on", "off"):
            gain = _column(part, kind) - _column(part, f"{kind}_random")
            summary[f"{kind}_gain{ending}"] = mean_estimate(gain)
    return summary


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> Array:
    return np.array([row.get(name, np.nan) for row in rows], float)
