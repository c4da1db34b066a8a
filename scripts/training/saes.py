"""Last stage of each model: SAEs on the updates of its default sites, by riebench's own trainer."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from riebench.models.mini import MINI, MINI_FLUX, DrawnEntry
from riebench.sae.store import load_sae, save_sae
from riebench.settings.settings import Settings
from riebench.training.collect_values import collect
from riebench.training.train_saes import train
from riebench.training.training_plan import Axes, GridPoint

VECTORS = 256_000
"""Of each site."""


def stage(rank: int, world: int, folder: Path, steps: int) -> None:
    """SAEs of mini."""
    train_saes(MINI, folder, steps)


def flux_stage(rank: int, world: int, folder: Path, steps: int) -> None:
    """SAEs of mini-flux."""
    train_saes(MINI_FLUX, folder, steps)


def train_saes(entry: DrawnEntry, folder: Path, steps: int) -> None:
    """Train one SAE a default site and write it into the package."""
    prompts = VECTORS // entry.sites(Settings())[entry.default_sites[0]].positions
    values, made = folder / f"{entry.name}-updates", folder / f"{entry.name}-saes"
    collect(entry.name, entry.default_sites, prompts="grammar", count=prompts, out=values, batch=20)
    train(values, out=made, steps=steps)
    own = Axes()
    for site in entry.default_sites:
        point = GridPoint(site=site, k=own.k[0], expansion=own.expansion[0], aux=own.aux[0], seed=own.seeds[0])
        config = json.loads((made / point.name / "config.json").read_text())
        chosen = {name: config[name] for name in ("auxk", "dead_steps_threshold", "explained_variance")}
        save_sae(load_sae(made / point.name), entry.own_pipeline.parent / "sae" / site, chosen, torch.float16)
