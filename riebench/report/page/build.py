"""Fill the templates: tables as HTML, curves and pictures as JSON that the page's script draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from riebench.pairs.pair import CATEGORIES
from riebench.report.analysis import Analysis
from riebench.report.arms import CURVE, Arm
from riebench.report.curves import SHOWN
from riebench.report.page.gallery import Pictures, collect_pictures
from riebench.report.reached import counting
from riebench.report.style import colour
from riebench.report.tables import OUTSIDE_MARK, legend, provenance, tables_of
from riebench.util.html import BASE_CSS, COMMON_JS, asset, script_json, templates

HERE = Path(__file__).parent


def _common(analysis: Analysis, title: str) -> dict[str, Any]:
    return {
        "title": title,
        "css": asset(HERE / "page.css", BASE_CSS),
        "same": {"pairs": len(analysis.pairs.ids), **analysis.group.same},
        "tables": tables_of(analysis),
        "legend": legend(analysis),
        "notes": analysis.notes,
        "dots": {name: colour(arm.family) for arm in analysis.arms for name in _names_of(arm)},
    }


def _names_of(arm: Arm) -> list[str]:
    """What an arm is called in tables: its label, with the mark of those outside the denoiser, and with each k."""
    return [arm.label, f"{arm.label} {OUTSIDE_MARK}", *arm.labels.values()]


def write_leaderboard(analysis: Analysis, path: Path) -> None:
    """Write the tables alone as HTML."""
    text = templates(HERE).get_template("leaderboard.html").render(**_common(analysis, "riebench leaderboard"))
    path.write_text(text, encoding="utf-8")


def write_page(analysis: Analysis, path: Path) -> Pictures:
    """Write the page: leaderboard, interactive curves and gallery, in one file.

    Returns:
        The pictures of its gallery.
    """
    pictures = collect_pictures(analysis)
    curves = _curve_points(analysis)
    data = _data(analysis, pictures, curves)
    text = (
        templates(HERE)
        .get_template("page.html")
        .render(
            **_common(analysis, "riebench report"),
            curves=bool(curves),
            pairs=bool(pictures.pairs),
            pictures_summary=pictures.summary,
            budget=None if analysis.rank_at is None else f"{analysis.rank_at:g}",
            runs=provenance(analysis),
            data=script_json(data),
            pictures=[script_json(uris) for uris in pictures.pairs.values()],
            js=asset(HERE / "page.js", COMMON_JS),
        )
    )
    path.write_text(text, encoding="utf-8")
    return pictures


def _data(analysis: Analysis, pictures: Pictures, curves: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The numbers and names that the page's script draws."""
    arms = [
        {
            "label": arm.label,
            "family": arm.family,
            "blocks": arm.blocks,
            "where": arm.where,
            "steps": arm.on_steps,
            "colour": colour(arm.family),
        }
        for arm in analysis.arms
    ]
    axes = (
        f"CLIP with the edit prompt ({analysis.group.clip}) → better",
        f"LPIPS to the base image ({analysis.group.lpips}) ← better",
    )
    return {
        "arms": arms,
        "blocks": [{"blocks": blocks, "where": where} for blocks, where in analysis.block_sets.items()],
        "main": analysis.main_blocks,
        "intervals": analysis.intervals,
        "metrics": analysis.metrics,
        "named": [metric for metric in SHOWN if metric in analysis.metrics],
        "axes": dict(zip(CURVE, axes, strict=True)),
        "curves": curves,
        "images": analysis.images.to_dict("records"),
        "searched": _searched_points(analysis),
        "budget": analysis.rank_at,
        "pairs": _gallery(analysis, pictures),
    }


def _or_null(value: Any) -> float | None:
    return None if value is None or pd.isna(value) or not math.isfinite(value) else round(float(value), 6)


def _searched_points(analysis: Analysis) -> list[dict[str, Any]]:
    """A point for each category, arm, k and LPIPS that was searched for and that some pair reaches."""
    rows = analysis.at_lpips[analysis.at_lpips["pairs"] > 0].to_dict("records")
    return [
        {name: row[name] for name in ("category", "arm", "at_lpips", "pairs")}
        | {"k": None if pd.isna(row["k"]) else int(row["k"])}
        | {"values": [_or_null(row[f"{metric}_mean"]) for metric in analysis.metrics]}
        for row in rows
    ]


def _curve_points(analysis: Analysis) -> list[dict[str, Any]]:
    """A point for each category, arm, k and strength that some pair was scored at."""
    points = []
    for row in analysis.curves[analysis.curves["pairs"] > 0].to_dict("records"):
        point = {"category": row["category"], "arm": row["arm"], "k": None if pd.isna(row["k"]) else int(row["k"])}
        point |= {"strength": row["strength"], "pairs": row["pairs"]}
        ends = ("mean", "low", "high", "pairs")
        point["values"] = [[_or_null(row[f"{metric}_{end}"]) for end in ends] for metric in analysis.metrics]
        points.append(point)
    return points


def _gallery(analysis: Analysis, pictures: Pictures) -> list[dict[str, Any]]:
    """The pairs of the gallery with their records: arm, k, strength, metrics, picture, reason, pictures that count.

    The last is 1 if the score at the ranking budget is of this picture, 2 if it is read between two, 0 otherwise.
    """
    frame = pictures.frame
    count = {} if analysis.rank_at is None else counting(analysis.reached, analysis.rank_at)
    half = dict(zip(analysis.pairs.ids, analysis.pairs.half.tolist(), strict=True))
    rows: dict[str, list[dict[Any, Any]]] = {}
    for row in frame.sort_values(["arm", "k", "strength"], na_position="first").to_dict("records"):
        number, pair = row["arm"], row["pair_id"]
        arm, k = analysis.arms[number], analysis.ks[number][half[pair]]
        strengths = count.get((arm.label, arm.blocks, arm.on_steps, k, pair), ())
        counts = row["strength"] in strengths and (None if pd.isna(row["k"]) else row["k"]) == k
        rows.setdefault(pair, []).append(row | {"counts": len(strengths) * counts})
    return [_gallery_pair(index, pair, rows[pair], analysis.metrics) for index, pair in enumerate(pictures.pairs)]


def _gallery_pair(index: int, pair: str, rows: Sequence[Mapping[Any, Any]], metrics: Sequence[str]) -> dict[str, Any]:
    return {
        "index": index,
        "id": pair,
        "category": CATEGORIES[rows[0]["category"]],
        "original": rows[0]["original_prompt"],
        "editing": rows[0]["editing_prompt"],
        "records": [
            [
                row["arm"],
                None if pd.isna(row["k"]) else int(row["k"]),
                row["strength"],
                [_or_null(row[m]) for m in metrics],
                row["key"],
                None if row["status"] == "ok" else str(row["reason"]),
                row["counts"],
            ]
            for row in rows
        ],
    }
