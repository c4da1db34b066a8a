"""Make the feature indexes of SAEs: one pass over generated pictures, then one folder for each SAE."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from riebench.features.feature_index import FACTS, FULL, HEAT, PICTURES, Columns, FeatureIndex, IndexFacts
from riebench.features.gathered import Gathered, nearest_features
from riebench.features.labels import Labels, label_features
from riebench.instruments.world import World
from riebench.models.model import Model
from riebench.prompts import Prompted
from riebench.sae.dictionary import Dictionary
from riebench.util.files import write_whole
from riebench.util.progress import Track

TOP, NEAREST, SIDE = 9, 8, 128
QUALITY = 80


class IndexPart(NamedTuple):
    """One SAE of several whose indexes are made in one pass.

    Attributes:
        site: where the dictionary reads.
        dictionary: the SAE.
        out: the folder; see :func:`riebench.features.index_folder.check_index_folder`.
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
    """Generate the pictures, look at every feature in them, and write the index; one that is there is replaced.

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
    """Generate the pictures once, look at every feature of several SAEs in them, and write an index for each.

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
    gathered = [
        Gathered(len(part.dictionary.W_dec), model.sites[part.site].positions, top, each=world is not None)
        for part in parts
    ]
    most = 2 * sum(each.pictures.numel() for each in gathered)
    pictures: dict[int, bytes] = {}
    runs = model.runs(prompted, steps, {part.site for part in parts})
    with torch.no_grad():
        for number in track(range(len(prompted))):
            run = next(runs)
            for part, each in zip(parts, gathered, strict=True):
                each.add(number, part.dictionary.encode(run.values[part.site].float()))
            pictures[number] = _small(run.image, side)
            if len(pictures) >= most:  # forget those that no feature shows any more
                wanted = set[int]().union(*(each.pictures.unique().tolist() for each in gathered))
                pictures = {number: data for number, data in pictures.items() if number in wanted}
    found = []
    for part, each in zip(parts, gathered, strict=True):
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
        found.append(FeatureIndex(part.out))
    return found


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


def _columns(gathered: Gathered, labels: Labels, numbers: Tensor, cosines: Tensor) -> Columns:
    means = _short(gathered.total / gathered.active.clamp(min=1))
    shown = [int(count) for count in (gathered.pictures >= 0).sum(1)]
    return Columns(
        density=_short(gathered.active / gathered.seen),
        mean=[mean if active else None for mean, active in zip(means, gathered.active.tolist(), strict=True)],
        maximum=_short(gathered.highest[:, 0]),
        label=list(labels.labels),
        score=list(labels.scores),
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
