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
ROW, AROUND, BETWEEN = 0.17, 1.2, 0.3  # inches: a set of blocks, what is around all of them, and between two panels
ALONE, SEVERAL = FIXED["steering"], FIXED["sae"]
LONGEST = 36  # letters of a name


def short_name(name: str, most: int = LONGEST) -> str:
    """The name of a set of blocks; of one too long the first and the last block."""
    blocks = name.split("+")
    return name if len(name) <= most else f"{blocks[0]}+…+{blocks[-1]}"


def draw_effects(table: pd.DataFrame, title: str, names: Mapping[str, str], folder: Path) -> None:
    """``effects.png``: LPIPS and change of CLIP by set of blocks, as bars with intervals; several blocks at once do
    more, so they have scales of their own. ``names`` are those of the two metrics (OSError)."""
    groups = [part for _, part in table.groupby(table["together"] > 1)]
    rows = [len(part) for part in groups]
    with rc_context(PAPER):
        height = AROUND + (len(rows) - 1) * BETWEEN + ROW * sum(rows)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        panels = figure.subplots(len(rows), 2, squeeze=False, sharey="row", height_ratios=[count + 1 for count in rows])
        for pair, part in zip(panels, groups, strict=True):
            colour = ALONE if (part["together"] == 1).all() else SEVERAL
            for axes, measure in zip(pair, ("lpips", "clip_change"), strict=True):
                _bars(axes, part, measure, colour)
            pair[0].set_yticks(range(len(part)), [short_name(name) for name in part["blocks"]])
            pair[0].set_ylim(len(part) - 0.4, -0.6)
            pair[1].tick_params(axis="y", left=False)
        panels[-1, 0].set_xlabel(f"LPIPS to the untouched picture\n({names['lpips']})")
        panels[-1, 1].set_xlabel(f"change of CLIP similarity with the prompt\n({names['clip']})")
        figure.suptitle(title, fontsize=9)
        scales = "; mind the two scales" if len(rows) > 1 else ""
        figure.supxlabel(f"bars: means over prompts; lines: 95 % bootstrap intervals{scales}", fontsize=8)
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


def _bars(axes: Axes, part: pd.DataFrame, measure: str, colour: str) -> None:
    """A measure of some sets of blocks with its intervals, from top to bottom."""
    middle = part[measure].to_numpy(float)
    low, high = (part[f"{measure}_{end}"].fillna(part[measure]).to_numpy(float) for end in ("low", "high"))
    places, reach = range(len(part)), [middle - low, high - middle]
    axes.barh(places, middle, height=0.72, color=colour)
    axes.errorbar(middle, places, xerr=reach, fmt="none", ecolor="#202020", elinewidth=0.8, capsize=1.5)
    axes.axvline(0, color="#404040", linewidth=0.6)
    axes.grid(axis="y", visible=False)


def _save(figure: Figure, path: Path) -> None:
    for kind in KINDS:
        figure.savefig(path.with_name(f"{path.name}.{kind}"), metadata=METADATA[kind])
