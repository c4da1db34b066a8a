"""Figures of a report, in PNG, SVG and PDF."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from riebench.report.analysis import Analysis
from riebench.report.arms import ALL, ANY, CURVE, TRUTH, Arm
from riebench.report.curve_figures import (
    WIDTH,
    curves_by_block,
    curves_by_category,
    handle,
    paths_of,
    place_legend,
    shown_arms,
)
from riebench.report.style import FIGURE_NAMES, FORMATS, METADATA, PAPER, colour, looks_of

MOST_REASONS = 15
MOST_LETTERS = 60  # of a reason


def draw_all(analysis: Analysis, folder: Path, step: Callable[[str], None] = lambda name: None) -> list[Path]:
    """Draw every figure that the records have data for, each announced to ``step``; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    draws = (curves_by_category, curves_by_block, blocks_by_category, dose_response, failures)
    paths = []
    with rc_context(PAPER):
        for name, draw in zip(FIGURE_NAMES, draws, strict=True):
            step(name)
            figure = draw(analysis)
            if figure is None:
                continue
            for kind in FORMATS:
                paths.append(folder / f"{name}.{kind}")
                figure.savefig(paths[-1], metadata=METADATA[kind])
                figure.set_layout_engine("none")  # the first format's layout is everyone's
    return paths


def _measured_panels(count: int, columns: int, height: float, extra: float) -> tuple[Figure, list[Axes]]:
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH, height * rows + extra), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count]


def blocks_by_category(analysis: Analysis) -> Figure | None:
    """A heat map for each method of the gain (or CLIP) at matched LPIPS: which block carries which edit."""
    board = analysis.board
    scopes = [s for s in board["category"].unique() if s != ALL] or [ALL]
    methods: dict[str, list[tuple[int, Arm]]] = {}
    for i, arm in enumerate(analysis.arms):
        if arm.blocks != ANY and arm.curved:
            methods.setdefault(arm.label, []).append((i, arm))
    methods = {
        m: sorted(a, key=lambda x: (-x[1].blocks.count("+"), x[1].blocks)) for m, a in methods.items() if len(a) > 1
    }
    if not methods or not analysis.budgets:
        return None
    budget = max(analysis.budgets, key=lambda b: (board[f"{analysis.value}@{b:g}"].notna().sum(), b))
    name = f"{analysis.value}@{budget:g}"
    cells = board.set_index(["arm", "category"])[[name, f"{name}_pairs"]]
    tables = {
        name: [[_cell(cells.loc[(i, scope)]) for scope in scopes] for i, _ in arms]
        for name, arms in sorted(methods.items())
    }
    values = np.array([cell[0] for table in tables.values() for row in table for cell in row], float)
    if np.isnan(values).all():
        return None
    columns = min(2, len(tables))
    rows = max(len(a) for a in methods.values())
    figure, panels = _measured_panels(len(tables), columns, 0.55 + 0.24 * rows + 0.5, 0.6)
    # A pair alone may lie far out, and must not take all the colours.
    several = [cell[0] for table in tables.values() for row in table for cell in row if cell[1] > 1] or values
    low, high = float(np.nanmin(several)), float(np.nanmax(several))
    for axes, (name, table) in zip(panels, tables.items(), strict=True):
        shades = np.array([[cell[0] for cell in row] for row in table], float)
        image = axes.imshow(shades, cmap="cividis", aspect="auto", vmin=low, vmax=high)
        _annotate(axes, table, (low + high) / 2)
        axes.set_title(name)
        axes.set_xticks(range(len(scopes)), [s.replace("change ", "") for s in scopes], rotation=35, ha="right")
        axes.set_yticks(range(len(table)), [arm.where for _, arm in methods[name]])
        axes.grid(False)
        axes.set_facecolor("#eeeeee")
    what = "CLIP gain over the base image" if analysis.pairs.known else "CLIP similarity with the edit prompt"
    figure.colorbar(image, ax=panels, shrink=0.8, label="→ better", aspect=30)
    at = f"{analysis.group.lpips} {budget:g}"
    figure.suptitle(f"{what} at {at} (small: pairs that reach it; grey: none does)", fontsize=9)
    return figure


def _cell(row: pd.Series) -> tuple[float, int]:
    """The mean gain at a budget and the number of its pairs."""
    return float(row.iloc[0]), int(row.iloc[1])


def _annotate(axes: Axes, table: Sequence[Sequence[tuple[float, int]]], middle: float) -> None:
    for y, row in enumerate(table):
        for x, (value, pairs) in enumerate(row):
            if not np.isnan(value):
                ink = "white" if value < middle else "black"
                text = f"{value:.3f}".replace("-0.000", "0.000").replace("0.", ".")
                axes.text(x, y - 0.12, text, ha="center", va="center", color=ink, fontsize=6)
                axes.text(x, y + 0.28, str(pairs), ha="center", va="center", color=ink, fontsize=4.5)


def dose_response(analysis: Analysis) -> Figure | None:
    """Metrics along strength over all categories."""
    wanted = {
        CURVE[1]: f"LPIPS to the base image\n({analysis.group.lpips}; lower is better)",
        CURVE[0]: f"CLIP with the edit prompt\n({analysis.group.clip}; higher is better)",
    } | {metric: f"{metric} (higher is better)" for metric in TRUTH if metric in analysis.metrics}
    arms = shown_arms(analysis, analysis.main_blocks)
    if not arms or not any(len(arm.strengths) > 1 for _, arm in arms):
        return None
    figure, panels = _measured_panels(len(wanted), 2, 2.3, 0.9)
    whole = analysis.curves[analysis.curves["category"] == ALL]
    looks = looks_of({arm.label: arm.family for _, arm in arms})
    for axes, (metric, text) in zip(panels, wanted.items(), strict=True):
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
    found = analysis.failures
    if found.empty:
        return None
    table = found.pivot_table(index="reason", columns="method", values="records", aggfunc="sum", fill_value=0)
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
