"""Figures of a report, in PNG, SVG and PDF."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.container import Container
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from riebench.pairs.pair import CATEGORIES
from riebench.report.analysis import Analysis, main_blocks
from riebench.report.arms import ANY, Arm
from riebench.report.board import ALL
from riebench.report.style import FIGURE_NAMES, FORMATS, PAPER, colour, dashes, marker

WIDTH = 7.2  # inches: the text of a page
MOST_COLUMNS = 7  # of a legend
HANDLE, LETTER = 0.46, 0.058  # inches: the mark of a legend with the space around it, and a letter
# Without the date, so that the same figure twice is the same file.
METADATA = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
MOST_REASONS = 15
MOST_LETTERS = 60  # of a reason


def draw_all(analysis: Analysis, folder: Path, step: Callable[[str], None] = lambda name: None) -> list[Path]:
    """Draw every figure that the data has something for, each announced to ``step``; returns the paths."""
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


def _axis_names(analysis: Analysis) -> tuple[str, str]:
    lpips, clip = analysis.group.metric_name("lpips"), analysis.group.metric_name("clip")
    return f"LPIPS to the base image ({lpips}) ← better", f"CLIP similarity with the edit prompt ({clip}) → better"


def _curve(axes: Axes, rows: pd.DataFrame, arm: Arm, line: Any) -> None:
    """An arm's means by growing strength with a band of their intervals; a mark and a bar where all are one point."""
    tone = colour(arm.family)
    for path in _paths(rows):
        x, y = path["lpips_base_mean"].to_numpy(), path["clip_text_edit_mean"].to_numpy()
        low, high = (path[f"clip_text_edit_{end}"].fillna(path["clip_text_edit_mean"]) for end in ("low", "high"))
        if len(np.unique(np.round(x, 9))) < 2:
            axes.plot(x[:1], y[:1], marker(arm.family), color=tone, markersize=6, zorder=4)
            axes.vlines(x[:1], low.iloc[:1], high.iloc[:1], color=tone, linewidth=1, alpha=0.6)
            continue
        band = np.concatenate([np.stack([x, low], 1), np.stack([x, high], 1)[::-1]])
        axes.fill(band[:, 0], band[:, 1], color=tone, alpha=0.13, linewidth=0)
        axes.plot(x, y, color=tone, linestyle=line, linewidth=1.2)
        strengths = path["strength"].to_numpy()
        sizes = 5 + 22 * strengths.clip(min=0) / max(strengths.max(), 1e-9)
        axes.scatter(x, y, s=sizes, color=tone, marker=marker(arm.family), zorder=3, linewidth=0)


def _paths(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The scored settings of an arm for each k, by growing strength."""
    for _, path in rows[rows["pairs"] > 0].groupby("k", dropna=False, sort=True):
        yield path.sort_values("strength")


def _handle(arm: Arm, label: str, line: Any) -> Line2D:
    shown: Any = line if arm.has_curve() else ""
    return Line2D(
        [], [], color=colour(arm.family), marker=marker(arm.family), linestyle=shown, markersize=4, label=label
    )


def _lines(arms: Sequence[Arm]) -> dict[str, Any]:
    """A line style for each label, so that what shares a colour (a method's variants, say) can be told apart."""
    styles: dict[str, Any] = {}
    for tone in dict.fromkeys(colour(arm.family) for arm in arms):
        styles |= dashes(list(dict.fromkeys(arm.label for arm in arms if colour(arm.family) == tone)))
    return styles


def _panels(count: int, columns: int, height: float, extra: float, share: bool = False) -> tuple[Figure, list[Axes]]:
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH, height * rows + extra), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share).flat)
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count]


def _label(figure: Figure, analysis: Analysis, said: str, handles: Sequence[Line2D]) -> None:
    x, y = _axis_names(analysis)
    figure.supxlabel(f"{x}\n{said}", fontsize=8)
    figure.supylabel(y, fontsize=8)
    _legend(figure, handles)


def _legend(figure: Figure, handles: Sequence[Artist | Container]) -> None:
    """The legend above all panels, with as many columns as its labels let fit."""
    lengths = [len(str(handle.get_label())) for handle in handles]
    columns = next((n for n in range(MOST_COLUMNS, 1, -1) if _width(lengths, n) <= WIDTH), 1)
    figure.legend(handles=list(handles), loc="outside upper center", ncols=min(columns, len(handles)), frameon=False)


def _width(lengths: Sequence[int], columns: int) -> float:
    """Inches that a legend is wide, of labels with so many letters, filled column by column as matplotlib does."""
    parts = [part for part in np.array_split(lengths, columns) if len(part)]
    return sum(HANDLE + LETTER * int(part.max()) for part in parts)


def _shown(analysis: Analysis, blocks: str) -> list[tuple[int, Arm]]:
    """The arms of a set of blocks, and those whose numbers do not hang on blocks, scored ones only."""
    found = [(i, a) for i, a in enumerate(analysis.arms) if a.blocks in (blocks, ANY) and a.scored.any()]
    return sorted(found, key=lambda x: x[1].label)


def _scoped(analysis: Analysis) -> list[str]:
    """Categories with a scored record, in their order; all of them as one if there is one only."""
    scored = analysis.curves[analysis.curves["pairs"] > 0]
    found = [name for name in CATEGORIES.values() if (scored["category"] == name).any()]
    return found or ([ALL] if len(scored) else [])


def curves_by_category(analysis: Analysis) -> Figure | None:
    """CLIP against LPIPS along strength, a panel for each category."""
    scopes, blocks = _scoped(analysis), main_blocks(analysis)
    arms = _shown(analysis, blocks)
    if not scopes or not arms:
        return None
    figure, panels = _panels(len(scopes), min(3, len(scopes)), 2.05, 1.1)
    lines = _lines([arm for _, arm in arms])
    for axes, scope in zip(panels, scopes, strict=True):
        for i, arm in arms:
            rows = analysis.curves[(analysis.curves["category"] == scope) & (analysis.curves["arm"] == i)]
            _curve(axes, rows, arm, lines[arm.label])
        axes.set_title(f"{scope} ({_pairs_in(analysis, scope, [i for i, _ in arms])})")
    where = next((arm.where for _, arm in arms if arm.blocks == blocks), "")
    names = blocks.replace("+", ", ") if where.startswith("all ") else where
    title = f"blocks {names}; points grow with strength; bands: 95 % bootstrap intervals over pairs"
    _label(figure, analysis, title, [_handle(arm, arm.label, lines[arm.label]) for _, arm in arms])
    return figure


def _pairs_in(analysis: Analysis, scope: str, arms: Sequence[int]) -> str:
    """How many pairs the arms of a panel are means over: ``10 pairs``, or ``8 to 10`` where that differs."""
    rows = analysis.curves[(analysis.curves["category"] == scope) & analysis.curves["arm"].isin(arms)]
    counts = rows["pairs"][rows["pairs"] > 0]
    least, most = int(counts.min()), int(counts.max())
    if least < most:
        return f"{least} to {most} pairs"
    return f"{most} {'pair' if most == 1 else 'pairs'}"


def curves_by_block(analysis: Analysis) -> Figure | None:
    """CLIP against LPIPS along strength over all categories, a panel for each set of blocks."""
    sets = sorted(
        {a.blocks for a in analysis.arms if a.blocks != ANY and a.scored.any()}, key=lambda b: (-b.count("+"), b)
    )
    if len(sets) < 2:
        return None
    figure, panels = _panels(len(sets), min(3, len(sets)), 2.3, 1.1, share=True)
    whole = analysis.curves[analysis.curves["category"] == ALL]
    handles: dict[str, Line2D] = {}
    for axes, blocks in zip(panels, sets, strict=True):
        arms = _shown(analysis, blocks)
        lines = _lines([arm for _, arm in arms])
        for i, arm in arms:
            _curve(axes, whole[whole["arm"] == i], arm, lines[arm.label])
            handles.setdefault(arm.label, _handle(arm, arm.label, lines[arm.label]))
        where = next((a.where for _, a in arms if a.blocks == blocks), blocks)
        axes.set_title(f"{where} blocks" if where.startswith("all ") else where)
    title = "all categories; points grow with strength; bands: 95 % bootstrap intervals over pairs"
    _label(figure, analysis, title, [handles[name] for name in sorted(handles)])
    return figure


def blocks_by_category(analysis: Analysis) -> Figure | None:
    """A heat map for each method of the gain (or CLIP) at matched LPIPS: which block carries which edit."""
    board = analysis.board
    scopes = [s for s in board["category"].unique() if s != ALL] or [ALL]
    methods: dict[str, list[tuple[int, Arm]]] = {}
    for i, arm in enumerate(analysis.arms):
        if arm.blocks != ANY and arm.has_curve():
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
    figure, panels = _panels(len(tables), columns, 0.55 + 0.24 * rows + 0.5, 0.6)
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
    lpips = analysis.group.metric_name("lpips")
    figure.suptitle(f"{what} at {lpips} {budget:g} (small: pairs that reach it; grey: none does)", fontsize=9)
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
        "lpips_base": f"LPIPS to the base image\n({analysis.group.metric_name('lpips')}; lower is better)",
        "clip_text_edit": f"CLIP with the edit prompt\n({analysis.group.metric_name('clip')}; higher is better)",
        "edit_success": "edit_success (higher is better)",
        "kept": "kept (higher is better)",
    }
    wanted = {m: text for m, text in wanted.items() if analysis.has(m)}
    arms = _shown(analysis, main_blocks(analysis))
    if not arms or not any(len(arm.strengths) > 1 for _, arm in arms):
        return None
    figure, panels = _panels(len(wanted), 2, 2.3, 0.9)
    whole = analysis.curves[analysis.curves["category"] == ALL]
    lines = _lines([arm for _, arm in arms])
    for axes, (metric, text) in zip(panels, wanted.items(), strict=True):
        for i, arm in arms:
            for path in _paths(whole[whole["arm"] == i]):
                middle, tone = path[f"{metric}_mean"], colour(arm.family)
                low, high = (path[f"{metric}_{end}"].fillna(middle) for end in ("low", "high"))
                axes.fill_between(path["strength"], low, high, color=tone, alpha=0.13, linewidth=0)
                style = {"color": tone, "linestyle": lines[arm.label], "marker": marker(arm.family)}
                axes.plot(path["strength"], middle, linewidth=1.2, markersize=3.5, **style)
        axes.set_xlabel("strength")
        axes.set_ylabel(text)
    blocks = main_blocks(analysis).replace("+", ", ")
    figure.supxlabel(f"blocks {blocks}, all categories; bands: 95 % bootstrap intervals over pairs", fontsize=8)
    handles = [
        Line2D(
            [],
            [],
            color=colour(a.family),
            marker=marker(a.family),
            linestyle=lines[a.label],
            markersize=4,
            label=a.label,
        )
        for _, a in arms
    ]
    _legend(figure, handles)
    return figure


def _cut(text: str, most: int) -> str:
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
    names = [_cut(" ".join(str(reason).split()), MOST_LETTERS) for reason in table.index]
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
    _legend(figure, axes.containers)
    return figure
