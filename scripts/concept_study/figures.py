"""The study's figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from features import rank_correlations
from matplotlib import pyplot as plt
from stages import CURVE, SAES
from tables import by_sets, feature_frames, growing, order, singles, with_arrived
from values import read_values

from riebench.report.style import FIXED, PAPER
from riebench.stats.resample import Bootstrap

PAIR_TONE = "#555555"


def draw_all(model: str, work: Path, out: Path) -> None:
    """Draw every figure of what is there."""
    mpl.use("Agg")
    by_set, single, frames = by_sets(work), singles(work), feature_frames(work)
    counted = with_arrived(read_values([work / "counts"]))
    with plt.rc_context(PAPER):
        if by_set:
            _save(_methods(by_set), out / "methods.png")
        if len(counted):
            _save(_counts(counted), out / "contrasts.png")
        if len(single):
            _save(_growing(single), out / "pairs.png")
        if frames:
            _save(_features(frames), out / "features.png")


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)


def _tone(name: str) -> str:
    return "#C9784A" if name == "sae-feature effect" else FIXED[name.split(" ", maxsplit=1)[0]]


def _means(rows: pd.DataFrame, score: str) -> tuple[float, float, float]:
    means = Bootstrap(rows["category"].tolist()).means(rows[[score]].to_numpy(float))
    mean = float(means.mean[0])
    return mean, *(mean if np.isnan(end[0]) else float(end[0]) for end in (means.low, means.high))


def _methods(by_set: dict[str, pd.DataFrame]) -> Any:
    """What arrives and what is kept, by method, for both sets."""
    names = order(next(iter(by_set.values())))[::-1]
    scores = {"arrived": "edits that arrive, of all pairs", "kept": "kept attributes, of pairs that reach the LPIPS"}
    figure, grid = plt.subplots(1, 2, figsize=(7.2, 0.22 * len(names) + 0.9), sharey=True, layout="constrained")
    looks = {"default": ("o", 0.13), "entangled": ("s", -0.13)}
    for axes, (score, label) in zip(grid, scores.items(), strict=True):
        for number, name in enumerate(names):
            for which, values in by_set.items():
                rows = values[values["name"] == name]
                if not len(rows):
                    continue
                marker, shift = looks[which]
                mean, low, high = _means(rows, score)
                face = _tone(name) if which == "default" else "white"
                axes.plot([low, high], [number + shift] * 2, color=_tone(name), lw=1)
                axes.plot(mean, number + shift, marker, color=_tone(name), mfc=face, ms=4.5, ls="")
        axes.set_xlabel(label)
    grid[0].set_yticks(range(len(names)), names)
    for which in by_set:
        marker, _ = looks[which]
        face = PAIR_TONE if which == "default" else "white"
        grid[1].plot([], [], marker, color=PAIR_TONE, mfc=face, ls="", label=f"{which} pairs")
    figure.legend(*grid[1].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False)
    return figure


def _counts(values: pd.DataFrame) -> Any:
    """Edits that arrive, and the rise of the margin, over the number of contrasts."""
    numbers = sorted(values["count"].unique())
    figure, grid = plt.subplots(1, 2, figsize=(7.2, 2.9), layout="constrained")
    scores = {"arrived": "edits that arrive", "risen": "rise of the CLIP margin"}
    for axes, (score, label) in zip(grid, scores.items(), strict=True):
        for place, name in enumerate(CURVE):
            part = values[values["name"] == name].fillna({"risen": 0})
            points = np.array([_means(part[part["count"] == count], score) for count in numbers])
            at = np.arange(len(numbers)) + 0.05 * (place - len(CURVE) / 2)
            axes.plot(at, points[:, 0], marker="osD^vPX*p"[place % 9], ms=4, lw=1.1, color=_tone(name), label=name)
            axes.vlines(at, points[:, 1], points[:, 2], color=_tone(name), lw=0.6, alpha=0.6)
        axes.set_xticks(range(len(numbers)), [f"{number:.0f}" for number in numbers])
        axes.set_xlabel("contrasts")
        axes.set_ylabel(label)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def _growing(values: pd.DataFrame) -> Any:
    """The differences between a trained SAE and others over the number of pairs: edits that arrive, and margin."""
    figure, grid = plt.subplots(1, 2, figsize=(7.2, 2.5), layout="constrained")
    scores = {"arrived": "difference in edits that arrive", "margin": "difference of the CLIP margin"}
    for axes, (score, label) in zip(grid, scores.items(), strict=True):
        for sae, tone in zip(SAES[1:], (FIXED["sae-feature"], FIXED["k-steer"]), strict=True):
            pairs, means, lows, highs = np.array(growing(values, sae, score)).T
            axes.plot(pairs, means, color=tone, label=f"trained minus {sae}")
            axes.fill_between(pairs, lows, highs, color=tone, alpha=0.2, lw=0)
        axes.axhline(0, color=PAIR_TONE, lw=0.8)
        axes.set_xlabel("pairs")
        axes.set_ylabel(label)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False)
    return figure


def _features(frames: dict[str, pd.DataFrame]) -> Any:
    """The rise of the margin over AUROC, a panel for each kind of SAE."""
    rows = -(-len(frames) // 3)
    figure, grid = plt.subplots(rows, 3, figsize=(7.2, 2.3 * rows), sharey=True, squeeze=False, layout="constrained")
    for axes, (name, frame) in zip(grid.flat, frames.items(), strict=False):
        shown = frame["success"] > 0
        clear = 0.5 + (frame["auroc"] - 0.5).abs()
        for mask, tone, label in ((~shown, "#B0B0B0", "no picture shows the value"), (shown, FIXED["sae"], "some do")):
            axes.plot(clear[mask], frame["rise"][mask], "o", ms=2.5, alpha=0.6, mew=0, color=tone, label=label)
        mean, low, high, _ = rank_correlations(frame, "rise")
        axes.set_title(f"{name}: {mean:.2f} [{low:.2f}, {high:.2f}]", fontsize=7.5)
    for axes in grid.flat[len(frames) :]:
        axes.axis("off")
    figure.supxlabel("AUROC, or 1 - AUROC", fontsize=8)
    figure.supylabel("rise of the CLIP margin", fontsize=8)
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False)
    return figure
