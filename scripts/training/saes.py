"""Last stage: SAEs on the updates of the four blocks of the finished model, by riebench's own trainer."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from riebench.models.mini import WEIGHTS
from riebench.models.sdxl import FOUR
from riebench.sae import collect, load_sae, save_sae, train
from riebench.sae.training_grid import Axes, GridPoint


def stage(rank: int, world: int, folder: Path, steps: int, prompts: int = 4000) -> None:
    """Train one SAE a block and write it into the package."""
    collect("mini", FOUR, prompts="grammar", count=prompts, out=folder / "updates", batch=20)
    train(folder / "updates", out=folder / "saes", steps=steps)
    own = Axes()
    for block in FOUR:
        point = GridPoint(site=block, k=own.k[0], expansion=own.expansion[0], aux=own.aux[0], seed=own.seeds[0])
        made = folder / "saes" / point.name
        config = json.loads((made / "config.json").read_text())
        chosen = {name: config[name] for name in ("auxk", "dead_steps_threshold", "explained_variance")}
        save_sae(load_sae(made), WEIGHTS / "sae" / block, chosen, torch.float16)
