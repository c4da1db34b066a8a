"""Score files: one JSON for each dictionary, and the table over all in a folder. Needs no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from riebench.features.step_scores import write_step_scores
from riebench.report.texttable import DASH, TextTable, interval, markdown_table, number, print_table, write_csv
from riebench.util.errors import UserError
from riebench.util.files import write_whole

VERSION = 1
"""Of the scores: it grows whenever a score comes to mean something else."""
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
Facts = Mapping[str, Any]


def make_score_folder(folder: Path) -> None:
    """See, before anything is judged, that scores can be written.

    Raises:
        UserError: if they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"--out {folder} is a file; give a folder") from None
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be written ({error.strerror}); give another --out") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"the folder {folder} cannot be written; give another --out")


def score_path(folder: Path, name: str, key: str) -> Path:
    """Where the scores of a dictionary lie."""
    safe = "".join(c if c.isalnum() or c in ".-_" else "_" for c in name)
    return folder / f"{safe}-{key[:8]}.json"


def read_scores(path: Path) -> dict[str, Any] | None:
    """The content of a score file; None if it is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "summary" in found and "key" in found else None


def write_scores(path: Path, facts: Facts) -> None:
    """Write a score file, undefined numbers as null.

    Raises:
        UserError: if it cannot be written.
    """
    try:
        write_whole(path, (json.dumps(facts, indent=1, allow_nan=False) + "\n").encode())
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); give another --out") from None


def write_score_tables(folder: Path) -> list[dict[str, Any]]:
    """Write the tables over all score files of a folder, and the scores by step; gives the files' contents.

    Raises:
        UserError: if they cannot be written.
    """
    found = sorted(
        (facts for facts in map(read_scores, folder.glob("*.json")) if facts),
        key=lambda facts: (facts["block"], facts["kind"] not in ("sae", "dictionary"), facts["name"]),
    )
    text = markdown_table(score_table(found, intervals=True))
    try:
        (folder / "scores.md").write_text(f"{text}\n{EXPLAINED}", encoding="utf-8")
        write_csv(_frame(found), folder / "scores.csv")
        write_step_scores(folder, found)
    except OSError as error:
        raise UserError(f"tables cannot be written to {folder} ({error.strerror}); give another --out") from None
    return found


EXPLAINED = """Means with 95 % intervals by bootstrap; a dash is undefined.

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


def score_table(found: list[dict[str, Any]], intervals: bool) -> TextTable:
    """A row for each score file; columns that are undefined in all of them are left out."""
    columns = [name for name in COLUMNS if any(_value(facts, name) is not None for facts in found)]
    rows = [
        [
            facts["name"],
            facts["kind"],
            facts["block"],
            str(facts["features_count"]),
            *(_cell(facts["summary"].get(name), DIGITS.get(name, 3), intervals) for name in columns),
        ]
        for facts in found
    ]
    return TextTable("", ["name", "kind", "site", "features", *(COLUMNS[name] for name in columns)], rows, left=3)


def print_scores(found: list[dict[str, Any]], console: Console) -> None:
    """Show the table, without intervals, in two parts that fit a terminal."""
    table = score_table(found, intervals=False)
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


def _frame(found: list[dict[str, Any]]) -> pd.DataFrame:
    rows = []
    for facts in found:
        row = {name: facts[name] for name in ("name", "kind", "block", "model", "features_count", "key")}
        for name, estimate in facts["summary"].items():
            row |= {name: estimate["value"], f"{name}_low": estimate["low"], f"{name}_high": estimate["high"]}
        rows.append(row)
    return pd.DataFrame(rows)
