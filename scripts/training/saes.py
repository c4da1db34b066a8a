"""Last stage: SAEs on the updates of the four blocks of the finished model, by riebench's own trainer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import riebench
from riebench.mini.grammar import random_prompt, random_scene
from riebench.models.mini import SAES
from riebench.models.sdxl import FOUR
from riebench.sae import save_sae
from riebench.sae.train import SAESettings, explained_variance, train

from .data import FIRST_TRAINING_SEED

FIRST = 2_000_000  # training layouts of their own


def capture(folder: Path, prompts: int) -> dict[str, Tensor]:
    """Updates of one-step runs at single positions, ``[prompts * cells, channels]`` for each block."""
    path = folder / "updates.pt"
    if path.exists():
        return torch.load(path, weights_only=True)
    model = riebench.load("mini")
    model.batch = 20
    vectors: dict[str, list[Tensor]] = {b: [] for b in FOUR}
    for start in range(0, prompts, 20):
        seeds = [FIRST_TRAINING_SEED + FIRST + start + i for i in range(20)]
        rngs = [np.random.default_rng([s, 3]) for s in seeds]
        texts = [random_prompt(random_scene(rng, held=False), rng) for rng in rngs]
        for run in model.generate(texts, seeds, 1, capture=FOUR):
            for block in FOUR:
                vectors[block].append(run.values[block][0].half())
        if start % 500 == 0:
            print(f"updates  {start}/{prompts}", flush=True)
    found = {b: torch.cat(v) for b, v in vectors.items()}
    torch.save(found, path)
    return found


def stage(rank: int, world: int, folder: Path, steps: int, prompts: int = 4000) -> None:
    """Train one SAE a block and write it into the package."""
    updates = capture(folder, prompts)
    for block in FOUR:
        x = updates[block].float()
        settings = SAESettings(steps=steps)

        def show(step: int, variance: float, block: str = block) -> None:
            print(f"sae {block}  step {step}/{steps}  explained variance {variance:.4f}", flush=True)

        sae = train(x, settings, show)
        dead = float((sae.stats_last_nonzero > settings.dead_after).float().mean())
        print(f"sae {block}  explained variance {explained_variance(sae, x[:50000]):.4f}  dead {dead:.4f}", flush=True)
        config = {
            "auxk": settings.auxk,
            "dead_steps_threshold": settings.dead_after,
            "explained_variance": explained_variance(sae, x[:50000]),
        }
        save_sae(sae, SAES / block, config, torch.float16)
