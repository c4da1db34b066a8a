"""Figures of a report, in PNG, SVG and PDF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from riebench.report.analysis import Analysis
from riebench.report.arms import ALL, CURVE, TRUTH
from riebench.report.curve_figures import (
    WIDTH,
    curves_by_block,
    curves_by_category,
    curves_by_steps,
    handle,
    measured_panels,
    paths_of,
    place_legend,
    shown_arms,
)
from riebench.report.heat_maps import blocks_by_category, blocks_by_steps
from riebench.report.style import FIGURE_NAMES, FORMATS, METADATA, PAPER, colour, looks_of

MOST_REASONS = 15
MOST_LETTERS = 60  # of a reason


def draw(name: str, analysis: Analysis, folder: Path) -> list[Path]:
    """Draw one of :data:`~riebench.report.style.FIGURE_NAMES`; returns its paths, none without data for it."""
    draws = (
        curves_by_category,
        blocks_by_category,
        curves_by_block,
        curves_by_steps,
        blocks_by_steps,
        dose_response,
        failures,
    )
    with rc_context(PAPER):
        figure = dict(zip(FIGURE_NAMES, draws, strict=True))[name](analysis)
        if figure is None:
            return []
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{name}.{kind}" for kind in FORMATS]
        for path, kind in zip(paths, FORMATS, strict=True):
            figure.savefig(path, metadata=METADATA[kind])
            figure.set_layout_engine("none")  # the first format's layout is everyone's
    return paths


def dose_response(analysis: Analysis) -> Figure | None:
    """Metrics along strength over all categories."""
    titles = {
        CURVE[1]: f"LPIPS to the base image\n({analysis.group.lpips}; lower is better)",
        CURVE[0]: f"CLIP with the edit prompt\n({analysis.group.clip}; higher is better)",
    } | {metric: f"{metric} (higher is better)" for metric in TRUTH if metric in analysis.metrics}
    arms = shown_arms(analysis, analysis.main_blocks)
    if not arms or not any(len(arm.strengths) > 1 for _, arm in arms):
        return None
    figure, panels = measured_panels(len(titles), 2, 2.3, 0.9)
    whole = analysis.curves[analysis.curves["category"] == ALL]
    looks = looks_of({arm.label: arm.family for _, arm in arms})
    for axes, (metric, text) in zip(panels, titles.items(), strict=True):
        for i, arm in arms:
            look = looks[arm.label]
            style: dict[str, Any] = {"color": look.colour, "linestyle": look.line, "marker": look.marker}
            for path in paths_of(whole[whole["arm"] == i]):
                middle = path[f"{metric}_mean"]
                low, high = (path[f"{metric}_{end}"].fillna(middle) for end in ("low", "high"))
                axes.fill_between(path["strength"], low, high, color=look.colour, alpha=0.13, linewidth=0)
                axes.plot(path["strength"], middle, linewidth=1.2, markersize=3.5, **style)
        axes.set_xlabel("strength")
        axes.set_ylabel(text)
    blocks = analysis.main_blocks.replace("+", ", ")
    figure.supxlabel(f"blocks {blocks}, all categories; bands: 95 % bootstrap intervals over pairs", fontsize=8)
    place_legend(figure, [handle(label, look) for label, look in looks.items()])
    return figure


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def failures(analysis: Analysis) -> Figure | None:
    """Failed records by reason, the methods stacked."""
    counts = analysis.failures
    if counts.empty:
        return None
    table = counts.pivot_table(index="reason", columns="method", values="records", aggfunc="sum", fill_value=0)
    table = table.loc[table.sum(axis=1).sort_values().index]
    hidden = len(table) - MOST_REASONS
    table = table.tail(MOST_REASONS)
    figure = Figure(figsize=(WIDTH, 0.34 * len(table) + 1.3), layout="constrained")
    axes = figure.subplots()
    start = np.zeros(len(table))
    names = [_shortened(" ".join(str(reason).split()), MOST_LETTERS) for reason in table.index]
    for method in table.columns:
        count = table[method].to_numpy(float)
        tone = colour(str(method).split(" (")[0])
        axes.barh(range(len(table)), count, left=start, color=tone, label=str(method), edgecolor="white", linewidth=0.5)
        start += count
    axes.set_yticks(range(len(table)), names)
    axes.set_xlabel(f"failed records of {len(analysis.group.frame)} ← better is fewer")
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if hidden > 0:
        axes.set_title(f"the {MOST_REASONS} most frequent reasons; {hidden} more in leaderboard.md", fontsize=8)
    place_legend(figure, axes.containers)
    return figure
