"""Make the feature indexes of SAEs: one pass over generated pictures, then one folder for each SAE."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from riebench.features.feature_index import FACTS, FULL, HEAT, PICTURES, Columns, FeatureIndex, IndexFacts
from riebench.features.scores.estimate import Array
from riebench.features.scores.interpretability import detect, truths_of
from riebench.instruments.world import World
from riebench.models.model import Model
from riebench.prompts import Prompted
from riebench.sae.dictionary import Dictionary
from riebench.util.files import write_whole
from riebench.util.progress import Track

TOP, NEAREST, SIDE = 9, 8, 128
QUALITY = 80
ROWS = 1024
"""Features whose cosines with all others are worked out together."""


class IndexPart(NamedTuple):
    """One SAE of several whose indexes are made in one pass.

    Attributes:
        site: where the dictionary reads.
        dictionary: the SAE.
        out: the folder; see :func:`riebench.features.feature_index.check_index_folder`.
        name: of the SAE, for titles.
        fingerprint: of the SAE, as :func:`riebench.sae.folders.sae_fingerprint`.
    """

    site: str
    dictionary: Dictionary
    out: Path
    name: str
    fingerprint: str


def make_index(
    model: Model,
    site: str,
    dictionary: Dictionary,
    prompted: Sequence[Prompted],
    out: Path,
    *,
    name: str,
    fingerprint: str,
    prompts: str,
    world: World | None = None,
    steps: int = 1,
    top: int = TOP,
    side: int = SIDE,
    track: Track = iter,
) -> FeatureIndex:
    """Generate the pictures, measure every feature in them, and write the index; an earlier index is replaced.

    ``site``, ``dictionary``, ``out``, ``name`` and ``fingerprint`` are those of :class:`IndexPart`, the others and the
    errors those of :func:`make_indexes`.
    """
    part = IndexPart(site, dictionary, out, name, fingerprint)
    [index] = make_indexes(
        model, [part], prompted, prompts=prompts, world=world, steps=steps, top=top, side=side, track=track
    )
    return index


def make_indexes(
    model: Model,
    parts: Sequence[IndexPart],
    prompted: Sequence[Prompted],
    *,
    prompts: str,
    world: World | None = None,
    steps: int = 1,
    top: int = TOP,
    side: int = SIDE,
    track: Track = iter,
) -> list[FeatureIndex]:
    """Generate the pictures once, measure every feature of several SAEs in them, and write an index for each.

    Args:
        model: the model.
        parts: the SAEs.
        prompted: prompts and seeds.
        prompts: where the prompts come from, for the reader.
        world: the truth about the prompts, which gives the features labels and scores.
        steps: denoising steps.
        top: pictures kept for each feature.
        side: of the stored pictures at most, pixels.
        track: shows how far the pictures are.

    Raises:
        UserError: if a site does not exist or a prompt is not of the world.
    """
    shown = [world.shown(prompt) for prompt, _ in prompted] if world else []
    totals = [
        FeatureTotals(len(part.dictionary.W_dec), model.sites[part.site].positions, top, each=world is not None)
        for part in parts
    ]
    most = 2 * sum(each.pictures.numel() for each in totals)
    pictures: dict[int, bytes] = {}
    runs = model.runs(prompted, steps, {part.site for part in parts})
    with torch.no_grad():
        for number in track(range(len(prompted))):
            run = next(runs)
            for part, each in zip(parts, totals, strict=True):
                each.add(number, part.dictionary.encode(run.values[part.site].float()))
            pictures[number] = _small(run.image, side)
            if len(pictures) >= most:  # forget those that no feature shows any more
                shown_somewhere = set[int]().union(*(each.pictures.unique().tolist() for each in totals))
                pictures = {number: data for number, data in pictures.items() if number in shown_somewhere}
    indexes = []
    for part, each in zip(parts, totals, strict=True):
        each.sort()
        own = _shown(pictures, each)
        nothing = [None] * len(part.dictionary.W_dec)
        labels = label_features(each.in_each(), shown, world) if world else Labels(nothing, nothing, None)
        with torch.no_grad():
            numbers, cosines = nearest_features(part.dictionary.W_dec, NEAREST)
        facts = IndexFacts(
            name=part.name,
            sae=part.fingerprint,
            site=part.site,
            width=part.dictionary.W_dec.shape[1],
            grid=model.sites[part.site].grid,
            model=model.entry.name,
            model_fingerprint=model.fingerprint,
            steps=steps,
            prompts=prompts,
            pictures_made=len(prompted),
            score_name=labels.score_name,
            columns=_columns(each, labels, numbers, cosines),
            prompted={number: (prompted[number].prompt, prompted[number].seed) for number in sorted(own)},
        )
        _write(part.out, facts, own, each)
        indexes.append(FeatureIndex(part.out))
    return indexes


def _small(image: np.ndarray, side: int) -> bytes:
    picture = Image.fromarray(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=QUALITY, method=4)
    return buffer.getvalue()


def _shown(pictures: dict[int, bytes], totals: FeatureTotals) -> dict[int, bytes]:
    shown = set(totals.pictures.unique().tolist())
    return {number: data for number, data in pictures.items() if number in shown}


def _short(values: Tensor) -> list[float]:
    """Numbers with six digits, as many as a reader can use and few enough for a small file."""
    return [float(f"{value:.6g}") for value in values.tolist()]


def _columns(totals: FeatureTotals, labels: Labels, numbers: Tensor, cosines: Tensor) -> Columns:
    means = _short(totals.total / totals.active.clamp(min=1))
    shown = [int(count) for count in (totals.pictures >= 0).sum(1)]
    return Columns(
        density=_short(totals.active / totals.seen),
        mean=[mean if active else None for mean, active in zip(means, totals.active.tolist(), strict=True)],
        maximum=_short(totals.highest[:, 0]),
        label=list(labels.labels),
        score=list(labels.scores),
        pictures=[row[:count] for row, count in zip(totals.pictures.tolist(), shown, strict=True)],
        highest=[_short(row[:count]) for row, count in zip(totals.highest, shown, strict=True)],
        nearest=numbers.tolist(),
        cosines=[[round(value, 4) for value in row] for row in cosines.tolist()],
    )


def _heat(totals: FeatureTotals, grid: tuple[int, int]) -> np.ndarray:
    """Heat maps ``[features, top pictures, rows, columns]`` as bytes, :data:`FULL` at a feature's maximum."""
    most = int((totals.pictures >= 0).sum(1).max())
    scale = FULL / totals.highest[:, :1, None].clamp(min=1e-9)
    heat = (totals.heat[:, :most].float() * scale).round().clamp(max=FULL).byte().numpy()
    return heat.reshape(*heat.shape[:2], *grid)


def _write(out: Path, facts: IndexFacts, pictures: dict[int, bytes], totals: FeatureTotals) -> None:
    """Write a new folder beside ``out`` and give it the name last, so that a reader never meets half an index."""
    part = out.with_name(f"{out.name}.{uuid4().hex[:8]}.part")
    try:
        (part / PICTURES).mkdir(parents=True)
        for number, data in pictures.items():
            (part / PICTURES / f"{number}.webp").write_bytes(data)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, heat=_heat(totals, facts.grid))
        write_whole(part / HEAT, buffer.getvalue())
        write_whole(part / FACTS, facts.model_dump_json().encode())
        if out.exists():
            old = part.with_suffix(".old")
            os.replace(out, old)
            os.replace(part, out)
            shutil.rmtree(old)
        else:
            os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


class FeatureTotals:
    """Sums over the pictures as they pass, and each feature's top pictures with heat maps.

    Args:
        features: number of features.
        positions: number of positions in a picture.
        top: pictures kept for each feature.
        each: whether the largest code in every picture is kept, too.
    """

    def __init__(self, features: int, positions: int, top: int, each: bool = False) -> None:
        self.seen = 0
        self.active = torch.zeros(features, dtype=torch.long)
        self.total = torch.zeros(features, dtype=torch.double)
        self.highest = torch.zeros(features, top)
        self.pictures = torch.full((features, top), -1)
        self.heat = torch.zeros(features, top, positions, dtype=torch.half)
        self._each: list[Tensor] | None = [] if each else None

    def add(self, picture: int, codes: Tensor) -> None:
        """Take in the codes ``[steps, positions, features]`` of a picture."""
        self.seen += codes.shape[0] * codes.shape[1]
        self.active += (codes > 0).sum((0, 1)).cpu()
        self.total += codes.sum((0, 1)).cpu()
        heat = codes.amax(0)
        highest = heat.amax(0).cpu()
        if self._each is not None:
            self._each.append(highest.half())
        rows = (highest > self.highest.amin(1)).nonzero()[:, 0]
        places = self.highest[rows].argmin(1)
        self.highest[rows, places] = highest[rows]
        self.pictures[rows, places] = picture
        self.heat[rows, places] = heat[:, rows.to(heat.device)].T.half().cpu()

    def in_each(self) -> NDArray[np.float32]:
        """Largest code in each picture ``[pictures, features]``; only where ``each`` was asked for."""
        assert self._each is not None
        return torch.stack(self._each).float().numpy()

    def sort(self) -> None:
        """Put the largest codes first."""
        order = self.highest.argsort(dim=1, descending=True)
        self.highest, self.pictures = self.highest.gather(1, order), self.pictures.gather(1, order)
        self.heat = self.heat[torch.arange(len(order))[:, None], order]


def nearest_features(directions: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Numbers and cosines ``[n, count]`` of the directions ``[n, d]`` nearest to each, itself left out."""
    unit = normalize(directions.float(), dim=1)
    numbers, cosines = [], []
    for start in range(0, len(unit), ROWS):
        part = unit[start : start + ROWS] @ unit.T
        part[torch.arange(len(part)), torch.arange(start, start + len(part))] = -torch.inf
        values, indices = part.topk(min(count, len(unit) - 1), dim=1)
        numbers.append(indices)
        cosines.append(values)
    return torch.cat(numbers).cpu(), torch.cat(cosines).cpu()


class Labels(NamedTuple):
    """A label and a score for each feature; None for a feature that is hardly ever active, or without a known truth."""

    labels: Sequence[str | None]
    scores: Sequence[float | None]
    score_name: str | None


def label_features(highest: Array, shown: Sequence[Mapping[str, str]], world: World) -> Labels:
    """Label each feature ``attribute: value`` with the F1 of :func:`riebench.features.scores.interpretability.detect`.

    The value and the threshold are chosen on every other picture, the F1 is of the rest.

    Args:
        highest: largest code in each picture ``[pictures, n]``.
        shown: attribute to value, for each picture.
        world: its attributes.
    """
    truths = truths_of(shown, world.attributes)
    detection = detect([highest], truths, np.arange(len(highest)) % 2 == 0)
    names = [": ".join(truths.values[value]) for value in detection.value]
    # A feature that is active nowhere in the half that the value is chosen on has no threshold.
    scored = np.isfinite(detection.threshold) & np.isfinite(detection.f1)
    return Labels(
        [name if alive else None for name, alive in zip(names, scored, strict=True)],
        [round(float(score), 4) if alive else None for score, alive in zip(detection.f1, scored, strict=True)],
        "F1",
    )
