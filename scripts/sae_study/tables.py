"""The study's tables, in Markdown, LaTeX and CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from grids import BUDGET
from scored import BENCHMARK, SCORES, against, means, paired

from riebench.features.scores.estimate import Estimate
from riebench.report.texttable import DASH, TextTable, interval, latex_table, markdown_table, write_csv

GRID = ["k", "expansion", "aux"]
ON_OFF = {True: "on", False: "off"}


def write_all(frame: pd.DataFrame, benchmark: pd.DataFrame, out: Path) -> None:
    """Write every table of the study."""
    trained = frame[frame["kind"] == "trained"]
    other = frame[frame["kind"] != "trained"]
    tables = {
        "grid": _grid(means(trained, GRID, SCORES), SCORES, "The grid: means over four sites and three seeds."),
        "baselines": _baselines(trained, other),
        "differences": _differences(trained),
        "stress": _stress(frame[frame["kind"] == "stress"]),
        "by-site": _by_site(frame),
        "riebench": _riebench(benchmark),
    }
    write_csv(frame, out / "scores.csv")
    write_csv(benchmark, out / "riebench.csv")
    for name, table in tables.items():
        (out / f"{name}.tex").write_text(latex_table(table, table.title), encoding="utf-8")
    text = "\n".join(f"### {table.title}\n\n{markdown_table(table)}" for table in tables.values())
    (out / "tables.md").write_text(text, encoding="utf-8")


def cells(estimates: Sequence[Estimate | None]) -> list[str]:
    """The means with their intervals, as the cells of a row."""
    return [DASH if e is None or e.value is None else interval(e.value, e.low, e.high) for e in estimates]


def _grid(grid: pd.DataFrame, scores: Mapping[str, str], title: str) -> TextTable:
    rows = [
        [f"{k:g}", f"{expansion:g}", ON_OFF[aux], *cells(list(row))]
        for (k, expansion, aux), row in zip(grid.index, grid.to_numpy(), strict=True)
    ]
    return TextTable(title, [*GRID, *scores.values()], rows, left=3)


def _kinds(trained: pd.DataFrame, other: pd.DataFrame) -> dict[str, tuple[pd.DataFrame, list[str]]]:
    """Baseline to its rows, and what a trained SAE must have in common with one of them to be compared with it."""
    alike = ["site", "k", "n"]
    return {
        "frozen decoder": (other[other["kind"] == "frozen"], alike),
        "random": (other[(other["kind"] == "random") & other["n"].isin(trained["n"])], alike),
        "neurons": (other[other["kind"] == "neurons"], ["site"]),
        "channels": (other[other["kind"] == "channels"], ["site"]),
    }


def _baselines(trained: pd.DataFrame, other: pd.DataFrame) -> TextTable:
    rows = [["trained SAEs", *cells(list(means(trained.assign(all=0), ["all"], SCORES).iloc[0]))]]
    for name, (part, on) in _kinds(trained, other).items():
        rows.append([name, *cells(list(means(part.assign(all=0), ["all"], SCORES).iloc[0]))])
        gains = [against(trained, part, on, score) for score in SCORES]
        rows.append([f"trained minus {name}", *cells(gains)])
    return TextTable(
        "Trained SAEs and baselines; differences are between equals, with intervals over sites.",
        ["", *SCORES.values()],
        rows,
    )


def _differences(trained: pd.DataFrame) -> TextTable:
    options: dict[str, tuple[str, Any, Any]] = {
        "k 5 instead of 20": ("k", 20, 5),
        "k 5 instead of 10": ("k", 10, 5),
        "expansion 8 instead of 4": ("expansion", 4, 8),
        "auxiliary loss on instead of off": ("aux", False, True),
    }
    rows = [
        [name, *cells([paired(trained, *axis, score, ["site", "seed"]) for score in SCORES])]
        for name, axis in options.items()
    ]
    title = "What each axis changes, all else equal; intervals over sites and seeds."
    return TextTable(title, ["", *SCORES.values()], rows)


def _stress(stress: pd.DataFrame) -> TextTable:
    by_group = means(stress, ["site", "aux"], SCORES)
    pairs = zip(by_group.index, by_group.to_numpy(), strict=True)
    rows = [[site, ON_OFF[aux], *cells(list(row))] for (site, aux), row in pairs]
    change = [paired(stress, "aux", False, True, score, ["site", "seed"]) for score in SCORES]
    rows.append(["both", "on minus off", *cells(change)])
    title = "Where features die (k 10, expansion 16, learning rate 0.01): the auxiliary loss."
    return TextTable(title, ["site", "aux", *SCORES.values()], rows, left=2)


def _by_site(frame: pd.DataFrame) -> TextTable:
    by_group = means(frame[frame["kind"] != "stress"], ["site", "kind"], SCORES)
    rows = [[*key, *cells(list(row))] for key, row in zip(by_group.index, by_group.to_numpy(), strict=True)]
    return TextTable("By site.", ["site", "", *SCORES.values()], rows, left=2)


def _riebench(benchmark: pd.DataFrame) -> TextTable:
    by_group = means(benchmark, [*GRID, "frozen"], BENCHMARK)
    rows = []
    for (k, expansion, aux, frozen), row in zip(by_group.index, by_group.to_numpy(), strict=True):
        decoder = "frozen" if frozen else "trained"
        rows.append([str(k), str(expansion), ON_OFF[aux], decoder, *cells(list(row))])
    title = f"RIEBench with the SAEs of all four sites, at LPIPS {BUDGET}; intervals over seeds."
    return TextTable(title, [*GRID, "decoder", *BENCHMARK.values()], rows, left=4)
