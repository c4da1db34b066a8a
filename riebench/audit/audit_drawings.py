"""Figures of an audit, in PNG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from riebench.audit.findings import FAULTS, NOISE, POWER, SAME_MASK, TRUTH, Findings
from riebench.audit.power import SIZES, WANTED
from riebench.audit.readings import RANKING
from riebench.audit.truth import METHODS, SETTINGS, WITHIN
from riebench.report.style import FIXED, METADATA, PAPER, colour

WIDTH, ROW, AROUND = 7.2, 0.2, 1.3  # inches
TONES = {"gain": FIXED["steering"], "margin": FIXED["sae"], "edit_success": FIXED["neurons"], "kept": FIXED["random"]}
LEVELS = {SETTINGS: "over settings", METHODS: "over methods", WITHIN: "over pairs of a setting"}


def draw_noise(found: Findings) -> Figure:
    """Left: spread between seeds by standard error, an arm a point. Right: orders that turn round."""
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    pooled = found.frames["noise-pooled"].set_index("score")["ratio"]
    for number, (score, part) in enumerate(found.frames["noise"].groupby("score", sort=False)):
        left.scatter(number + np.linspace(-0.25, 0.25, len(part)), part["ratio"], s=14, color=TONES[str(score)])
        left.hlines(pooled.get(score, np.nan), number - 0.35, number + 0.35, color="#202020", linewidth=1.5)
    left.axhline(1, color="#404040", linewidth=0.8, linestyle="--")
    scores = list(dict.fromkeys(found.frames["noise"]["score"]))
    left.set_xticks(range(len(scores)), scores)
    left.set_ylim(bottom=0)
    left.set_ylabel("standard deviation between seeds\nby the standard error that one run states")
    left.set_title("points: arms; black: pooled; 1 or less is expected")
    left.grid(axis="x", visible=False)
    shares = found.frames["order-turns-by-score"]
    places = np.arange(len(shares))
    right.bar(places - 0.2, shares["turned"], 0.38, color="#8A8A8A", label="of all orders")
    apart = shares["told_apart_turned"]
    right.bar(places + 0.2, apart.fillna(0), 0.38, color="#202020", label="of those told apart in one run")
    for place, share in enumerate(apart):
        text = "none" if np.isnan(share) else f"{share:.0%}"
        right.annotate(text, (place + 0.2, 0 if np.isnan(share) else share), ha="center", va="bottom", fontsize=6.5)
    right.set_xticks(places, shares["score"].tolist())
    right.set(ylabel="share that another seed turns round", title="order of two arms")
    right.margins(y=0.3)  # room for the legend
    right.grid(axis="x", visible=False)
    right.legend()
    return figure


def draw_power(found: Findings) -> Figure:
    """Left: share of two arms told apart. Right: power for a difference that a benchmark should see."""
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for score, part in found.frames["told-apart"].groupby("score", sort=False):
        tone = TONES[str(score)]
        left.plot(part["pairs"], part["share"], marker="o", markersize=3.5, color=tone, label=score)
        left.fill_between(part["pairs"], part["low"], part["high"], color=tone, alpha=0.13, linewidth=0)
    left.set(xlabel="pairs", ylabel="share of all two arms told apart", ylim=(0, 1), title="bands: 95 % of subsamples")
    for (name, effect), part in found.frames["power"].groupby(["score", "effect"], sort=False):
        tone = TONES[str(name)]
        by_size = part.groupby("pairs")["power"]
        right.plot(by_size.median(), marker="o", markersize=3.5, color=tone, label=f"{name}, {effect:g}")
        right.fill_between(by_size.min().index, by_size.min(), by_size.max(), color=tone, alpha=0.13, linewidth=0)
    right.axhline(WANTED, color="#404040", linewidth=0.8, linestyle="--")
    right.set_xscale("log")
    right.set_xticks(SIZES[::3], [str(size) for size in SIZES[::3]])
    right.minorticks_off()
    right.set(xlabel="pairs", ylabel="power", ylim=(0, 1.02), title="bands: over all two interventions")
    for axes in (left, right):
        if axes.lines:
            axes.legend()
    return figure


def draw_agreement(found: Findings) -> Figure:
    """Rank correlation with the truth, a panel for each level; metrics from top to bottom."""
    truth = found.frames["truth"]
    truth = truth[truth["budget"].isna() | (truth["budget"] == found.budget)]
    metrics = list(dict.fromkeys(truth["metric"]))
    figure = Figure(figsize=(WIDTH, AROUND + ROW * len(metrics)), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    for axes, (level, title) in zip(panels, LEVELS.items(), strict=True):
        part = truth[truth["level"] == level].set_index("metric").reindex(metrics)
        tones = [TONES.get(metric, "#8A8A8A") for metric in metrics]
        _bars(axes, part, "correlation", tones)
        axes.set(xlim=(-1.05, 1.05), title=title + (f" at LPIPS {found.budget:g}" if level == METHODS else ""))
    panels[0].set_yticks(range(len(metrics)), metrics)
    panels[0].set_ylim(len(metrics) - 0.4, -0.6)
    figure.supxlabel(
        "Spearman's rank correlation with edit_success x kept, sign turned where lower is better; lines: 95 %",
        fontsize=8,
    )
    return figure


def draw_same_mask(found: Findings) -> Figure:
    """Means of each arm as made and composited with the base picture outside the masks."""
    table = found.frames["same-mask-arms"]
    scores = [score for score in RANKING if score in set(table["score"])]
    arms = [name for name in found.table.names if name in set(table["arm"])]
    figure = Figure(figsize=(WIDTH, AROUND + ROW * len(arms)), layout="constrained")
    panels = figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]
    families = dict(zip(found.table.names, (arm.family for arm in found.table.arms), strict=True))
    for axes, score in zip(panels, scores, strict=True):
        part = table[table["score"] == score].set_index("arm").reindex(arms)
        for place, (arm, row) in enumerate(part.iterrows()):
            tone = colour(families[str(arm)])
            axes.plot([row["before"], row["after"]], [place, place], color=tone, linewidth=1.2)
            axes.plot(row["before"], place, "o", color="white", markeredgecolor=tone, markersize=5)
            axes.plot(row["after"], place, "o", color=tone, markersize=4)
        axes.set_xlabel(score)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.axvline(0, color="#404040", linewidth=0.6)
    panels[0].set_yticks(range(len(arms)), arms)
    panels[0].set_ylim(len(arms) - 0.5, -0.5)
    figure.supxlabel(f"open: as made, at LPIPS {found.budget:g}; filled: the same inside the masks alone", fontsize=8)
    return figure


def draw_faults(found: Findings) -> Figure:
    """What a fault moves: ranks of settings (1 less the rank correlation), and the mean of one setting at most."""
    table = found.frames["faults-summary"]
    protocols = list(dict.fromkeys(table["protocol"]))
    scores = [score for score in RANKING if score in set(table["score"])]
    figure = Figure(figsize=(WIDTH, AROUND + 0.75 * ROW * len(protocols) * len(scores)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    height = 0.8 / len(scores)
    for number, score in enumerate(scores):
        part = table[table["score"] == score].set_index("protocol").reindex(protocols)
        places = np.arange(len(protocols)) + (number - (len(scores) - 1) / 2) * height
        moved = 1 - part["rank_correlation"].to_numpy(float)
        for axes, lengths in zip(panels, (moved, part["largest_change"].to_numpy(float)), strict=True):
            axes.barh(places, lengths, height, color=TONES[score], label=score)
    panels[0].set_yticks(range(len(protocols)), protocols)
    panels[0].set_ylim(len(protocols) - 0.4, -0.6)
    panels[0].set_xlabel("1 - rank correlation with the ranking without it")
    panels[1].set_xlabel("largest change of a setting's mean")
    panels[1].axvline(0, color="#404040", linewidth=0.6)
    for axes in panels:
        axes.grid(axis="y", visible=False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(scores))
    return figure


def _bars(axes: Axes, part: pd.DataFrame, column: str, tones: list[str]) -> None:
    """A column with its intervals, from top to bottom."""
    middle = part[column].to_numpy(float)
    low, high = (part[end].fillna(part[column]).to_numpy(float) for end in ("low", "high"))
    places = range(len(part))
    axes.barh(places, middle, height=0.72, color=tones)
    axes.hlines(places, low, high, color="#202020", linewidth=0.8)
    axes.axvline(0, color="#404040", linewidth=0.6)
    axes.grid(axis="y", visible=False)


DRAWS: dict[str, tuple[str, Callable[[Findings], Figure]]] = {
    NOISE: ("noise", draw_noise),
    POWER: ("power", draw_power),
    TRUTH: ("agreement", draw_agreement),
    SAME_MASK: ("same-mask", draw_same_mask),
    FAULTS: ("faults", draw_faults),
}
"""Part to the name of its figure and what draws it."""


def draw_all(found: Findings, folder: Path) -> dict[str, str]:
    """Draw a figure for each part that has one (OSError); gives part to file name."""
    files = {}
    with rc_context(PAPER):
        for part, (name, draw) in DRAWS.items():
            if part not in found.left_out:
                files[part] = f"{name}.png"
                draw(found).savefig(folder / files[part], metadata=METADATA["png"])
    return files
