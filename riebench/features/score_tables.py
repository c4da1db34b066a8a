"""The tables and the figure over all score files of a folder. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Console

from riebench.features.score_files import read_all_scores
from riebench.features.score_groups import Facts, ScoreGroup, score_groups
from riebench.report.style import DASHES, METADATA, PAPER
from riebench.report.texttable import DASH, TextTable, interval, markdown_table, number, print_table, write_csv
from riebench.training.training_log import COLOURS
from riebench.util.work_folder import full_disk

COLUMNS = {
    "l0": "L0",
    "dead": "dead",
    "explained_variance": "explained",
    "lpips": "LPIPS",
    "zeroed_lpips": "LPIPS zeroed",
    "specificity": "specificity",
    "f1": "F1",
    "f1_gain": "F1 gain",
    "f1_over_90": "F1 >= .9",
    "coverage": "coverage",
    "agreement": "agreement",
    "clip": "causality CLIP",
    "on": "on",
    "on_random": "on, random",
    "on_best": "on, best",
    "off": "off",
    "locality": "locality",
    "sensitivity_10": "sensitivity",
    "elsewhere_10": "elsewhere",
}
"""Scores of the tables with their headings; the CSV has all."""
DIGITS = {"l0": 1, "locality": 1, "lpips": 4, "zeroed_lpips": 4}
STEP_TABLE, STEP_FIGURE = "by-step.csv", "by-step.png"
PANELS = {
    "explained_variance": "explained variance",
    "code_cosine": "cosine with the next step's codes",
    "code_iou": "IoU with the next step's features",
}
SCREEN = 130  # dots per inch


def write_score_tables(folder: Path) -> list[dict[str, Any]]:
    """Write the tables over all score files of a folder, and the scores by step; gives the files' contents.

    Raises:
        UserError: if they cannot be written.
    """
    scores = read_all_scores(folder)
    groups = score_groups(scores)
    with full_disk(folder / "scores.md"):
        (folder / "scores.md").write_text("\n".join([*map(_section, groups), EXPLAINED]), encoding="utf-8")
        write_csv(_frame(scores), folder / "scores.csv")
        write_step_scores(folder, groups)
    return scores


def _section(group: ScoreGroup) -> str:
    return f"{group.title}:\n\n{markdown_table(score_table(group, intervals=True))}"


EXPLAINED = """Means with 95 % intervals by bootstrap, too narrow over fewer than 20 units; a dash is undefined.

- L0, explained (variance), LPIPS: over held-out pictures. LPIPS is that of pictures generated with the reconstruction
  in place of the values; zeroed: with 0 in their place.
- dead: share of all features. specificity, F1, sensitivity: over live features.
- F1: of a feature as detector of its best attribute value. F1 gain: above that of always saying yes, as a share of
  what is left to 1. coverage: over values, the F1 of the best single feature. agreement: rank correlation of
  specificity and F1 gain over features.
- causality CLIP (after v1 of the paper), on, off, locality: over the features that were switched.
- on: pictures that show a feature's value after it was switched on in the value's area. random: a random direction of
  the same norm; best: only features that detect their value best. off: pictures that no longer show the value after
  the feature was taken away. locality: change inside the area over that outside.
- sensitivity: pictures with the value in which the feature is active on 10 % of the positions; elsewhere: pictures
  without it.
"""


def score_table(group: ScoreGroup, intervals: bool) -> TextTable:
    """A row for each score file of a group; columns that are undefined in all of them are left out."""
    columns = [name for name in COLUMNS if any(_value(facts, name) is not None for facts in group.scores)]
    rows = [
        [
            label,
            facts["kind"],
            facts["block"],
            str(facts["features_count"]),
            *(_cell(facts["summary"].get(name), DIGITS.get(name, 3), intervals) for name in columns),
        ]
        for label, facts in zip(group.names, group.scores, strict=True)
    ]
    return TextTable("", ["name", "kind", "site", "features", *(COLUMNS[name] for name in columns)], rows, left=3)


def print_scores(scores: Sequence[Facts], console: Console) -> None:
    """Show a table for each group of files, without intervals, in two parts that fit a terminal."""
    groups = score_groups(scores)
    for group in groups:
        table = score_table(group, intervals=False)
        if len(groups) > 1:
            console.print(f"{group.title}:", markup=False, highlight=False)
        middle = 4 + (len(table.head) - 4 + 1) // 2
        for part in (range(4, middle), range(middle, len(table.head))):
            print_table(table.only([0, 1, 3, *part]), console)


def _value(facts: Facts, name: str) -> float | None:
    estimate = facts["summary"].get(name)
    return None if estimate is None else estimate["value"]


def _cell(estimate: Facts | None, digits: int, intervals: bool) -> str:
    if estimate is None:
        return DASH
    if intervals:
        return interval(estimate["value"], estimate["low"], estimate["high"], digits)
    return number(estimate["value"], digits)


def _frame(scores: Sequence[Facts]) -> pd.DataFrame:
    rows = []
    for facts in scores:
        row = {name: facts[name] for name in ("name", "kind", "block", "model", "features_count", "key")}
        row |= {"dictionary": facts.get("dictionary"), "described": len(facts.get("descriptions") or ())}
        row |= {f"prompts_{name}": facts["prompts"].get(name) for name in ("location", "count", "hash")}
        row |= {name: json.dumps(v) if isinstance(v, list) else v for name, v in facts["settings"].items()}
        for name, estimate in facts["summary"].items():
            row |= {name: estimate["value"], f"{name}_low": estimate["low"], f"{name}_high": estimate["high"]}
        rows.append(row)
    return pd.DataFrame(rows)


def write_step_scores(folder: Path, groups: Sequence[ScoreGroup]) -> None:
    """Write ``by-step.csv`` and ``by-step.png`` of the score files with scores by step; nothing if no file has any."""
    frame = step_frame(groups)
    if not frame.empty:
        write_csv(frame, folder / STEP_TABLE)
        draw_step_scores(frame, folder / STEP_FIGURE)


def step_frame(groups: Sequence[ScoreGroup]) -> pd.DataFrame:
    """A row for each dictionary, score and step, from 0; codes are compared from a step to the next."""
    rows = [
        {
            **{"block": facts["block"], "name": label, "kind": facts["kind"]},
            "steps": facts["settings"]["steps"],
            **{"score": score, "step": step, **estimate},
            **{"key": facts["key"], "judged_on": group.title},
        }
        for group in groups
        for label, facts in zip(group.names, group.scores, strict=True)
        for score, several in facts["steps"].items()
        for step, estimate in enumerate(several)
    ]
    return pd.DataFrame(rows)


def draw_step_scores(frame: pd.DataFrame, path: Path) -> None:
    """Draw a row of panels for each site, with a line for each dictionary and its interval.

    A site's dictionaries are told apart by their kind and, where a kind has several, by their names.
    """
    sites = list(frame["block"].unique())
    # Judgements of the same number of steps differ in something else, which the label then says.
    alike = frame.groupby("steps")["judged_on"].nunique()
    frame = frame.assign(label=frame.apply(lambda row: _label(row, alike[row["steps"]] > 1), axis=1))
    labels = list(frame["label"].unique())
    with rc_context(PAPER):
        figure = Figure(figsize=(7.2, 0.8 + 1.7 * len(sites) + 0.12 * len(labels)), layout="constrained")
        axes = figure.subplots(len(sites), len(PANELS), squeeze=False, sharex=True, sharey="col")
        for row, site in zip(axes, sites, strict=True):
            for panel, (score, title) in zip(row, PANELS.items(), strict=True):
                here = frame[(frame["block"] == site) & (frame["score"] == score)]
                _draw_panel(panel, here, labels)
                panel.set_title(f"{site}: {title}" if score == "explained_variance" else title)
                panel.xaxis.set_major_locator(MaxNLocator(integer=True))
                if site == sites[-1]:
                    panel.set_xlabel("step")
        handles = {
            label: line for panel in axes.flat for line, label in zip(*panel.get_legend_handles_labels(), strict=True)
        }
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4, frameon=False)
        figure.savefig(path, dpi=SCREEN, metadata=METADATA["png"])


def _label(row: Mapping[str, Any], with_title: bool) -> str:
    """A model's own SAEs have the names of their sites, which stand in the titles."""
    kind = row["kind"] if row["name"] == row["block"] or row["kind"] not in ("sae", "dictionary") else row["name"]
    return f"{kind}, {row['judged_on'] if with_title else str(row['steps']) + ' steps'}"


def _draw_panel(panel: Axes, here: pd.DataFrame, labels: Sequence[str]) -> None:
    panel.set_ylim(-0.05, 1.05)
    for (label, _), line in here.groupby(["label", "name"], sort=False):
        number = labels.index(label)
        colour, style = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
        panel.plot(line["step"], line["value"], color=colour, linestyle=style, marker="o", markersize=2.5, label=label)
        panel.fill_between(line["step"], line["low"], line["high"], color=colour, alpha=0.15, linewidth=0)
