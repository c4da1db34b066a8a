"""Compare two runs: changes of the metrics by category, and the pairs that changed most."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from riebench.pairs.pair import CATEGORIES
from riebench.records.image_hashes import IMAGES
from riebench.records.schema import ALL_STEPS
from riebench.report.arms import scopes_of
from riebench.report.curves import SHOWN
from riebench.report.frame import ANY, COLUMNS
from riebench.report.groups import PAIR, SAME, Group, made_otherwise, measured_otherwise, read_groups
from riebench.report.sheet import compose, tile
from riebench.report.texttable import TextTable, interval, markdown_table, number, p_value, print_table, write_csv
from riebench.stats.resample import Bootstrap, holm, sign_flip
from riebench.util.errors import UserError, unknown

log = logging.getLogger(__name__)
CELL = ["method", "options", "k", "blocks", "on_steps", "strength"]


@dataclass(frozen=True)
class Comparison:
    """Run B against run A, over the pairs and settings that both scored.

    Attributes:
        a: folder of the one run.
        b: folder of the other.
        settings: number of settings that both have.
        pairs: number of pairs with at least one setting that both scored.
        attempted: number of pairs in at least one of the runs.
        table: a row for each category and metric: mean of B minus A over pairs, interval, p-values.
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
    pair to pair, so that means over them would be of other settings for each pair. If the runs have no setting in
    common, and each has a single method with one set of options and blocks, records are matched by pair and strength.
    Each pair counts once, by its mean over the settings. P-values come from paired sign flips with Holm's correction
    over the whole table.

    Raises:
        UserError: if a run cannot be read, the runs may not be compared, or the metric is unknown.
    """
    first, second = (_only(path) for path in (a, b))
    _check_same(first, second)
    both, keys = _side_by_side(first.frame, second.frame)
    sides = [c.removesuffix("_a") for c in map(str, both.columns) if c.endswith("_a")]
    metrics = [name for name in sides if name not in COLUMNS]
    if metric not in metrics:
        raise unknown("metric", metric, metrics)
    for name in metrics:
        both[name] = both[f"{name}_b"] - both[f"{name}_a"]
    shown = [m for m in SHOWN if m in metrics] + ([metric] if metric not in SHOWN else [])
    if other := [name for name in measured_otherwise(first, second) if name in shown]:
        why = "measured by different networks or commands; score both runs with one, or choose another --metric"
        raise UserError(f"the runs have {other[0]} {why}")
    by_pair = both.groupby("pair_id")[shown].mean()
    by_pair["category"] = both.groupby("pair_id")["category"].first()
    return Comparison(
        a,
        b,
        len(both.drop_duplicates(keys)),
        len(by_pair),
        len(set(first.frame["pair_id"]) | set(second.frame["pair_id"])),
        _differences_of(by_pair, shown),
        _changed(both, by_pair, metric, top),
        metric,
    )


def _only(path: Path) -> Group:
    groups, why = read_groups([path])
    if len(groups) > 1:
        raise UserError(f"the run {path} mixes records that must not be compared ({'; '.join(why)}); split it first")
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


def _side_by_side(first: pd.DataFrame, second: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The records that both runs scored, side by side, and the columns that they were matched by."""
    scored = [_asked_for(frame[frame["status"] == "ok"]) for frame in (first, second)]
    for keys in (CELL, ["strength"]):
        arms = [len(frame.drop_duplicates([k for k in CELL if k != "strength"])) for frame in scored]
        if keys == ["strength"] and arms != [1, 1]:
            break
        both = scored[0].merge(scored[1], on=["pair_id", "category", *keys], suffixes=("_a", "_b"))
        if len(both):
            return both, keys
    raise UserError("the runs scored no pair with a setting in common; compare runs with the same methods, or one each")


def _asked_for(frame: pd.DataFrame) -> pd.DataFrame:
    """The records at strengths that were asked for, of each method on its own; those that a search tried are left out.

    A strength that was asked for may have been tried for a pair before.
    """
    asked = frame.loc[frame["at_lpips"].isna(), CELL].drop_duplicates()
    kept = frame.merge(asked, on=CELL)
    if len(kept) < len(frame):
        left_out = "records at strengths that a search of an LPIPS tried are left out"
        log.warning("%d %s; 'riebench report' compares both runs at that LPIPS", len(frame) - len(kept), left_out)
    return kept


def _differences_of(by_pair: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    boot = Bootstrap(by_pair["category"].tolist())
    values = by_pair[metrics].to_numpy(np.float64)
    parts = scopes_of(by_pair["category"].to_numpy(np.intp))
    columns = np.concatenate([np.where(members[:, None], values, np.nan) for members in parts.values()], 1)
    means, p = boot.means(columns), sign_flip(columns)
    return pd.DataFrame(
        {
            "category": [scope for scope in parts for _ in metrics],
            "metric": metrics * len(parts),
            "pairs": means.count,
            "difference": means.mean,
            "low": means.low,
            "high": means.high,
            "p": p,
            "p_holm": holm(p),
        }
    )


def _changed(both: pd.DataFrame, by_pair: pd.DataFrame, metric: str, top: int) -> pd.DataFrame:
    """The pairs with the largest mean change, each with the record that changed most."""
    size = by_pair[metric].abs()
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
                "difference": by_pair.loc[pair, metric],
                "strength": most["strength"],
                "method": most.get("method", most.get("method_b")),
                "blocks": most.get("blocks", most.get("blocks_b")),
                "on_steps": most.get("on_steps", most.get("on_steps_b")),
                "key_a": most["key_a"],
                "key_b": most["key_b"],
            }
        )
    return pd.DataFrame(rows)


def comparison_tables(comparison: Comparison) -> list[TextTable]:
    """The two tables of a comparison."""
    metrics = list(dict.fromkeys(comparison.table["metric"]))
    rows = []
    for scope, of_scope in comparison.table.groupby("category", sort=False):
        most = of_scope["pairs"].max()
        cells = [str(scope), str(most)]
        for row in of_scope.to_dict("records"):
            fewer = f" ({row['pairs']})" if row["pairs"] < most else ""
            cells.append(interval(row["difference"], row["low"], row["high"]) + fewer)
            cells.append(p_value(row["p_holm"]))
        rows.append(cells)
    head = ["category", "pairs", *(text for m in metrics for text in (m, "p (Holm)"))]
    title = (
        f"{comparison.b} minus {comparison.a}: {comparison.settings} settings, "
        f"{comparison.pairs} of {comparison.attempted} pairs scored by both; "
        "mean over pairs, 95 % bootstrap interval (in round brackets: pairs, where a metric has fewer)"
    )
    if comparison.changed.empty:
        return [TextTable(title, head, rows), TextTable(f"No pair changed by {comparison.metric}", ["pair"], [])]
    changed = []
    for row in comparison.changed.to_dict("records"):
        steps = "" if row["on_steps"] in (ALL_STEPS, ANY) else f"steps {row['on_steps']}, "
        most = f"{row['method']}, {row['blocks']}, {steps}{row['strength']:g}"
        changed.append([row["pair_id"], row["category"], number(row["difference"]), most])
    titles = ["pair_id", "category", "mean change", "most at"]
    return [
        TextTable(title, head, rows),
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
            change = f"{row['difference']:+.3f}, strength {row['strength']:g}"
            rows.append((f"{row['pair_id']} ({change}): {row['original_prompt']}  ->  {row['editing_prompt']}", tiles))
    title = f"Pairs that changed most by {comparison.metric}; A {comparison.a}, B {comparison.b}"
    if not rows:
        return None
    compose(title, rows).save(path)
    return path
