"""Scores by denoising step: ``by-step.csv`` and ``by-step.png`` of a folder of scores. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from riebench.report.style import DASHES, METADATA, PAPER
from riebench.report.texttable import write_csv
from riebench.training.learning_curves import COLOURS

TABLE, FIGURE = "by-step.csv", "by-step.png"
PANELS = {
    "explained_variance": "explained variance",
    "code_cosine": "cosine with the next step's codes",
    "code_iou": "IoU with the next step's features",
}
SCREEN = 130  # dots per inch


def write_step_scores(folder: Path, found: Sequence[Mapping[str, Any]]) -> None:
    """Write table and figure of the score files that have scores by step; nothing where none has.

    Args:
        folder: where to.
        found: the contents of score files.
    """
    frame = step_frame(found)
    if not frame.empty:
        write_csv(frame, folder / TABLE)
        draw_step_scores(frame, folder / FIGURE)


def step_frame(found: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A row for each dictionary, score and step, from 0; codes are compared from a step to the next."""
    rows = [
        {
            **{name: facts[name] for name in ("block", "name", "kind")},
            "steps": facts["settings"]["steps"],
            **{"score": score, "step": step, **estimate},
        }
        for facts in found
        for score, several in facts["steps"].items()
        for step, estimate in enumerate(several)
    ]
    return pd.DataFrame(rows)


def draw_step_scores(frame: pd.DataFrame, path: Path) -> None:
    """Draw a row of panels for each site, with a line for each dictionary and its interval.

    A site's dictionaries are told apart by their kind and, where a kind has several, by their names.
    """
    sites = list(frame["block"].unique())
    labels = list(dict.fromkeys(frame.apply(_label, axis=1)))
    with rc_context(PAPER):
        figure = Figure(figsize=(7.2, 0.8 + 1.7 * len(sites) + 0.12 * len(labels)), layout="constrained")
        axes = figure.subplots(len(sites), len(PANELS), squeeze=False, sharex=True, sharey="col")
        for row, site in zip(axes, sites, strict=True):
            for panel, (score, title) in zip(row, PANELS.items(), strict=True):
                here = frame[(frame["block"] == site) & (frame["score"] == score)]
                _draw_panel(panel, here, labels)
                panel.set_title(f"{site}: {title}" if score == "explained_variance" else title)
                panel.xaxis.set_major_locator(MaxNLocator(integer=True))
                if site == sites[-1]:
                    panel.set_xlabel("step")
        handles = {
            label: line for panel in axes.flat for line, label in zip(*panel.get_legend_handles_labels(), strict=True)
        }
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4, frameon=False)
        figure.savefig(path, dpi=SCREEN, metadata=METADATA["png"])


def _label(row: Mapping[str, Any]) -> str:
    """A model's own SAEs have the names of their sites, which stand in the titles."""
    kind = row["kind"] if row["name"] == row["block"] or row["kind"] not in ("sae", "dictionary") else row["name"]
    return f"{kind}, {row['steps']} steps"


def _draw_panel(panel: Axes, here: pd.DataFrame, labels: Sequence[str]) -> None:
    panel.set_ylim(-0.05, 1.05)
    for (label, _), line in here.groupby([here.apply(_label, axis=1), "name"], sort=False):
        number = labels.index(label)
        colour, style = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
        panel.plot(line["step"], line["value"], color=colour, linestyle=style, marker="o", markersize=2.5, label=label)
        panel.fill_between(line["step"], line["low"], line["high"], color=colour, alpha=0.15, linewidth=0)
