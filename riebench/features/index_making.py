"""Make the feature indexes of SAEs: one pass over generated pictures, then one folder for each SAE."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from signal import Signals
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from riebench.features.feature_index import (
    FACTS,
    FULL,
    HEAT,
    PICTURES,
    Columns,
    FeatureIndex,
    IndexFacts,
)
from riebench.features.index_folder import PlannedIndex, refuse_another_index, whole_index
from riebench.features.index_pass import FeatureTotals, IndexPart, IndexPass
from riebench.features.scores.estimate import Array
from riebench.features.scores.interpretability import detect, truths_of
from riebench.features.subjects import dictionary_fingerprint
from riebench.instruments.world import World
from riebench.models.model import Model
from riebench.models.sae_sites import given_sae, placed_sae
from riebench.prompts import Prompted
from riebench.sae.folders import sae_fingerprint
from riebench.util.progress import Track
from riebench.util.work_folder import WorkFolder

TOP, NEAREST, SIDE = 9, 8, 128
ROWS = 1024
"""Features whose cosines with all others are worked out together."""


def make_index(
    model: Model,
    site: str,
    sae: Any,
    prompted: Sequence[Prompted],
    out: Path,
    *,
    name: str,
    prompts: str,
    fingerprint: str | None = None,
    world: World | None = None,
    steps: int = 1,
    top: int = TOP,
    side: int = SIDE,
    track: Track = iter,
) -> FeatureIndex:
    """Generate the pictures, measure every feature in them, and write the index.

    ``site``, ``out``, ``name`` and ``fingerprint`` are those of :class:`IndexPart`, the others and the errors those of
    :func:`make_indexes`.

    Args:
        sae: any that ``saes=`` of :func:`riebench.load` takes: a folder, one of riebench's, or an object with
            ``encode`` and ``decode``.
        fingerprint: computed if it is left out.

    Raises:
        UserError: also if the SAE cannot be used at the site.
    """
    own = given_sae(site, sae, model.sites, model.device)
    placed = placed_sae(site, sae, model.sites, model.device)
    known = fingerprint or (sae_fingerprint(own) if isinstance(own, Path) else dictionary_fingerprint(placed))
    part = IndexPart(site, placed, Path(out), name, known)
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

    An index of the same SAE, model and pictures that is whole is left as it is. A first Ctrl-C keeps what was measured,
    and the same call goes on with it.

    Raises:
        UserError: if a site does not exist, a prompt is not of the world, another process writes to a folder, or a
            folder holds another index.
        KeyboardInterrupt: after the first Ctrl-C.
    """
    shown = [world.shown(prompt) for prompt, _ in prompted] if world else []
    with ExitStack() as locked:
        folders = {part.out: locked.enter_context(WorkFolder(part.out, FACTS)) for part in parts}
        for part in parts:
            refuse_another_index(part.out, planned_index(part, model, steps, prompts, prompted))
        missing = [part for part in parts if whole_index(part.out) is None]
        if missing:
            index_pass = IndexPass(model, missing, prompted, steps=steps, top=top, side=side, each=world is not None)
            ending = index_pass.run(track)
            if ending.left and ending.signal:
                raise KeyboardInterrupt if ending.signal is Signals.SIGINT else SystemExit(128 + ending.signal)
            for part, each in zip(missing, index_pass.totals, strict=True):
                each.sort()
                labels = _labels(part, each, shown, world)
                own = _shown(index_pass.pictures, each)
                planned = planned_index(part, model, steps, prompts, prompted)
                _write(folders[part.out], _facts(part, planned, model, each, labels, own), own, each)
            index_pass.file.unlink(missing_ok=True)
    return [FeatureIndex(part.out) for part in parts]


def planned_index(
    part: IndexPart, model: Model, steps: int, prompts: str, prompted: Sequence[Prompted]
) -> PlannedIndex:
    """The index that is to be made of an SAE."""
    return PlannedIndex(part.fingerprint, part.site, model.entry.name, steps, prompts, prompted, model.fingerprint)


def _labels(part: IndexPart, totals: FeatureTotals, shown: Sequence[Mapping[str, str]], world: World | None) -> Labels:
    nothing = [None] * len(part.dictionary.W_dec)
    return label_features(totals.in_each(), shown, world) if world else Labels(nothing, nothing, None)


def _facts(
    part: IndexPart,
    planned: PlannedIndex,
    model: Model,
    totals: FeatureTotals,
    labels: Labels,
    pictures: Mapping[int, bytes],
) -> IndexFacts:
    with torch.no_grad():
        numbers, cosines = nearest_features(part.dictionary.W_dec, NEAREST)
    prompted = planned.prompted
    return IndexFacts(
        name=part.name,
        sae=part.fingerprint,
        site=part.site,
        width=part.dictionary.W_dec.shape[1],
        grid=model.sites[part.site].grid,
        model=planned.model,
        model_fingerprint=model.fingerprint,
        steps=planned.steps,
        prompts=planned.prompts,
        pictures_made=len(prompted),
        score_name=labels.score_name,
        columns=_columns(totals, labels, numbers, cosines),
        prompted={number: (prompted[number][0], prompted[number][1]) for number in sorted(pictures)},
    )


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


def _write(folder: WorkFolder, facts: IndexFacts, pictures: Mapping[int, bytes], totals: FeatureTotals) -> None:
    """Write an index; its facts come last, so that a reader never takes half of it for an index."""
    (folder.path / FACTS).unlink(missing_ok=True)
    for old in (folder.path / PICTURES).glob("*"):
        old.unlink()
    for number, data in pictures.items():
        folder.write(f"{PICTURES}/{number}.webp", data)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, heat=_heat(totals, facts.grid))
    folder.write(HEAT, buffer.getvalue())
    folder.write(FACTS, facts.model_dump_json().encode())


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
