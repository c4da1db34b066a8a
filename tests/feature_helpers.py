"""A feature index that no model made, of any size."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from riebench.features.feature_index import FACTS, HEAT, PICTURES, Columns, IndexFacts

WORDS = ("red", "blue", "star", "heart", "at night", "in a meadow", "dotted", "tilted")


def invented_index(
    folder: Path, features: int, pictures: int, *, first_prompt: str = "a red heart", top: int = 9, side: int = 64
) -> Path:
    """Write an index with random numbers and pictures; feature 0 is never active, and shows none."""
    rng = np.random.default_rng(0)
    grid = (16, 16)
    density = 10 ** rng.normal(-2, 0.5, features).clip(-4, 0)
    density[0] = 0
    maximum = rng.gamma(4, 5, features).round(3)
    shown = [sorted(rng.choice(pictures, top, replace=False).tolist()) for _ in range(features)]
    shown[0] = []
    facts = IndexFacts(
        name="invented",
        sae="0" * 16,
        site="mid.0",
        width=1280,
        grid=grid,
        model="mini",
        model_fingerprint="none",
        steps=1,
        prompts="captions.txt",
        pictures_made=pictures,
        score_name="F1",
        columns=Columns(
            density=density.tolist(),
            mean=[None, *(maximum[1:] / 3).tolist()],
            maximum=[0.0, *maximum[1:].tolist()],
            label=[None, *(f"colour: {WORDS[i % 2]}" for i in range(1, features))],
            score=[None, *rng.random(features - 1).round(3).tolist()],
            pictures=shown,
            highest=[[float(m)] * len(row) for m, row in zip(maximum, shown, strict=True)],
            nearest=[[(i + step) % features for step in range(1, 9)] for i in range(features)],
            cosines=[[0.5] * 8] * features,
        ),
        prompted={
            number: (first_prompt if number == 0 else f"a {' '.join(rng.choice(WORDS, 4))} {number}", number)
            for number in range(pictures)
        },
    )
    (folder / PICTURES).mkdir(parents=True)
    for number in range(pictures):
        colour = tuple(int(c) for c in rng.integers(0, 255, 3))
        Image.new("RGB", (side, side), colour).save(folder / PICTURES / f"{number}.webp")
    heat = (rng.integers(0, 256, (features, top, *grid)) * (rng.random((features, top, *grid)) < 0.05)).astype(np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, heat=heat)
    (folder / HEAT).write_bytes(buffer.getvalue())
    (folder / FACTS).write_text(facts.model_dump_json())
    return folder
