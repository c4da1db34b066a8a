"""The study's figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from scored import SCORES

from riebench.features.scores.estimate import mean_estimate
from riebench.models.sdxl import FOUR
from riebench.report.style import FIXED, PAPER

BLUE, RED, GREY = FIXED["steering"], FIXED["sae"], FIXED["random"]
AUX = {True: ("auxiliary loss on", RED, "o"), False: ("auxiliary loss off", BLUE, "s")}
OVER_K = ("coverage", "f1_over_90", "specificity", "on_gain_best", "clip_best", "explained_variance")


def draw_all(frame: pd.DataFrame, files: list[dict[str, Any]], work: Path, out: Path) -> None:
    """Draw every figure of the study."""
    mpl.use("Agg")
    out.mkdir(parents=True, exist_ok=True)
    trained = frame[frame["kind"] == "trained"]
    with plt.rc_context(PAPER):
        for name, figure in {
            "explained-variance": _explained(trained),
            "scores-over-k": _over_k(frame),
            "f1-by-value": _by_value(files),
            "dying-features": _dying(work),
        }.items():
            figure.savefig(out / f"{name}.png", bbox_inches="tight")
            plt.close(figure)


def _line(axes: Axes, part: pd.DataFrame, score: str, look: tuple[str, str, str], shift: float = 0.0) -> None:
    """Means over k with their intervals."""
    label, colour, marker = look
    by_k = [(k, mean_estimate(rows[score].to_numpy(float))) for k, rows in part.groupby("k")]
    ks, estimates = zip(*((k, e) for k, e in by_k if e.value is not None), strict=True)
    at = np.arange(len(ks)) + shift
    middle = np.array([e.value for e in estimates])
    ends = [[e.value if end is None else end for end in (e.low, e.high)] for e in estimates]
    reach = np.abs(np.array(ends).T - middle)
    axes.errorbar(at, middle, reach, label=label, color=colour, marker=marker, ms=4, lw=1.2, capsize=2)
    axes.set_xticks(np.arange(len(ks)), [f"{k:.0f}" for k in ks])
    axes.set_xlabel("k")


def _explained(trained: pd.DataFrame) -> Any:
    figure, grid = plt.subplots(1, len(FOUR), figsize=(7.2, 2.1), sharey=True, layout="constrained")
    looks = {4: ("expansion 4", BLUE, "s"), 8: ("expansion 8", RED, "o")}
    for axes, site in zip(grid, FOUR, strict=True):
        for number, (expansion, look) in enumerate(looks.items()):
            part = trained[(trained["site"] == site) & (trained["expansion"] == expansion)]
            _line(axes, part, "explained_variance", look, 0.06 * (number - 0.5))
        axes.set_title(site)
    grid[0].set_ylabel("explained variance")
    grid[0].legend()
    return figure


def _over_k(frame: pd.DataFrame) -> Any:
    figure, grid = plt.subplots(2, 3, figsize=(7.2, 4.4), layout="constrained")
    trained = frame[frame["kind"] == "trained"]
    beside = {"frozen": ("frozen decoder", "#009E73", "^"), "random": ("random", GREY, "v")}
    for axes, score in zip(grid.flat, OVER_K, strict=True):
        for number, (aux, look) in enumerate(AUX.items()):
            _line(axes, trained[trained["aux"] == aux], score, look, 0.06 * (number - 0.5))
        for kind, look in beside.items():
            _line(axes, frame[(frame["kind"] == kind) & frame["n"].isin(trained["n"])], score, look)
        plain = frame[frame["kind"] == "neurons"][score].mean()
        if np.isfinite(plain):
            axes.axhline(plain, color="#E69F00", ls="--", lw=1, label="neurons")
        axes.set_title(SCORES[score])
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def _by_value(files: list[dict[str, Any]]) -> Any:
    """Of each attribute value the F1 of its best single feature: trained SAEs (k 10, expansion 4), and baselines."""
    columns: dict[str, list[dict[str, float]]] = {}
    for facts in files:
        config = facts["config"]
        chosen = facts["kind"] != "sae" or (config["k"] == 10 and config["expansion"] == 4 and not config["frozen"])
        if chosen and facts["kind"] in ("sae", "neurons"):
            columns.setdefault(f"{facts['block']}\n{facts['kind']}", []).append(facts["coverage"])
    by_value = pd.DataFrame({name: pd.DataFrame(rows).mean() for name, rows in columns.items()})
    by_value = by_value[[f"{site}\n{kind}" for kind in ("sae", "neurons") for site in FOUR]]
    figure, axes = plt.subplots(figsize=(5.6, 7.4), layout="constrained")
    image = axes.imshow(by_value.to_numpy(float), aspect="auto", vmin=0, vmax=1, cmap="viridis")
    axes.set_xticks(range(by_value.shape[1]), by_value.columns)
    axes.set_yticks(range(len(by_value)), [name.replace("=", ": ") for name in by_value.index])
    axes.grid(visible=False)
    for row, column in np.ndindex(by_value.shape):
        value = by_value.iat[row, column]
        if np.isnan(value):  # no picture of the half that reports shows it
            continue
        tone = "white" if value < 0.6 else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=5.5, color=tone)
    figure.colorbar(image, label="F1 of the best single feature", shrink=0.5)
    return figure


def _dying(work: Path) -> Any:
    """Share of dead features and explained variance over the training in which features die."""
    rows = [json.loads(line) for path in sorted((work / "stress").glob("*/log.jsonl")) for line in path.open()]
    log = pd.DataFrame(rows)
    log["site"] = log["sae"].str.split("_").str[0]
    log["aux"] = log["sae"].str.contains("aux-on")
    sites = sorted(log["site"].unique())
    figure, grid = plt.subplots(2, len(sites), figsize=(5.4, 3.8), sharex=True, layout="constrained", squeeze=False)
    for column, site in zip(grid.T, sites, strict=True):
        for axes, score in zip(column, ("dead", "explained"), strict=True):
            for aux, (label, colour, _) in AUX.items():
                part = log[(log["site"] == site) & (log["aux"] == aux)].groupby("vectors")[score]
                axes.plot(part.mean(), color=colour, label=label)
                axes.fill_between(part.mean().index, part.min(), part.max(), color=colour, alpha=0.2, lw=0)
        column[0].set_title(site)
        column[1].set_xlabel("vectors")
        column[1].set_ylim(0.8, 1)
    grid[0, 0].set_ylabel("share of dead features")
    grid[1, 0].set_ylabel("explained variance")
    grid[0, 0].legend()
    return figure
