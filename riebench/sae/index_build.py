"""Make the feature index of an SAE: one pass over generated pictures, then one folder."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from riebench.models.model import Model
from riebench.sae.detect import Detected, detect
from riebench.sae.dictionary import Dictionary
from riebench.sae.feature_index import FACTS, FULL, HEAT, PICTURES, Columns, FeatureIndex, IndexFacts
from riebench.sae.prompts import Prompted
from riebench.sae.scan import runs_of
from riebench.util.files import write_whole
from riebench.util.progress import Track

TOP, NEAREST, SIDE = 9, 8, 128
QUALITY = 80
ROWS = 1024
"""Features whose cosines with all others are worked out together."""


class Gathered:
    """What is kept of the pictures as they pass: sums, and each feature's top pictures with heat maps.

    Args:
        features: number of features.
        positions: number of positions in a picture.
        top: pictures kept for each feature.
    """

    def __init__(self, features: int, positions: int, top: int) -> None:
        self.seen = 0
        self.active = torch.zeros(features, dtype=torch.long)
        self.total = torch.zeros(features, dtype=torch.double)
        self.highest = torch.zeros(features, top)
        self.pictures = torch.full((features, top), -1)
        self.heat = torch.zeros(features, top, positions, dtype=torch.half)
        self.in_each: list[Tensor] = []

    def add(self, picture: int, codes: Tensor) -> None:
        """Take in the codes ``[steps, positions, features]`` of a picture."""
        self.seen += codes.shape[0] * codes.shape[1]
        self.active += (codes > 0).sum((0, 1)).cpu()
        self.total += codes.sum((0, 1)).cpu()
        heat = codes.amax(0)
        highest = heat.amax(0).cpu()
        self.in_each.append(highest.half())
        rows = (highest > self.highest.amin(1)).nonzero()[:, 0]
        places = self.highest[rows].argmin(1)
        self.highest[rows, places] = highest[rows]
        self.pictures[rows, places] = picture
        self.heat[rows, places] = heat[:, rows.to(heat.device)].T.half().cpu()

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
    steps: int = 1,
    top: int = TOP,
    side: int = SIDE,
    track: Track = iter,
) -> FeatureIndex:
    """Generate the pictures, look at every feature in them, and write the index; one that is there is replaced.

    Args:
        model: the model.
        site: where the dictionary reads.
        dictionary: the SAE.
        prompted: prompts and seeds.
        out: the folder; see :func:`riebench.sae.index_folder.check_index_folder`.
        name: of the SAE, for titles.
        fingerprint: of the SAE, as :func:`riebench.sae.folders.sae_fingerprint`.
        prompts: where the prompts come from, for the reader.
        steps: denoising steps.
        top: pictures kept for each feature.
        side: of the stored pictures at most, pixels.
        track: shows how far the pictures are.

    Raises:
        UserError: if the site does not exist or the folder cannot be written.
    """
    directions = dictionary.W_dec
    gathered = Gathered(len(directions), model.sites[site].positions, top)
    pictures: dict[int, bytes] = {}
    runs = runs_of(model, prompted, steps, [site])
    with torch.no_grad():
        for number in track(range(len(prompted))):
            run = next(runs)
            gathered.add(number, dictionary.encode(run.values[site].float()))
            pictures[number] = _small(run.image, side)
            if len(pictures) >= 2 * gathered.pictures.numel():  # forget those that no feature shows any more
                pictures = _shown(pictures, gathered)
        gathered.sort()
        numbers, cosines = nearest_features(directions, NEAREST)
    pictures = _shown(pictures, gathered)
    detected = detect(model, prompted, torch.stack(gathered.in_each).float().numpy())
    facts = IndexFacts(
        name=name,
        sae=fingerprint,
        site=site,
        width=directions.shape[1],
        grid=model.sites[site].grid,
        model=model.entry.name,
        model_fingerprint=model.fingerprint,
        steps=steps,
        prompts=prompts,
        pictures_made=len(prompted),
        score_name=detected.score_name,
        columns=_columns(gathered, detected, numbers, cosines),
        prompted={number: (prompted[number].prompt, prompted[number].seed) for number in sorted(pictures)},
    )
    _write(out, facts, pictures, gathered)
    return FeatureIndex(out)


def _small(image: np.ndarray, side: int) -> bytes:
    picture = Image.fromarray(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=QUALITY, method=4)
    return buffer.getvalue()


def _shown(pictures: dict[int, bytes], gathered: Gathered) -> dict[int, bytes]:
    shown = set(gathered.pictures.unique().tolist())
    return {number: data for number, data in pictures.items() if number in shown}


def _short(values: Tensor) -> list[float]:
    """Numbers with six digits, as many as a reader can use and few enough for a small file."""
    return [float(f"{value:.6g}") for value in values.tolist()]


def _columns(gathered: Gathered, detected: Detected, numbers: Tensor, cosines: Tensor) -> Columns:
    means = _short(gathered.total / gathered.active.clamp(min=1))
    shown = [int(count) for count in (gathered.pictures >= 0).sum(1)]
    return Columns(
        density=_short(gathered.active / gathered.seen),
        mean=[mean if active else None for mean, active in zip(means, gathered.active.tolist(), strict=True)],
        maximum=_short(gathered.highest[:, 0]),
        label=list(detected.labels),
        score=list(detected.scores),
        pictures=[row[:count] for row, count in zip(gathered.pictures.tolist(), shown, strict=True)],
        highest=[_short(row[:count]) for row, count in zip(gathered.highest, shown, strict=True)],
        nearest=numbers.tolist(),
        cosines=[[round(value, 4) for value in row] for row in cosines.tolist()],
    )


def _heat(gathered: Gathered, grid: tuple[int, int]) -> np.ndarray:
    """Heat maps ``[features, top pictures, rows, columns]`` as bytes, :data:`FULL` at a feature's maximum."""
    most = int((gathered.pictures >= 0).sum(1).max())
    scale = FULL / gathered.highest[:, :1, None].clamp(min=1e-9)
    heat = (gathered.heat[:, :most].float() * scale).round().clamp(max=FULL).byte().numpy()
    return heat.reshape(*heat.shape[:2], *grid)


def _write(out: Path, facts: IndexFacts, pictures: dict[int, bytes], gathered: Gathered) -> None:
    """Write a new folder beside ``out`` and give it the name last, so that a reader never meets half an index."""
    part = out.with_name(f"{out.name}.{uuid4().hex[:8]}.part")
    try:
        (part / PICTURES).mkdir(parents=True)
        for number, data in pictures.items():
            (part / PICTURES / f"{number}.webp").write_bytes(data)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, heat=_heat(gathered, facts.grid))
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
