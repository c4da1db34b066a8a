"""The figure of a training log: explained variance and dead features against the vectors trained on."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from riebench.report.style import DASHES, METADATA, PAPER
from riebench.training.training_log import read_log

FIGURE = "learning.png"
PANELS = {"explained": "explained variance", "auxiliary": "auxiliary loss", "dead": "share of dead features"}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#882255")
SCREEN = 130  # dots per inch


def draw_learning_curves(folder: Path) -> Path | None:
    """Draw ``learning.png`` of a training's folder: a row of panels for each site, a line for each SAE.

    Returns:
        Its path; None where the log is empty.
    """
    lines = pd.DataFrame(read_log(folder))
    if lines.empty:
        return None
    lines[["site", "what"]] = lines["sae"].str.extract(r"(.*?)_(k.*)")
    sites, saes = list(lines["site"].unique()), list(lines["what"].unique())
    with rc_context(PAPER):
        figure = Figure(figsize=(7.2, 1.0 + 1.9 * len(sites) + 0.09 * len(saes)), layout="constrained")
        axes = figure.subplots(len(sites), len(PANELS), squeeze=False, sharex=True)
        for row, site in zip(axes, sites, strict=True):
            for panel, (column, title) in zip(row, PANELS.items(), strict=True):
                for number, what in enumerate(saes):
                    part = lines[(lines["site"] == site) & (lines["what"] == what)]
                    style = DASHES[number % len(DASHES)]  # lines that coincide are both seen
                    colour = COLOURS[number % len(COLOURS)]
                    panel.plot(part["vectors"], part[column], color=colour, linestyle=style, linewidth=1, label=what)
                panel.set_title(f"{site}: {title}")
                if site == sites[-1]:
                    panel.set_xlabel("vectors trained on")
        handles, labels = axes[0][0].get_legend_handles_labels()
        readable = [label.replace("_", ", ").replace("aux-", "aux ").replace("seed", "seed ") for label in labels]
        figure.legend(handles, readable, loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(folder / FIGURE, dpi=SCREEN, metadata=METADATA["png"])
    return folder / FIGURE
