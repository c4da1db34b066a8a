"""Figures of an ablation, in PNG and SVG: what each set of blocks costs, and which attributes it changes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from riebench.ablation.effects import CHANGED, attributes_in
from riebench.report.style import FIXED, METADATA, PAPER

EFFECTS, ATTRIBUTES = "effects", "attributes"
KINDS = ("png", "svg")
WIDTH = 7.2  # inches: the text of a page
ROW, AROUND = 0.17, 1.05  # inches: a set of blocks, and what is above and below all of them
APART = 0.7  # rows between single blocks and several at once
ALONE, SEVERAL = FIXED["steering"], FIXED["sae"]
LONGEST = 36  # letters of a name


def short_name(name: str, most: int = LONGEST) -> str:
    """The name of a set of blocks; of one too long the first and the last block."""
    blocks = name.split("+")
    return name if len(name) <= most else f"{blocks[0]}+…+{blocks[-1]}"


def draw_effects(table: pd.DataFrame, title: str, names: Mapping[str, str], folder: Path) -> None:
    """``effects.png``: LPIPS and change of CLIP by set of blocks, as bars with intervals; names are those of
    the two metrics (OSError)."""
    places = _places(table)
    with rc_context(PAPER):
        figure = Figure(figsize=(WIDTH, AROUND + ROW * (places[-1] + 1)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        colours = [ALONE if together == 1 else SEVERAL for together in table["together"]]
        for axes, measure, text in (
            (left, "lpips", f"LPIPS to the untouched picture ({names['lpips']})"),
            (right, "clip_change", f"change of CLIP similarity with the prompt ({names['clip']})"),
        ):
            axes.barh(places, table[measure], height=0.72, color=colours)
            _intervals(axes, table, measure, places)
            axes.axvline(0, color="#404040", linewidth=0.6)
            axes.set_xlabel(text)
            axes.grid(axis="y", visible=False)
        left.set_yticks(places, [short_name(name) for name in table["blocks"]])
        left.set_ylim(places[-1] + 0.6, -0.6)
        figure.suptitle(title, fontsize=9)
        right.tick_params(axis="y", left=False)
        several = "; blue: one block, orange: several at once" if (table["together"] > 1).any() else ""
        figure.supxlabel(f"bars: means over prompts; lines: 95 % bootstrap intervals{several}", fontsize=8)
        _save(figure, folder / EFFECTS)


def draw_attributes(table: pd.DataFrame, title: str, folder: Path) -> None:
    """``attributes.png``: which attributes read otherwise, by set of blocks, as a heat map (OSError)."""
    names = attributes_in(table)
    shares = table[[f"{CHANGED}{name}" for name in names]].to_numpy(float)
    with rc_context(PAPER):
        figure = Figure(figsize=(WIDTH, AROUND + ROW * len(table)), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(shares, cmap="cividis", aspect="auto", vmin=0, vmax=1)
        for row, column in np.ndindex(shares.shape):
            share = shares[row, column]
            if np.isfinite(share):
                ink = "white" if share < 0.55 else "black"
                text = "0" if share == 0 else f"{share:.2f}"
                axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=6)
        alone = int((table["together"] == 1).sum())
        if 0 < alone < len(table):
            axes.axhline(alone - 0.5, color="white", linewidth=2.5)
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks(range(len(table)), [short_name(name) for name in table["blocks"]])
        axes.grid(visible=False)
        axes.set_facecolor("#eeeeee")
        figure.colorbar(image, label="share of pictures in which it changes", aspect=30)
        figure.suptitle(f"{title}; attributes that change", fontsize=9)
        _save(figure, folder / ATTRIBUTES)


def _places(table: pd.DataFrame) -> np.ndarray:
    """Where the bar of each set is; several blocks at once are set apart from single ones."""
    several = table["together"].to_numpy() > 1
    return np.arange(len(table)) + APART * (several & bool((~several).any()))


def _intervals(axes: Axes, table: pd.DataFrame, measure: str, places: np.ndarray) -> None:
    middle = table[measure].to_numpy(float)
    low, high = (table[f"{measure}_{end}"].fillna(table[measure]).to_numpy(float) for end in ("low", "high"))
    axes.errorbar(
        middle, places, xerr=[middle - low, high - middle], fmt="none", ecolor="#202020", elinewidth=0.8, capsize=1.5
    )


def _save(figure: Figure, path: Path) -> None:
    for kind in KINDS:
        figure.savefig(path.with_name(f"{path.name}.{kind}"), metadata=METADATA[kind])
