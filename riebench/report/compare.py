"""Compare two runs: changes of the metrics by category, and the pairs that changed most."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from riebench.pairs.pair import CATEGORIES
from riebench.records.image_hashes import IMAGES
from riebench.records.schema import ALL_STEPS
from riebench.report.arms import arms_of, scopes_of, searched_for
from riebench.report.curves import SHOWN
from riebench.report.frame import ANY, COLUMNS
from riebench.report.groups import PAIR, SAME, Group, made_otherwise, measured_otherwise, read_groups
from riebench.report.matching import cross
from riebench.report.sheet import compose, tile
from riebench.report.texttable import (
    TextTable,
    digits_of,
    interval,
    markdown_table,
    number,
    p_value,
    print_table,
    write_csv,
)
from riebench.settings.lpips_search import WITHIN
from riebench.stats.resample import Bootstrap, holm, sign_flip, too_narrow
from riebench.util.errors import UserError, unknown

log = logging.getLogger(__name__)
ARM = ["method", "options", "k", "blocks", "on_steps"]
AT = "at"
"""The LPIPS that numbers are read at; null for numbers at a strength."""


@dataclass(frozen=True)
class Comparison:
    """Run B against run A, over the pairs and settings that both scored.

    Attributes:
        a: folder of the one run.
        b: folder of the other.
        settings: number of settings that both have: methods at strengths, and at LPIPS that both searched for.
        pairs: number of pairs with at least one setting that both scored.
        attempted: number of pairs in at least one of the runs.
        table: a row for each category and metric, at the strengths and at each LPIPS (``at``) that both runs searched
            for: mean of B minus A over pairs, interval, p-values.
        changed: the pairs that changed most: id, category, prompts, difference, and the setting that changed most.
        metric: by which ``changed`` is sorted.
    """

    a: Path
    b: Path
    settings: int
    pairs: int
    attempted: int
    table: pd.DataFrame
    changed: pd.DataFrame
    metric: str


def compare(a: Path, b: Path, metric: str = "clip_text_edit", top: int = 10) -> Comparison:
    """Compare two runs.

    Records are matched by pair and setting, at the strengths that were asked for: those that a search tried differ from
    pair to pair, so that means over them would be of other settings for each pair. At each LPIPS that both runs
    searched for, the scores of each pair at that LPIPS are compared, as a leaderboard has them. If the runs have no
    setting in common, and each has a single method with one set of options and blocks, these are matched. Each pair
    counts once, by its mean over the settings. P-values come from paired sign flips with Holm's correction over the
    whole table.

    Raises:
        UserError: if a run cannot be read, the runs may not be compared, or the metric is unknown.
    """
    first, second = (_only(path) for path in (a, b))
    _check_same(first, second)
    metrics = [name for name in map(str, first.frame) if name in second.frame and name not in COLUMNS]
    both = _side_by_side(first.frame, second.frame, metrics)
    if metric not in metrics:
        raise unknown("metric", metric, metrics)
    for name in metrics:
        both[name] = both[f"{name}_b"] - both[f"{name}_a"]
    shown = [m for m in SHOWN if m in metrics] + ([metric] if metric not in SHOWN else [])
    if other := [name for name in measured_otherwise(first, second) if name in shown]:
        why = "measured by different networks or commands; score both runs with one, or choose another --metric"
        raise UserError(f"the runs have {other[0]} {why}")
    parts = [part for _, part in both.groupby(AT, dropna=False)]
    parts.sort(key=lambda part: part[AT].fillna(-1).iloc[0])
    table = pd.concat([_differences_of(part, shown) for part in parts], ignore_index=True)
    return Comparison(
        a,
        b,
        int(sum(part["setting"].nunique() for part in parts)),
        both["pair_id"].nunique(),
        len(set(first.frame["pair_id"]) | set(second.frame["pair_id"])),
        table.assign(p_holm=holm(table["p"].to_numpy())),
        _changed(parts[0], metric, top),
        metric,
    )


def _only(path: Path) -> Group:
    groups, why = read_groups([path])
    if len(groups) > 1:
        raise UserError(f"the run {path} mixes records that must not be compared ({'; '.join(why)}); split it first")
    if (groups[0].frame.groupby(ARM, dropna=False)["part_sae"].nunique() > 1).any():
        raise UserError(f"the run {path} holds a method with several SAEs; split it by SAE first")
    return groups[0]


def _check_same(first: Group, second: Group) -> None:
    differs = [n for n in first.same if first.same[n] != second.same.get(n)]
    if differs or (first.frame[SAME].iloc[0] != second.frame[SAME].iloc[0]).any():
        values = ", ".join(f"{n} ({first.same[n]}, {second.same.get(n)})" for n in differs)
        raise UserError(
            f"the runs differ in {values}; only runs of the same model, protocol and scorers can be compared"
        )
    for what in made_otherwise(first, second):
        log.warning("the runs were made with another %s, so differences may come from it", what)
    pairs = [g.frame.drop_duplicates("pair_id").set_index("pair_id")[PAIR] for g in (first, second)]
    shared = pairs[0].index.intersection(pairs[1].index)
    if not len(shared):
        raise UserError("the runs have no pair in common; compare runs over the same pairs")
    other = (pairs[0].loc[shared] != pairs[1].loc[shared]).any(axis=1)
    if other.any():
        raise UserError(
            f"the pair {other.idxmax()!r} has other prompts or another seed in the other run; compare like with like"
        )


def _side_by_side(first: pd.DataFrame, second: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """What both runs scored, side by side: at strengths, and at each LPIPS that both searched for.

    Returns:
        The columns of records with the ends ``_a`` and ``_b``, and ``setting``, a number for each.
    """
    budgets = [searched_for(frame) for frame in (first, second)]
    common = sorted(set(budgets[0]) & set(budgets[1]))
    scored = [frame[frame["status"] == "ok"] for frame in (first, second)]
    at_strengths = [_asked_for(frame).assign(**{AT: np.nan}) for frame in scored]
    left_out = sum(map(len, scored)) - sum(map(len, at_strengths))
    if left_out and not common:
        searched = " and ".join(", ".join(f"{budget:g}" for budget in each) or "none" for each in budgets)
        why = f"the runs searched for no LPIPS in common ({searched})"
        log.warning("%d records at strengths that a search tried are left out, as %s", left_out, why)
    found = [_matched(at_strengths, "strength")]
    if common:
        found.append(_matched([_read_at(frame, common, metrics) for frame in (first, second)], AT))
    found = [each for each in found if len(each)]
    if not found:
        known = "the runs scored no pair with a setting in common"
        raise UserError(f"{known}; compare runs with the same methods, or with one method each")
    return pd.concat(found, ignore_index=True)


def _matched(sides: Sequence[pd.DataFrame], place: str) -> pd.DataFrame:
    """The rows of two runs that have a pair and a setting in common; ``place`` is the strength or the LPIPS."""
    for keys in ([*ARM, place], [place]):
        if keys == [place] and [len(frame.drop_duplicates(ARM)) for frame in sides] != [1, 1]:
            break
        both = sides[0].merge(sides[1], on=["pair_id", "category", *dict.fromkeys((*keys, AT))], suffixes=("_a", "_b"))
        if len(both):
            return both.assign(setting=both.groupby(keys, dropna=False).ngroup())
    return pd.DataFrame()


def _asked_for(frame: pd.DataFrame) -> pd.DataFrame:
    """The records at strengths that were asked for, of each method on its own; those that a search tried are left out.

    A strength that was asked for may have been tried for a pair before.
    """
    return frame.merge(frame.loc[frame["at_lpips"].isna(), [*ARM, "strength"]].drop_duplicates())


def _read_at(frame: pd.DataFrame, budgets: Sequence[float], metrics: Sequence[str]) -> pd.DataFrame:
    """The scores of each pair and method at LPIPS budgets, with the key of the record whose LPIPS is nearest."""
    pairs, arms = arms_of(frame)
    about = frame.drop_duplicates("pair_id").set_index("pair_id")[PAIR].loc[pairs.ids].reset_index()
    parts = []
    for arm in arms:
        searched = set(searched_for(arm.records))
        for place, k in enumerate(arm.ks):
            lpips = arm.along("lpips_base", place)
            crossing = cross(lpips, np.asarray(budgets, float), WITHIN)
            read = {metric: crossing.read(arm.along(metric, place)) for metric in metrics}
            strengths = np.where(np.isnan(lpips), np.nan, arm.along("strength", place))
            of_k = arm.records[arm.records["k"].fillna(-1) == (-1 if k is None else k)]
            for i, budget in enumerate(budgets):
                if budget not in searched:
                    continue
                nearest = np.nanargmin(np.append(np.abs(lpips - budget), np.full((len(lpips), 1), np.inf), 1), 1)
                strength = np.append(strengths, np.full((len(lpips), 1), np.nan), 1)[np.arange(len(lpips)), nearest]
                of_arm = about.assign(options=arm.records["options"].iloc[0], k=np.nan if k is None else float(k))
                of_arm = of_arm.assign(method=arm.method, blocks=arm.blocks, on_steps=arm.on_steps, strength=strength)
                of_arm = of_arm.assign(**{AT: budget}, **{metric: values[:, i] for metric, values in read.items()})
                parts.append(of_arm.merge(of_k[["pair_id", "strength", "key"]], on=["pair_id", "strength"]))
    return pd.concat(parts, ignore_index=True).dropna(subset=["clip_text_edit"])


def _differences_of(both: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    """Mean differences over pairs by category, with intervals and p-values; each pair counts by its mean."""
    by_pair = both.groupby("pair_id")[metrics].mean()
    categories = both.groupby("pair_id")["category"].first().to_numpy(np.intp)
    boot, parts = Bootstrap(categories.tolist()), scopes_of(categories)
    values = by_pair.to_numpy(np.float64)
    columns = np.concatenate([np.where(members[:, None], values, np.nan) for members in parts.values()], 1)
    means = boot.means(columns)
    return pd.DataFrame(
        {
            "category": [scope for scope in parts for _ in metrics],
            AT: both[AT].iloc[0],
            "metric": metrics * len(parts),
            "pairs": means.count,
            "difference": means.mean,
            "low": means.low,
            "high": means.high,
            "p": sign_flip(columns),
        }
    )


def _changed(both: pd.DataFrame, metric: str, top: int) -> pd.DataFrame:
    """The pairs with the largest mean change, each with the record that changed most."""
    change = both.groupby("pair_id")[metric].mean()
    size = change.abs()
    order = size[size > 0].sort_values(ascending=False, kind="stable").index[:top]
    rows = []
    for pair in order:
        of_pair = both[both["pair_id"] == pair]
        most = of_pair.loc[of_pair[metric].abs().idxmax()]
        rows.append(
            {
                "pair_id": pair,
                "category": CATEGORIES[int(most["category"])],
                "original_prompt": most["original_prompt_a"],
                "editing_prompt": most["editing_prompt_a"],
                "difference": change[pair],
                "strength": most.get("strength", np.nan),
                AT: most[AT],
                "method": most.get("method", most.get("method_b")),
                "blocks": most.get("blocks", most.get("blocks_b")),
                "on_steps": most.get("on_steps", most.get("on_steps_b")),
                "key_a": most["key_a"],
                "key_b": most["key_b"],
            }
        )
    return pd.DataFrame(rows)


def _place(strength: float, at: float) -> str:
    """A strength, or the LPIPS in its place, as text."""
    return f"{strength:g}" if np.isnan(at) else f"LPIPS {at:g}"


def comparison_tables(comparison: Comparison) -> list[TextTable]:
    """The two tables of a comparison."""
    metrics = list(dict.fromkeys(comparison.table["metric"]))
    digits = {str(name): digits_of(part) for name, part in comparison.table.groupby("metric")["difference"]}
    rows = []
    searched = bool(comparison.table[AT].notna().any())
    for _, of_scope in comparison.table.groupby(["category", AT], sort=False, dropna=False):
        scope, at, most = of_scope["category"].iloc[0], float(of_scope[AT].iloc[0]), of_scope["pairs"].max()
        place = ["strengths" if np.isnan(at) else f"LPIPS {at:g}"] if searched else []
        cells = [str(scope), *place, str(most)]
        for row in of_scope.to_dict("records"):
            fewer = f" ({row['pairs']})" if row["pairs"] < most else ""
            cells.append(interval(row["difference"], row["low"], row["high"], digits[row["metric"]]) + fewer)
            cells.append(p_value(row["p_holm"]))
        rows.append(cells)
    head = ["category", *["at"] * searched, "pairs", *(text for m in metrics for text in (m, "p (Holm)"))]
    left = 1 + searched
    title = (
        f"{comparison.b} minus {comparison.a}: {comparison.settings} settings, "
        f"{comparison.pairs} of {comparison.attempted} pairs scored by both; "
        "mean over pairs, 95 % bootstrap interval (in round brackets: pairs, where a metric has fewer)"
        + too_narrow(comparison.table["pairs"])
    )
    if comparison.changed.empty:
        return [TextTable(title, head, rows, left), TextTable(f"No pair changed by {comparison.metric}", ["pair"], [])]
    changed = []
    for row in comparison.changed.to_dict("records"):
        steps = "" if row["on_steps"] in (ALL_STEPS, ANY) else f"steps {row['on_steps']}, "
        most = f"{row['method']}, {row['blocks']}, {steps}{_place(row['strength'], row[AT])}"
        changed.append([row["pair_id"], row["category"], number(row["difference"], digits[comparison.metric]), most])
    titles = ["pair_id", "category", "mean change", "most at"]
    return [
        TextTable(title, head, rows, left),
        TextTable(f"Pairs that changed most by {comparison.metric}", titles, changed, left=2),
    ]


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Show a comparison in the terminal."""
    for table in comparison_tables(comparison):
        print_table(table, console)


def write_comparison(comparison: Comparison, out: Path) -> list[Path]:
    """Write ``compare.md``, ``compare.csv``, ``changed.csv`` and, if the runs have pictures, ``changed.png``.

    Raises:
        UserError: if the folder cannot be written.
    """
    paths = [out / name for name in ("compare.md", "compare.csv", "changed.csv")]
    try:
        out.mkdir(parents=True, exist_ok=True)
        parts = [f"{table.title}\n\n{markdown_table(table)}" for table in comparison_tables(comparison)]
        paths[0].write_text("\n".join(parts), encoding="utf-8")
        write_csv(comparison.table, paths[1])
        write_csv(comparison.changed, paths[2])
        picture = _pictures(comparison, out / "changed.png")
    except OSError as error:
        raise UserError(f"the folder {out} cannot be written ({error.strerror or error}); give another --out") from None
    return [*paths, picture] if picture else paths


def _pictures(comparison: Comparison, path: Path) -> Path | None:
    """Base, source, A and B of the pairs that changed most; None if no run has pictures."""
    rows = []
    for row in comparison.changed.to_dict("records"):
        names = {"base": "base", "source": "source", "A": row["key_a"], "B": row["key_b"]}
        tiles = []
        for label, name in names.items():
            folders = {"A": [comparison.a], "B": [comparison.b]}.get(label, [comparison.a, comparison.b])
            files = [(f if f.is_dir() else f.parent) / IMAGES / f"{row['pair_id']}-{name}.png" for f in folders]
            tiles.append((label, next((t for t in map(tile, files) if t is not None), None)))
        if any(t is not None for _, t in tiles):
            place = f"{'strength ' if np.isnan(row[AT]) else ''}{_place(row['strength'], row[AT])}"
            change = f"{row['difference']:+.3f}, {place}"
            rows.append((f"{row['pair_id']} ({change}): {row['original_prompt']}  ->  {row['editing_prompt']}", tiles))
    title = f"Pairs that changed most by {comparison.metric}; A {comparison.a}, B {comparison.b}"
    if not rows:
        return None
    compose(title, rows).save(path)
    return path
