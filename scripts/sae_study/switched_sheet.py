"""A contact sheet: features switched on at strength 1, 2 and 4, the best ones and random ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import riebench
from riebench.features.switching import switched_on
from riebench.instruments.loading import mask_rules
from riebench.masks import Region, to_grid
from riebench.mini.drawn_world import DrawnWorld
from riebench.models import Edit, Model
from riebench.prompts import Prompted, read_prompts
from riebench.report.sheet import TILE, Tiles, compose
from riebench.sae.store import load_sae
from riebench.settings.protocols import RIEBENCH
from riebench.settings.settings import Settings

STRENGTHS = (1.0, 2.0, 4.0)
ROWS = 5


def draw_sheet(files: list[dict[str, Any]], work: Path, out: Path) -> None:
    """Draw features of the SAEs with k 10, expansion 4 and seed 0: the best at switching their value on, and random."""
    model, rows = riebench.load("mini"), []
    for heading, chosen in (("best", _best(files)), ("random", _random(files))):
        rows += [_row(model, work, heading, facts, feature) for facts, feature in chosen]
    title = "Features switched on in the area of their value, at 1, 2 and 4 times the usual norm of the values there"
    compose(title, rows).quantize(128).save(out, optimize=True)


def _plain(files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    plain_options = {"k": 10, "expansion": 4, "aux": True, "frozen": False, "seed": 0}
    return [f for f in files if f["kind"] == "sae" and all(f["config"].get(n) == v for n, v in plain_options.items())]


def _best(files: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    every = [(f, row) for f in _plain(files) for row in f["switched"] if row["best"] and row.get("on") is not None]
    every.sort(key=lambda entry: -(entry[1]["on"] - (entry[1].get("on_random") or 0)))
    return every[:ROWS]


def _random(files: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    every = [(f, row) for f in _plain(files) for row in f["switched"] if row["drawn"] and not row["best"]]
    return [every[i] for i in np.random.default_rng(0).permutation(len(every))[:ROWS]]


def _row(model: Model, work: Path, heading: str, facts: dict[str, Any], feature: dict[str, Any]) -> tuple[str, Tiles]:
    """A held-out picture without the feature's value, untouched and with the feature on in the area of that value."""
    world, site = DrawnWorld(), facts["block"]
    attribute, value = feature["value"].split("=")
    prompted = read_prompts("grammar", 60, "held-out")
    prompt, seed = next(
        candidate for candidate in prompted if world.shown(candidate.prompt).get(attribute) not in (None, value)
    )
    sae = load_sae(work / "grid" / site / facts["name"])
    (base,) = model.runs([Prompted(prompt, seed)], 1, [site])
    level = float(base.values[site].square().sum(-1).mean().sqrt())
    grid = model.sites[site].grid
    rules = mask_rules(model.entry, Settings(), RIEBENCH)
    cells = to_grid(Region(world.area(prompt, seed, attribute)[None]), *grid, rules).ravel()
    change = switched_on(sae.W_dec[feature["number"]], level, torch.from_numpy(cells), 1)
    edits = [Edit({site: change}, strength) for strength in STRENGTHS]
    runs = model.generate([prompt] * len(edits), [seed] * len(edits), 1, edits=edits)
    tiles = [("untouched", base.image), *((f"x {s:g}", run.image) for s, run in zip(STRENGTHS, runs, strict=True))]
    caption = f"{heading}: {site}, feature {feature['number']}, {attribute}: {value}"
    return caption, [(label, Image.fromarray(image).resize((TILE, TILE))) for label, image in tiles]
