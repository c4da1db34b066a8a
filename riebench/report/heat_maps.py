"""Heat maps: the gain at matched LPIPS by block, and by category or by the steps in which an intervention is on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from riebench.report.analysis import Analysis
from riebench.report.arms import ALL, ANY, TRUTH, Arm
from riebench.report.curve_figures import measured_panels

Cells: TypeAlias = list[list[tuple[float, int]]]
"""Rows of means with the number of their pairs; NaN and 0 where there is none."""
EMPTY = (float("nan"), 0)
SMALL_PRINT = "small: pairs that reach it; grey: none does"


def blocks_by_category(analysis: Analysis) -> Figure | None:
    """A heat map for each method of the gain (or CLIP) at matched LPIPS: which block carries which edit."""
    board = analysis.board
    scopes = [s for s in board["category"].unique() if s != ALL] or [ALL]
    methods: dict[str, list[tuple[int, Arm]]] = {}
    for i, arm in enumerate(analysis.arms):
        if arm.blocks != ANY and arm.curved and arm.on_steps in (analysis.main_interval, ANY):
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
    span = _span(tables.values())
    if span is None:
        return None
    columns = min(2, len(tables))
    rows = max(len(a) for a in methods.values())
    figure, panels = measured_panels(len(tables), columns, 0.55 + 0.24 * rows + 0.5, 0.6)
    for axes, (name, table) in zip(panels, tables.items(), strict=True):
        image = _heat_map(axes, table, span, [arm.where for _, arm in methods[name]])
        axes.set_title(name)
        axes.set_xticks(range(len(scopes)), [s.replace("change ", "") for s in scopes], rotation=35, ha="right")
    figure.colorbar(image, ax=panels, shrink=0.8, label="→ better", aspect=30)
    figure.suptitle(f"{_what(analysis)} at {analysis.group.lpips} {budget:g} ({SMALL_PRINT})", fontsize=9)
    return figure


def blocks_by_steps(analysis: Analysis) -> Figure | None:
    """Block by interval of the steps, a row of heat maps for each method: gain at matched LPIPS, and edit_success."""
    intervals, at = analysis.intervals, analysis.rank_at
    variants = sorted({arm.variant for arm in analysis.arms if arm.curved and arm.on_steps != ANY})
    if len(intervals) < 2 or at is None or not variants:
        return None
    places = [(arm.variant, arm.blocks, arm.on_steps) for arm in analysis.arms]
    shown: list[tuple[str, list[Cells], tuple[float, float]]] = []
    for name, title in {f"{analysis.value}@{at:g}": _what(analysis), TRUTH[0]: TRUTH[0]}.items():
        if name in analysis.board:
            numbers = analysis.overall[[name, f"{name}_pairs"]].itertuples(index=False)
            cells = dict(zip(places, map(_cell, numbers), strict=True))
            tables = [
                [[cells.get((variant, b, i), EMPTY) for i in intervals] for b in analysis.block_sets]
                for variant in variants
            ]
            span = _span(tables)
            shown += [(title, tables, span)] if span else []
    if not shown:
        return None
    height = 0.6 + 0.3 * len(analysis.block_sets)
    figure, panels = measured_panels(len(variants) * len(shown), len(shown), height, 1.0)
    for column, (title, tables, span) in enumerate(shown):
        column_panels = panels[column :: len(shown)]
        for axes, variant, table in zip(column_panels, variants, tables, strict=True):
            image = _heat_map(axes, table, span, list(analysis.block_sets.values()))
            axes.set_title(f"{variant}: {title}", fontsize=8)
            axes.set_xticks(range(len(intervals)), intervals)
        column_panels[-1].set_xlabel("steps in which the intervention is on")
        figure.colorbar(image, ax=column_panels, shrink=0.8, label="→ better", aspect=30)
    figure.suptitle(f"at {analysis.group.lpips} {at:g} ({SMALL_PRINT})", fontsize=9)
    return figure


def _what(analysis: Analysis) -> str:
    return "CLIP gain over the base image" if analysis.pairs.known else "CLIP similarity with the edit prompt"


def _cell(row: Sequence[float] | pd.Series) -> tuple[float, int]:
    """The mean at a budget and the number of its pairs."""
    value, pairs = row
    return float(value), int(pairs)


def _span(tables: Iterable[Cells]) -> tuple[float, float] | None:
    """The least and greatest mean, None if there is none; of several pairs, as one alone may lie far out."""
    cells = [cell for table in tables for row in table for cell in row if not np.isnan(cell[0])]
    values = [value for value, pairs in cells if pairs > 1] or [value for value, _ in cells]
    return (min(values), max(values)) if values else None


def _heat_map(axes: Axes, table: Cells, span: tuple[float, float], rows: Sequence[str]) -> AxesImage:
    shades = np.array([[value for value, _ in row] for row in table], float)
    style: dict[str, Any] = {"ha": "center", "va": "center", "in_layout": False}  # the layout need not measure them
    image = axes.imshow(shades, cmap="cividis", aspect="auto", vmin=span[0], vmax=span[1])
    for y, row in enumerate(table):
        for x, (value, pairs) in enumerate(row):
            if not np.isnan(value):
                ink = "white" if value < sum(span) / 2 else "black"
                text = f"{value:.3f}".replace("-0.000", "0.000").replace("0.", ".")
                axes.text(x, y - 0.12, text, color=ink, fontsize=6, **style)
                axes.text(x, y + 0.28, str(pairs), color=ink, fontsize=4.5, **style)
    axes.set_yticks(range(len(rows)), rows)
    axes.grid(False)
    axes.set_facecolor("#eeeeee")
    return image
