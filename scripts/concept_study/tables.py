"""The study's tables: Markdown for reading, CSV with every number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from features import rank_correlations
from scipy import stats
from stages import CURVE, FEATURE, FEW, KINDS, PAIR_METHODS, SAES
from values import SCORES, read_values

from riebench.pairs import CATEGORIES
from riebench.report.texttable import TextTable, interval, markdown_table, number
from riebench.stats.resample import Bootstrap

FOLDERS = {"default": "main", "entangled": "entangled"}
"""Set of pairs to the folder in which all methods are compared on it."""
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
    by_set = by_sets(work)
    for name, values in by_set.items():
        values.to_csv(out / f"values-{name}.csv", index=False, float_format="%.4f")
        texts += _text(overall(values, name))
    if by_set:
        texts += _text(side_by_side(by_set)) + _text(methods_against(by_set))
        for score in ("arrived", "kept", "margin", "gain"):
            for name, values in by_set.items():
                texts += _text(by_category(values, name, score))
    if len(counted := with_arrived(read_values([work / "counts"]))):
        counted.to_csv(out / "values-counts.csv", index=False, float_format="%.4f")
        texts += _text(counts_table(counted))
    if len(values := singles(work)):
        values.to_csv(out / "values-single.csv", index=False, float_format="%.4f")
        texts += _text(single_table(values)) + _text(difference_table(values)) + _text(growing_table(values))
        texts += _text(by_category(values.assign(name=values["sae"]), "one feature, all", "arrived"))
    if frames := feature_frames(work):
        texts += _text(features_table(frames))
    if len(values := read_values([work / "choosing"])):
        texts += _text(choosing_table(values))
    (out / "tables.md").write_text("\n".join(texts))


def _text(table: TextTable) -> list[str]:
    return [table.title, "", markdown_table(table)]


def by_sets(work: Path) -> dict[str, pd.DataFrame]:
    """The values of all methods on each set of pairs, as far as there are any."""
    every = {name: with_arrived(read_values([work / folder])) for name, folder in FOLDERS.items()}
    return {name: values for name, values in every.items() if len(values)}


def feature_frames(work: Path) -> dict[str, pd.DataFrame]:
    """What was measured of single features, by the kind of SAE."""
    files = {name: work / f"features-{name}.csv" for name in (*SAES, *KINDS)}
    return {name: pd.read_csv(file) for name, file in files.items() if file.exists()}


def sites_text(blocks: str) -> str:
    """A set of sites as tables name it: ``mid.0``, or the operation and of how many blocks it is."""
    sites = blocks.split("+")
    if len(sites) == 1:
        return blocks
    (operation,) = {site.partition("/")[2].split(".")[0] or "update" for site in sites}
    return f"{operation}, {len({site.partition('/')[0] for site in sites})} blocks"


def with_arrived(values: pd.DataFrame) -> pd.DataFrame:
    """With the column ``arrived``: edit_success, 0 where the pair does not reach the LPIPS."""
    return values.assign(arrived=values["edit_success"].where(values["reached"], 0.0)) if len(values) else values


def order(values: pd.DataFrame) -> list[str]:
    """The methods, the best first."""
    means = values.groupby("name")["arrived"].mean()
    return list(means.sort_values(ascending=False).index)


def mean_of(rows: pd.DataFrame, score: str) -> str:
    """The mean over pairs with its interval, as text."""
    means = Bootstrap(rows["category"].tolist()).means(rows[[score]].to_numpy(float))
    return interval(means.mean[0], means.low[0], means.high[0])


def overall(values: pd.DataFrame, name: str) -> TextTable:
    """A row for each method."""
    rows = []
    for method in order(values):
        part = values[values["name"] == method]
        where = "" if method == "prompt" else sites_text(part["blocks"].iloc[0])
        cells = [mean_of(part, score) for score in ("arrived", *SCORES)]
        rows.append([method, where, f"{part['reached'].sum()}/{len(part)}", *cells])
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


def counts_table(values: pd.DataFrame) -> TextTable:
    """``arrived`` and the margin by number of contrasts."""
    numbers = sorted(values["count"].unique())
    rows = []
    for method in CURVE:
        part = values[values["name"] == method]
        for score in ("arrived", "risen"):
            cells = [mean_of(part[part["count"] == count].fillna({"risen": 0}), score) for count in numbers]
            rows.append([method, "rise of the margin" if score == "risen" else score, *cells])
    title = (
        f"**Number of contrasts**, on {values['pair'].nunique()} default pairs; a pair that does not reach the LPIPS"
    )
    return TextTable(f"{title} counts as 0.", ["method", "score", *(f"{n:.0f}" for n in numbers)], rows, left=2)


def singles(work: Path) -> pd.DataFrame:
    """The values of ``sae-feature`` with each kind of SAE, on both sets of pairs together."""
    runs = {"single-default": "default", "single-entangled": "entangled", "kinds": "default"}
    frames = [read_values([work / folder]).assign(set=which) for folder, which in runs.items()]
    return with_arrived(pd.concat([frame for frame in frames if len(frame)] or frames))


def single_table(values: pd.DataFrame) -> TextTable:
    """A row for each kind of SAE and each set of pairs."""
    rows = []
    for sae in values["sae"].unique():
        parts = [values[values["sae"] == sae]]
        if parts[0]["set"].nunique() > 1:
            parts = [part for _, part in parts[0].groupby("set")] + parts
        for part in parts:
            cells = [mean_of(part, score) for score in ("arrived", *SCORES)]
            rows.append([sae, " and ".join(part["set"].unique()), f"{part['reached'].sum()}/{len(part)}", *cells])
    title = f"**One feature carries the concept**, the best detector on {FEW} contrasts, at LPIPS 0.05."
    return TextTable(title, ["SAE", "pairs", "reached", "arrived", *SCORES], rows, left=2)


def single_difference(values: pd.DataFrame, sae: str, score: str) -> pd.Series:
    """Trained minus another SAE, by category and pair, of the pairs that have both."""
    wide = values.pivot(index=["category", "pair"], columns="sae", values=score)
    return (wide["trained"] - wide[sae]).dropna()


def difference_table(values: pd.DataFrame) -> TextTable:
    """Trained minus other SAEs on the same pairs, with the number of pairs that would tell them apart."""
    others = [sae for sae in values["sae"].unique() if sae != "trained"]
    rows = [
        [f"trained minus {sae}", score, *difference_cells(single_difference(values, sae, score))]
        for sae in others
        for score in DIFFERENCES
    ]
    title = (
        "**Trained against other SAEs, one feature**: paired differences; needed: pairs for power .8 at 5 % (t-test)."
    )
    return TextTable(title, ["SAEs", "score", "pairs", "difference", "needed"], rows, left=2)


def growing(values: pd.DataFrame, sae: str, score: str) -> list[tuple[int, float, float, float]]:
    """Number of pairs, mean difference and interval, for more and more of the first pairs of each category and set."""
    difference = single_difference(values, sae, score)
    place = difference.index.get_level_values("pair").str.split("-").str[-1].astype(int)
    rows = []
    for most in range(int(place.max()) + 1):
        part = difference[place <= most]
        means = Bootstrap(part.index.get_level_values("category").tolist()).means(part.to_numpy(float)[:, None])
        rows.append((len(part), float(means.mean[0]), float(means.low[0]), float(means.high[0])))
    return rows


def growing_table(values: pd.DataFrame) -> TextTable:
    """The differences by edits that arrive and by margin, over the number of pairs."""
    others = [(sae, score) for score in ("arrived", "margin") for sae in SAES[1:] if sae in set(values["sae"])]
    columns = [growing(values, sae, score) for sae, score in others]
    rows = [
        [str(steps[0][0]), *(f"{interval(*step[1:])} ({step[0]})" for step in steps)]
        for number, steps in enumerate(zip(*columns, strict=True))
        if number in (0, 1, 2, 4, 7, 9, 10, 14, 19)
    ]
    title = (
        "**From how many pairs on?** Differences on the first pairs of each category and set (pairs that have both)."
    )
    return TextTable(title, ["pairs", *(f"{score}: trained minus {sae}" for sae, score in others)], rows)


def choosing_table(values: pd.DataFrame) -> TextTable:
    """The rise of the margin on the pairs for the choice, by method and sites."""
    values = values[values["pair"].isin(values.loc[values["reached"], "pair"])]  # of others the masks were not found
    filled = values.assign(risen=values["risen"].fillna(0), where=values["blocks"].map(sites_text))
    table = filled.pivot_table(index="name", columns="where", values="risen", aggfunc="mean", sort=False)
    rows = [[name, *(number(value, 3) for value in table.loc[name])] for name in table.index]
    title = f"**The choice of sites**: mean rise of the margin on {values['pair'].nunique()} pairs of training scenes,"
    return TextTable(f"{title} 0 where a pair does not reach the LPIPS.", ["method", *table.columns], rows)


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
