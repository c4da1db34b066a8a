"""The study's tables: Markdown for reading, CSV with every number."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from features import rank_correlations
from scipy import stats
from stages import CHOICES, FEATURE, NAMES, PAIR_METHODS, SAES
from values import SCORES, read_values

from riebench.pairs import CATEGORIES
from riebench.report.texttable import TextTable, interval, markdown_table, number
from riebench.stats.resample import Bootstrap

SETS = {"main": "default", "entangled": "entangled"}
AGAINST = (
    ("sae", "steering"),
    ("loreft", "steering"),
    ("loreft", "sae"),
    ("pca", "sae-sum"),
    (f"{FEATURE} effect", f"{FEATURE} detection"),
    (f"{FEATURE} detection", "caa"),
    ("sae-sum", f"{FEATURE} detection"),
)
DIFFERENCES = ("arrived", "edit_success", "margin", "gain")


def write_all(model: str, work: Path, out: Path) -> None:
    """Write ``tables.md`` and the CSV files of what is there."""
    texts = [f"# Concepts on {model}: the tables", ""]
    by_set = {name: compared(work / folder) for folder, name in SETS.items()}
    by_set = {name: values for name, values in by_set.items() if len(values)}
    sites = json.loads((work / "sites.json").read_text()) if (work / "sites.json").exists() else {}
    for name, values in by_set.items():
        values.to_csv(out / f"values-{name}.csv", index=False, float_format="%.4f")
        texts += _text(overall(values, name, sites))
    if by_set:
        texts += _text(side_by_side(by_set)) + _text(methods_against(by_set))
        for score in ("arrived", "margin"):
            for name, values in by_set.items():
                texts += _text(by_category(values, name, score))
    counted = counts(work)
    if len(counted):
        counted.to_csv(out / "values-counts.csv", index=False, float_format="%.4f")
        texts += _text(counts_table(counted))
    if len(values := singles(work)):
        values.to_csv(out / "values-single.csv", index=False, float_format="%.4f")
        texts += _text(single_table(values)) + _text(difference_table(values))
    files = {name: work / f"features-{name}.csv" for name in SAES}
    frames = {name: pd.read_csv(file) for name, file in files.items() if file.exists()}
    if frames:
        texts += _text(features_table(frames))
    (out / "tables.md").write_text("\n".join(texts))


def _text(table: TextTable) -> list[str]:
    return [table.title, "", markdown_table(table)]


def compared(folder: Path) -> pd.DataFrame:
    """The values of a comparison with 32 contrasts: one set of sites for each method."""
    values = read_values([folder])
    if not len(values):
        return values
    values = values[values["count"].isna() | (values["count"] == 32)]
    return with_arrived(balanced(values))


def balanced(values: pd.DataFrame) -> pd.DataFrame:
    """As many pairs of each category, the first ones: a study that is not finished has more of the first categories."""
    every = values[["category", "pair"]].drop_duplicates().sort_values("pair")
    kept = every.groupby("category").head(int(every.groupby("category").size().min()))["pair"]
    return values[values["pair"].isin(kept)]


def with_arrived(values: pd.DataFrame) -> pd.DataFrame:
    """With the column ``arrived``: edit_success, 0 where the pair does not reach the LPIPS."""
    return values.assign(arrived=values["edit_success"].where(values["reached"], 0.0))


def order(values: pd.DataFrame) -> list[str]:
    """The methods, the best first."""
    means = values.groupby("name")["arrived"].mean()
    return list(means.sort_values(ascending=False).index)


def mean_of(rows: pd.DataFrame, score: str) -> str:
    """The mean over pairs with its interval, as text."""
    means = Bootstrap(rows["category"].tolist()).means(rows[[score]].to_numpy(float))
    return interval(means.mean[0], means.low[0], means.high[0])


def overall(values: pd.DataFrame, name: str, sites: dict[str, str]) -> TextTable:
    """A row for each method."""
    rows = []
    for method in order(values):
        part = values[values["name"] == method]
        where = sites.get(method, "all 4" if method != "prompt" else "").split("+")
        cells = [mean_of(part, score) for score in ("arrived", *SCORES)]
        rows.append([method, "all 4" if len(where) > 1 else where[0], f"{part['reached'].sum()}/{len(part)}", *cells])
    title = (
        f"**{name.capitalize()} pairs**, every method at LPIPS 0.05 (`prompt` at its own); arrived: edit_success, 0"
        f" where a pair does not reach it. Methods of the pair: {', '.join(PAIR_METHODS)}."
    )
    head = ["method", "sites", "reached", "arrived", *SCORES]
    return TextTable(title, head, rows, left=2)


def side_by_side(by_set: dict[str, pd.DataFrame]) -> TextTable:
    """edit_success and kept of both sets."""
    head, rows = ["method"], []
    for name in by_set:
        head += [f"{name}: arrived", "edit_success", "kept"]
    for method in order(next(iter(by_set.values()))):
        row = [method]
        for values in by_set.values():
            part = values[values["name"] == method]
            row += [mean_of(part, score) if len(part) else "" for score in ("arrived", "edit_success", "kept")]
        rows.append(row)
    return TextTable("**Both sets of pairs side by side.**", head, rows)


def methods_against(by_set: dict[str, pd.DataFrame]) -> TextTable:
    """Paired differences between methods, for both sets."""
    rows = []
    for first, second in AGAINST:
        for which, values in by_set.items():
            cells = []
            for score in ("arrived", "kept", "margin", "gain"):
                wide = values.pivot(index=["category", "pair"], columns="name", values=score)
                if not {first, second} <= set(wide):
                    continue
                cells.append(difference_cells((wide[first] - wide[second]).dropna())[1])
            rows.append([f"{first} minus {second}", which, *cells])
    head = ["methods", "pairs", "arrived", "kept", "margin", "gain"]
    return TextTable("**Paired differences between methods**, on the pairs that both have.", head, rows, left=2)


def by_category(values: pd.DataFrame, name: str, score: str) -> TextTable:
    """Means of a score by category."""
    kinds = sorted(values["category"].unique())
    table = values.pivot_table(index="name", columns="category", values=score, aggfunc="mean", dropna=False)
    rows = [[method, *(number(table[kind].get(method), 2) for kind in kinds)] for method in order(values)]
    return TextTable(
        f"**{name.capitalize()} pairs: {score} by category.**", ["method", *map(CATEGORIES.get, kinds)], rows
    )


def counts(work: Path) -> pd.DataFrame:
    """The values of all numbers of contrasts, on the pairs that have each."""
    values = read_values([work / "main"])
    if not len(values):
        return values
    values = with_arrived(values[values["name"].isin(NAMES)])
    several = values.groupby(["name", "pair"])["count"].transform("nunique")
    complete = values[several == several.max()] if len(several) and several.max() > 1 else values[:0]
    return complete if complete["category"].nunique() == len(CATEGORIES) else values[:0]


def counts_table(values: pd.DataFrame) -> TextTable:
    """``arrived`` and the margin by number of contrasts."""
    numbers = sorted(values["count"].unique())
    rows = []
    for method in NAMES:
        part = values[values["name"] == method]
        for score in ("arrived", "risen"):
            cells = [mean_of(part[part["count"] == count].fillna({"risen": 0}), score) for count in numbers]
            rows.append([method, "rise of the margin" if score == "risen" else score, *cells])
    title = (
        f"**Number of contrasts**, on {values['pair'].nunique()} default pairs; a pair that does not reach the LPIPS"
    )
    return TextTable(f"{title} counts as 0.", ["method", "score", *(f"{n:.0f}" for n in numbers)], rows, left=2)


def singles(work: Path) -> pd.DataFrame:
    """The values of ``sae-feature`` with each kind of SAE."""
    frames = [read_values([work / f"single-{name}"]).assign(sae=name) for name in SAES]
    joined = pd.concat([frame for frame in frames if len(frame)] or frames)
    if not len(joined):
        return joined
    everywhere = joined.groupby(["name", "pair"])["sae"].transform("nunique") == joined["sae"].nunique()
    return with_arrived(balanced(joined[everywhere]))


def single_table(values: pd.DataFrame) -> TextTable:
    """A row for each SAE and way to choose."""
    rows = []
    for choose in CHOICES:
        for sae in SAES:
            part = values[(values["name"] == f"{FEATURE} {choose}") & (values["sae"] == sae)]
            if len(part):
                cells = [mean_of(part, score) for score in ("arrived", *SCORES)]
                rows.append([choose, sae, f"{part['reached'].sum()}/{len(part)}", *cells])
    head = ["chosen by", "SAE", "reached", "arrived", *SCORES]
    return TextTable("**One feature carries the concept**, at LPIPS 0.05.", head, rows, left=2)


def difference_table(values: pd.DataFrame) -> TextTable:
    """Trained minus other SAEs on the same pairs, with the number of pairs that would tell them apart."""
    rows = []
    for choose in CHOICES:
        for sae in SAES[1:]:
            for score in DIFFERENCES:
                wide = values[values["name"] == f"{FEATURE} {choose}"].pivot(
                    index=["category", "pair"], columns="sae", values=score
                )
                if {"trained", sae} <= set(wide):
                    difference = (wide["trained"] - wide[sae]).dropna()
                    rows.append([choose, f"trained minus {sae}", score, *difference_cells(difference)])
    title = (
        "**Trained against other SAEs, one feature**: paired differences; needed: pairs for power .8 at 5 % (t-test)."
    )
    head = ["chosen by", "SAEs", "score", "pairs", "difference", "needed"]
    return TextTable(title, head, rows, left=3)


def difference_cells(difference: pd.Series) -> list[str]:
    """Number of pairs, mean with interval, and the pairs that a t-test needs for that mean."""
    categories = difference.index.get_level_values("category").tolist()
    means = Bootstrap(categories).means(difference.to_numpy(float)[:, None])
    return [
        str(len(difference)),
        interval(means.mean[0], means.low[0], means.high[0]),
        needed(difference.to_numpy(float)),
    ]


def needed(differences: np.ndarray, power: float = 0.8, level: float = 0.05) -> str:
    """Pairs at which a paired t-test tells a difference of this mean and spread from 0; a dash above a million."""
    mean, spread = differences.mean(), differences.std(ddof=1) if len(differences) > 1 else np.nan
    if not spread or not np.isfinite(spread) or abs(mean) < 1e-9:
        return "–"
    quantile = stats.norm.ppf(1 - level / 2) + stats.norm.ppf(power)
    count = int(np.ceil((quantile * spread / mean) ** 2)) + 2
    return str(count) if count < 1_000_000 else "–"


def features_table(frames: dict[str, pd.DataFrame]) -> TextTable:
    """Rank correlations of detection and effect, and what the best of each are worth."""
    rows = []
    for name, frame in frames.items():
        cells = []
        for effect in ("rise", "success"):
            mean, low, high, count = rank_correlations(frame, effect)
            cells.append(f"{interval(mean, low, high, 2)} ({count})")
        detector = frame.loc[frame.assign(clear=(frame["auroc"] - 0.5).abs()).groupby("pair")["clear"].idxmax()]
        actor = frame.loc[frame.groupby("pair")["rise"].idxmax()]
        shares = [number(rows_of["success"].mean(), 2) for rows_of in (detector, actor, frame)]
        rows.append(
            [name, str(len(frame)), number(detector["auroc"].sub(0.5).abs().add(0.5).mean(), 2), *cells, *shares]
        )
    title = "**Detection and effect of the same features**: Spearman within an edit, mean over edits (their number)."
    head = ["SAE", "features", "AUROC of the best", "with rise", "with success"]
    return TextTable(title, [*head, "success: best detector", "largest rise", "all tried"], rows)
