"""The study's numbers: a row for each SAE and baseline, means over the grid, and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from riebench.features.score_files import read_scores
from riebench.features.scores.estimate import Estimate, mean_estimate

AXES = ["site", "k", "expansion", "aux", "seed"]
SCORES = {
    "explained_variance": "explained variance",
    "dead": "dead",
    "coverage": "coverage",
    "f1_over_90": "F1 >= .9",
    "specificity": "specificity",
    "agreement": "agreement",
    "on_gain_best": "causality (truth)",
    "on_kept_best": "kept",
    "clip_best": "causality (CLIP)",
    "sensitivity_10": "sensitivity",
}
"""Scores of the tables, as the score files name them, with their headings."""
KEPT = ("value", "f1", "f1_gain", "auroc", "specificity")
"""Columns of the features in what is kept of the score files."""
BENCHMARK = {"gain": "RIEBench gain", "edit_success": "edit_success", "kept": "kept"}


def read_frame(work: Path) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """A row for each score file of all sites, and their contents."""
    files = [facts for path in sorted((work / "scores").glob("*/*.json")) if (facts := read_scores(path))]
    rows = []
    for facts in files:
        config = facts["config"]
        kind = facts["kind"]
        if kind == "sae":
            kind = "frozen" if config["frozen"] else "stress" if config["expansion"] == 16 else "trained"
        row = {"name": facts["name"], "site": facts["block"], "kind": kind, "n": facts["features_count"]}
        row |= {name: config.get(name) for name in ("k", "expansion", "aux", "seed")}
        row |= {name: np.nan if e["value"] is None else e["value"] for name, e in facts["summary"].items()}
        rows.append(row)
    return pd.DataFrame(rows), files


def compact(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a score file: of single features only some columns, in three digits, and only of seed 0."""
    of_each = facts["features"] if facts["config"].get("seed") in (0, None) else {}
    return {**facts, "features": {name: [_short(v) for v in of_each.get(name, ())] for name in KEPT if name in of_each}}


def _short(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


def read_benchmark(work: Path) -> pd.DataFrame:
    """A row for each configuration: its leaderboard's scores over all categories."""
    rows = []
    for path in sorted((work / "boards").glob("*/leaderboard.csv")):
        board = pd.read_csv(path)
        (row,) = board[board["category"] == "all"].to_dict("records")
        k, expansion, aux, *frozen, seed = path.parent.name.split("_")
        rows.append(
            {
                "k": int(k[1:]),
                "expansion": int(expansion[1:]),
                "aux": aux == "aux-on",
                "frozen": bool(frozen),
                "seed": int(seed[4:]),
                **{name: row.get(name, np.nan) for name in BENCHMARK},
            }
        )
    return pd.DataFrame(rows)


def means(frame: pd.DataFrame, by: Sequence[str], scores: Mapping[str, str]) -> pd.DataFrame:
    """Means over the rows of each group, as :class:`Estimate`; the interval is over these rows."""
    grouped = frame.groupby(list(by), sort=True)[list(scores)]
    return grouped.agg(lambda column: mean_estimate(column.to_numpy(float)))


def paired(frame: pd.DataFrame, axis: str, low: Any, high: Any, score: str, unit: Sequence[str]) -> Estimate:
    """Mean of the score at ``high`` minus that at ``low`` of an axis, all else equal.

    Differences are first averaged within each unit (as a site with a seed), over which the interval then is.
    """
    others = [name for name in AXES if name != axis and name in frame and frame[name].notna().all()]
    two = [frame[frame[axis] == value].set_index(others)[score] for value in (low, high)]
    difference = (two[1] - two[0]).dropna()
    return mean_estimate(difference.groupby(list(unit)).mean().to_numpy(float))


def against(trained: pd.DataFrame, other: pd.DataFrame, on: Sequence[str], score: str) -> Estimate:
    """Mean of the trained SAEs' score minus that of a baseline with the same ``on``; the interval is over sites."""
    two = [part.groupby(list(on))[score].mean() for part in (other, trained)]
    difference = (two[1] - two[0]).dropna()
    return mean_estimate(difference.groupby("site").mean().to_numpy(float))
