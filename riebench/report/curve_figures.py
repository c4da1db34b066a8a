"""Figures of curves: CLIP against LPIPS along strength, one panel for each category or set of blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.container import Container
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from riebench.pairs.pair import CATEGORIES
from riebench.report.arms import ALL, ANY, Arm
from riebench.report.curves import Curves
from riebench.report.marks import IMAGES
from riebench.report.style import METADATA, PAPER, Look, looks_of, looks_of_intervals

WIDTH = 7.2  # inches: the text of a page
SCREEN = 130  # dots per inch of a figure that is for the screen alone
MOST_COLUMNS = 7  # of a legend
HANDLE, LETTER, LINE = 0.5, 0.058, 0.17  # inches: mark of a legend with the space around it, letter, line
LEFT, RIGHT, BOTTOM, TOP, GAP_X, GAP_Y = 0.72, 0.08, 0.68, 0.36, 0.5, 0.52  # inches around and between panels
LOW = 3.5  # inches of a figure's height: the words beside its panels take two lines
INK, SEARCHED = "#202020", "D"
MARKS = dict(zip(IMAGES, ("o", "*"), strict=True))
"""The markers of the base and the source image."""
DRAWN = ["arm", "k", "strength", "pairs", "lpips_base_mean", *(f"clip_text_edit_{x}" for x in ("mean", "low", "high"))]
"""The columns of :attr:`Curves.curves` that a curve is drawn from."""
MARKED = ["lpips_base_mean", "clip_text_edit_mean"]
"""The columns of :attr:`Curves.at_lpips` that a mark lies at."""
BANDS = "points grow with strength; bands: 95 % bootstrap intervals over pairs"


class Panel(NamedTuple):
    """One panel: its title, and the category and arms (with their numbers) whose curves it shows."""

    title: str
    category: str
    arms: Sequence[tuple[int, Arm]]


def curves_by_category(curves: Curves) -> Figure | None:
    """A figure with a panel for each category, for the main set of blocks."""
    return _curve_figure(curves, _category_panels(curves), f"{_blocks_note(curves)}{BANDS}")


def curves_by_block(curves: Curves) -> Figure | None:
    """A figure with a panel for each set of blocks, over all categories; None if there is only one set."""
    panels = _block_panels(curves)
    return _curve_figure(curves, panels, f"all categories; {BANDS}") if len(panels) > 1 else None


def curves_by_steps(curves: Curves) -> Figure | None:
    """A figure with a panel for each set of blocks and method; None if no method has two intervals of the steps."""
    by_variant: dict[tuple[str, str], list[tuple[int, Arm]]] = {}
    variants = sorted({arm.variant for arm in curves.arms})
    for i, arm in enumerate(curves.arms):
        if arm.on_steps != ANY and arm.scored.any():
            by_variant.setdefault((arm.blocks, arm.variant), []).append((i, arm))
    panels = [
        Panel(f"{variant}, {where}", ALL, by_variant[blocks, variant])
        for blocks, where in curves.block_sets.items()
        for variant in variants
        if len(by_variant.get((blocks, variant), [])) > 1
    ]
    if not panels:
        return None
    note = f"on in the steps named above; {BANDS}"
    columns = len({variant for _, variant in by_variant})  # a column for each method
    looks = looks_of_intervals(curves.intervals)
    return _curve_figure(curves, panels, note, looks=looks, columns=columns if 1 < columns < 4 else 3)


def draw_run_curve(curves: Curves, folder: Path) -> list[Path]:
    """Draw ``curve.png`` and ``curve.svg`` of a run: a panel for each category, and over all for each set of blocks.

    A run with several intervals of the steps gets ``curve-by-steps`` too.

    Returns:
        The paths; empty if no pair was scored.
    """
    categories = _category_panels(curves)
    several = len(curves.pairs.scopes) > 1
    whole = "all categories" if several else CATEGORIES[int(curves.pairs.categories[0])]
    sets = [panel._replace(title=f"{whole}, {panel.title}") for panel in _block_panels(curves)]
    note = _blocks_note(curves, "by category: " if len(sets) > 1 else "") if several or not sets else ""
    paths = []
    with rc_context(PAPER):
        figures = {
            "curve": _curve_figure(curves, [*categories, *sets] if several else sets or categories, f"{note}{BANDS}"),
            "curve-by-steps": curves_by_steps(curves),
        }
        for name, figure in figures.items():
            if figure is None:
                continue
            for kind in ("png", "svg"):
                paths.append(folder / f"{name}.{kind}")
                figure.savefig(paths[-1], metadata=METADATA[kind], dpi=SCREEN)
    return paths


def _blocks_note(curves: Curves, which: str = "") -> str:
    main = curves.main_blocks
    return "" if main == ANY else f"{which}blocks {main.replace('+', ', ')}; "


def _category_panels(curves: Curves) -> list[Panel]:
    """A panel for each category with a scored record; one over all if there is a single category."""
    main = curves.main_blocks
    rows = curves.curves[curves.curves["arm"].isin([i for i, _ in shown_arms(curves, main)])]
    rows = rows[rows["pairs"] > 0]
    names = [name for name in (*CATEGORIES.values(), ALL) if (rows["category"] == name).any()]
    names = [name for name in names if name != ALL] or names
    arms = shown_arms(curves, main)
    return [Panel(f"{name} ({_pairs_in(rows[rows['category'] == name])})", name, arms) for name in names]


def _block_panels(curves: Curves) -> list[Panel]:
    """A panel for each set of blocks with a scored record."""
    scored = {arm.blocks for arm in curves.arms if arm.scored.any()}
    names = {b: f"{where} blocks" if where.startswith("all ") else where for b, where in curves.block_sets.items()}
    return [Panel(name, ALL, shown_arms(curves, blocks)) for blocks, name in names.items() if blocks in scored]


def _pairs_in(rows: pd.DataFrame) -> str:
    """The number of pairs behind the means of a panel: ``10 pairs``, or ``8 to 10 pairs`` if settings differ."""
    fewest, most = int(rows["pairs"].min()), int(rows["pairs"].max())
    return f"{fewest} to {most} pairs" if fewest < most else f"{most} {'pair' if most == 1 else 'pairs'}"


def shown_arms(curves: Curves, blocks: str) -> list[tuple[int, Arm]]:
    """The scored arms of a set of blocks in the main interval, by label; arms with blocks or steps ``any`` included."""
    at = ((blocks, ANY), (curves.main_interval, ANY))
    arms = [(i, a) for i, a in enumerate(curves.arms) if a.blocks in at[0] and a.on_steps in at[1] and a.scored.any()]
    return sorted(arms, key=lambda x: x[1].label)


def _curve_figure(
    curves: Curves,
    panels: Sequence[Panel],
    note: str,
    looks: Mapping[str, Look] | None = None,
    columns: int = 3,
) -> Figure | None:
    """A figure of the panels, on one scale; ``looks`` are by interval of the steps, None gives each label its own."""
    name = attrgetter("label" if looks is None else "on_steps")
    arms = {name(arm): arm for panel in reversed(panels) for _, arm in panel.arms}
    if not arms:
        return None
    looks = looks or looks_of({label: arms[label].family for label in sorted(arms)})
    handles = [handle(label, look, line=arms[label].curved) for label, look in looks.items() if label in arms]
    numbers = {i for panel in panels for i, _ in panel.arms}
    searched = curves.at_lpips[curves.at_lpips["arm"].isin(numbers) & (curves.at_lpips["pairs"] > 0)]
    searched = searched[["category", "arm", *MARKED]]  # the fewer columns, the faster rows are chosen
    handles += [_mark_handle(image, MARKS[image]) for image in curves.images["image"].unique()]
    handles += [_mark_handle("at the searched LPIPS", SEARCHED)] if len(searched) else []
    figure, axes = _panels(len(panels), handles, columns)
    drawn = curves.curves[["category", *DRAWN]]
    for panel, panel_axes in zip(panels, axes, strict=True):
        rows, at_lpips, images = (f[f["category"] == panel.category] for f in (drawn, searched, curves.images))
        rows = rows[DRAWN]  # of numbers alone, whose rows are chosen much faster
        panel_axes.autoscale(False)  # once below, and not after every curve
        for i, arm in panel.arms:
            _curve(panel_axes, rows[rows["arm"] == i], looks[name(arm)])
            if len(places := at_lpips.loc[at_lpips["arm"] == i, MARKED]):
                _mark(panel_axes, places, SEARCHED, looks[name(arm)].colour)
        for image, places in images.groupby("image"):
            _mark(panel_axes, places[["lpips_base", "clip_text_edit"]], MARKS[str(image)])
        panel_axes.set_title(panel.title, loc="left")
    for panel_axes in axes:
        panel_axes.autoscale()
        # One scale, so that a curve that goes nowhere looks like one; by square roots, as LPIPS differ by factors.
        panel_axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
        panel_axes.set_xlim(left=0)
        panel_axes.locator_params(axis="x", nbins=4, steps=[1, 2, 5, 10])  # ticks lie close at the axis' end
    scale = ", one scale in all panels" if len(panels) > 1 else ""
    figure.supxlabel(
        f"LPIPS to the base image ({curves.group.lpips}) ← better; square-root axis{scale}\n{note}", fontsize=8
    )
    line = "\n" if figure.get_figheight() < LOW else " "
    figure.supylabel(f"CLIP similarity with the edit prompt{line}({curves.group.clip}) → better", fontsize=8)
    return figure


def _mark(axes: Axes, places: pd.DataFrame, marker: str, tone: str = INK) -> None:
    """Mark places, given as columns of LPIPS and CLIP."""
    axes.plot(
        *places.to_numpy(float).T,
        marker,
        color=tone,
        markerfacecolor="white",
        markersize=5.5,
        markeredgewidth=1.1,
        zorder=2.5,
        clip_on=False,
    )


def _mark_handle(label: str, marker: str) -> Line2D:
    return Line2D([], [], color=INK, marker=marker, markerfacecolor="white", linestyle="", markersize=5, label=label)


def _panels(count: int, handles: Sequence[Line2D], most: int) -> tuple[Figure, list[Axes]]:
    """A figure of up to ``most`` panels a row below a legend, laid out in inches, so no text is measured."""
    columns = min(most, count)
    rows = -(-count // columns)
    top = TOP + LINE * -(-len(handles) // legend_columns(handles))
    height = 1.7 if columns > 1 else 3.2
    total = top + rows * height + (rows - 1) * GAP_Y + BOTTOM
    width = (WIDTH - LEFT - RIGHT - (columns - 1) * GAP_X) / columns
    figure = Figure(figsize=(WIDTH, total))
    figure.subplots_adjust(
        left=LEFT / WIDTH,
        right=1 - RIGHT / WIDTH,
        bottom=BOTTOM / total,
        top=1 - top / total,
        wspace=GAP_X / width,
        hspace=GAP_Y / height,
    )
    axes = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    for panel in axes:
        panel.locator_params(nbins=5)
        panel.ticklabel_format(axis="x", scilimits=(-3, 4))  # long labels run into one another
    for panel in axes[count - columns : count]:
        panel.tick_params(labelbottom=True)
    for panel in axes[count:]:
        panel.set_axis_off()
    place_legend(figure, handles)
    return figure, axes[:count]


def measured_panels(count: int, columns: int, height: float, extra: float) -> tuple[Figure, list[Axes]]:
    """A figure of panels laid out by their contents; ``height`` of a row and ``extra`` of the rest in inches."""
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH, height * rows + extra), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count]


def _curve(axes: Axes, rows: pd.DataFrame, look: Look) -> None:
    """Draw an arm's means by growing strength with a band of intervals; if all are one point, a mark with a bar."""
    for path in paths_of(rows):
        x, y = path["lpips_base_mean"].to_numpy(), path["clip_text_edit_mean"].to_numpy()
        low, high = (path[f"clip_text_edit_{end}"].fillna(path["clip_text_edit_mean"]) for end in ("low", "high"))
        if len(np.unique(np.round(x, 9))) < 2:
            axes.plot(x[:1], y[:1], look.marker, color=look.colour, markersize=6, zorder=4)
            axes.vlines(x[:1], low.iloc[:1], high.iloc[:1], color=look.colour, linewidth=1, alpha=0.6)
            continue
        band = np.concatenate([np.stack([x, low], 1), np.stack([x, high], 1)[::-1]])
        axes.fill(band[:, 0], band[:, 1], color=look.colour, alpha=0.13, linewidth=0)
        axes.plot(x, y, color=look.colour, linestyle=look.line, linewidth=1.2)
        strengths = path["strength"].to_numpy()
        sizes = 5 + 22 * strengths.clip(min=0) / max(strengths.max(), 1e-9)
        axes.scatter(x, y, s=sizes, color=look.colour, marker=look.marker, zorder=3, linewidth=0)


def paths_of(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The scored settings of an arm for each k, by growing strength."""
    for _, path in rows[rows["pairs"] > 0].groupby("k", dropna=False, sort=True):
        yield path.sort_values("strength")


def handle(label: str, look: Look, line: bool = True) -> Line2D:
    """The entry of an arm in a legend: a mark, with its line if ``line``."""
    style: Any = look.line if line else ""
    return Line2D([], [], color=look.colour, marker=look.marker, linestyle=style, markersize=4, label=label)


def place_legend(figure: Figure, handles: Sequence[Artist | Container]) -> None:
    """Place the legend above all panels, with as many columns as fit."""
    inside = figure.get_layout_engine() is None
    figure.legend(
        handles=list(handles),
        loc="upper center" if inside else "outside upper center",
        ncols=legend_columns(handles),
        frameon=False,
        borderaxespad=0.2,
    )


def legend_columns(handles: Sequence[Artist | Container]) -> int:
    """The largest number of legend columns that fit the page, filled column by column as matplotlib does."""
    lengths = [len(str(handle.get_label())) for handle in handles]

    def inches(columns: int) -> float:
        parts = [part for part in np.array_split(lengths, columns) if len(part)]
        return sum(HANDLE + LETTER * int(part.max()) for part in parts)

    return min(next((n for n in range(MOST_COLUMNS, 1, -1) if inches(n) <= WIDTH), 1), len(handles))
