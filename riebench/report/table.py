"""Tables of a run: how many pairs were attempted and scored, and means with their standard errors."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from riebench.pairs.pair import CATEGORIES
from riebench.records import Record

SHOWN = ("clip_text_edit", "lpips_base", "edit_success", "kept")
GROUP = ["category", "arm", "blocks", "strength"]
ALL = "all"


def arm_labels(records: Sequence[Record]) -> dict[str, str]:
    """For each key the method with those of its options that vary in the run."""
    values: dict[tuple[str, str], set[str]] = {}
    for r in records:
        for name, value in r.setting.options.items():
            values.setdefault((r.setting.method, name), set()).add(str(value))
    labels = {}
    for r in records:
        varied = [f"{n}={v}" for n, v in r.setting.options.items() if len(values[r.setting.method, n]) > 1]
        labels[r.key] = " ".join([r.setting.method, *varied])
    return labels


def to_frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row a record: category, arm, blocks, strength, status and every metric."""
    labels = arm_labels(records)
    rows = [
        {
            "pair": r.pair_id,
            "category": r.category,
            "arm": labels[r.key],
            "blocks": "+".join(r.setting.blocks),
            "strength": r.setting.strength,
            "scored": r.status == "ok",
            "reason": r.reason,
            **r.metrics,
        }
        for r in records
    ]
    return pd.DataFrame(rows)


def summarize(records: Sequence[Record], metrics: Sequence[str] = SHOWN) -> pd.DataFrame:
    """For each category (and all) and setting: pairs attempted and scored, mean and standard error of metrics.

    The standard error is the sample standard deviation over sqrt(n); with fewer than two pairs it is
    undefined. A metric that no record has is left out.
    """
    frame = to_frame(records)
    present = [m for m in metrics if m in frame]
    frame["category"] = frame["category"].map(CATEGORIES)
    both = pd.concat([frame, frame.assign(category=ALL)]) if frame["category"].nunique() > 1 else frame
    order = {name: i for i, name in enumerate([*CATEGORIES.values(), ALL])}
    groups = both.groupby(GROUP, sort=False)
    result = pd.DataFrame({"attempted": groups.size(), "scored": groups["scored"].sum()})
    for metric in present:
        result[metric] = groups[metric].mean()
        result[f"{metric}_se"] = groups[metric].std(ddof=1) / groups[metric].count() ** 0.5
    result = result.reset_index()
    result["_order"] = result["category"].map(order)
    return result.sort_values(["_order", "arm", "blocks", "strength"], kind="stable").drop(columns="_order")


def _cell(mean: float, error: float) -> str:
    if pd.isna(mean):
        return "–"
    return f"{mean:.3f}" if pd.isna(error) else f"{mean:.3f} ± {error:.3f}"


def _titles(summary: pd.DataFrame, names: dict[str, str]) -> dict[str, str]:
    return {m: names.get(m, m) for m in summary.columns if f"{m}_se" in summary}


def metric_titles(lpips_name: str) -> dict[str, str]:
    """How metrics are headed, so that LPIPS on another trunk is not taken for the published one."""
    return {m: m.replace("lpips", lpips_name, 1) for m in ("lpips_base", "lpips_source")}


def rows_of(summary: pd.DataFrame, names: dict[str, str]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of a summary as text."""
    titles = _titles(summary, names)
    head = ["category", "method", "blocks", "strength", "attempted", "scored", *titles.values()]
    body = [
        [str(row[c]) for c in ("category", "arm", "blocks")]
        + [f"{row['strength']:g}", f"{row['attempted']:d}", f"{row['scored']:d}"]
        + [_cell(row[m], row[f"{m}_se"]) for m in titles]
        for row in summary.to_dict("records")
    ]
    return head, body


def print_table(summary: pd.DataFrame, names: dict[str, str], console: Console) -> None:
    """Show a summary; columns that say the same in every row go into the title."""
    head, body = rows_of(summary, names)
    same = [i for i in (1, 2) if len({row[i] for row in body}) == 1]
    title = ", ".join([*(body[0][i] for i in same), "mean ± standard error over pairs"])
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown = [i for i in range(len(head)) if i not in same]
    for i in shown:
        table.add_column(head[i], justify="left" if i < 3 else "right", no_wrap=True)
    last = None
    for row in body:
        if last is not None and row[0] != last:
            table.add_section()
        table.add_row(*["" if i == 0 and row[0] == last else row[i].replace(" ± ", "±") for i in shown])
        last = row[0]
    console.print(table)


def to_markdown(summary: pd.DataFrame, names: dict[str, str]) -> str:
    """A summary as a Markdown table."""
    head, body = rows_of(summary, names)
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *body]]
    return "\n".join(lines) + "\n"
