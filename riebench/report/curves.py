"""CLIP-vs-LPIPS curves over strengths, a panel for each category."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from riebench.report.style import colour

COLUMNS = 3
DASHES = ("-", "--", ":", "-.", (0, (1, 3)), (0, (5, 1)))


def _panel(axes: Axes, rows: pd.DataFrame, labels: dict[tuple[str, str], str], strengths: list[float]) -> None:
    sets = list(dict.fromkeys(blocks for _, blocks in labels))
    for (arm, blocks), label in labels.items():
        curve = rows[(rows["arm"] == arm) & (rows["blocks"] == blocks)].sort_values("strength")
        curve = curve.dropna(subset=["lpips_base", "clip_text_edit"])
        if curve.empty:
            continue
        tone = colour(arm.split(" ")[0])
        axes.errorbar(
            curve["lpips_base"],
            curve["clip_text_edit"],
            xerr=curve["lpips_base_se"].fillna(0),
            yerr=curve["clip_text_edit_se"].fillna(0),
            color=tone,
            linewidth=1.2,
            linestyle=DASHES[sets.index(blocks) % len(DASHES)],
            elinewidth=0.6,
            label=label,
        )
        sizes = [14 + 22 * strengths.index(s) / max(1, len(strengths) - 1) for s in curve["strength"]]
        axes.scatter(curve["lpips_base"], curve["clip_text_edit"], s=sizes, color=tone, zorder=3)
    if rows["clip_text_edit"].isna().all():
        axes.text(0.5, 0.5, "no pair was scored", ha="center", va="center", transform=axes.transAxes)
    axes.set_title(str(rows["category"].iloc[0]), fontsize=10)
    axes.grid(alpha=0.25)


def draw_curves(summary: pd.DataFrame, folder: Path, clip_name: str, lpips_name: str) -> list[Path]:
    """Draw ``curve.png`` and ``curve.svg``; returns their paths.

    Points grow with the strength; bars are standard errors over pairs.
    """
    categories = list(dict.fromkeys(summary["category"]))
    pairs = summary[["arm", "blocks"]].drop_duplicates().itertuples(index=False)
    settings = [(str(a), str(b)) for a, b in pairs]
    one_arm, one_block = len({a for a, _ in settings}) == 1, len({b for _, b in settings}) == 1
    labels = {(a, b): a if one_block else (b if one_arm else f"{a}, {b}") for a, b in settings}
    strengths = sorted(summary["strength"].unique())
    rows = -(-len(categories) // COLUMNS)
    columns = min(COLUMNS, len(categories))
    figure = Figure(figsize=(4.0 * columns, 3.1 * rows + 0.7), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes, category in zip(panels.flat, categories, strict=False):
        _panel(axes, summary[summary["category"] == category], labels, strengths)
    for axes in list(panels.flat)[len(categories) :]:
        axes.set_axis_off()
    figure.supxlabel(f"{lpips_name} to the base image (lower: more of the picture kept)", fontsize=10)
    figure.supylabel(f"CLIP similarity with the edit prompt ({clip_name})", fontsize=10)
    said = ", ".join(f"{s:g}" for s in strengths)
    where = f" in {settings[0][1]}" if one_block else ""
    who = settings[0][0] if one_arm else f"{len(labels)} settings"
    figure.suptitle(f"{who}{where}; points grow with strength {said}; bars: standard errors", fontsize=11)
    if len(labels) > 1:
        found = {n: h for axes in panels.flat for h, n in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(found.values(), found.keys(), loc="outside right upper", fontsize=8)
    paths = [folder / "curve.png", folder / "curve.svg"]
    with rc_context({"svg.fonttype": "none"}):  # text stays text
        for path in paths:
            figure.savefig(path, dpi=130)
    return paths
