"""The scores of a run at the LPIPS of the study, a row for each pair, method and set of sites."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from riebench.report.arms import arms_of
from riebench.report.frame import load_records
from riebench.report.matching import cross
from riebench.settings.lpips_search import WITHIN

SCORES = ("edit_success", "kept", "margin", "gain")
LPIPS = 0.05


def read_values(folders: Sequence[Path]) -> pd.DataFrame:
    """Columns: pair, category, name, blocks, count (of contrasts), sae (its kind), reached, the scores, and ``risen``.

    Scores are NaN where a pair does not reach the LPIPS. ``risen`` is the margin minus that of the base picture.
    """
    frames = [load_records(str(folder)) for folder in folders if any(folder.glob("records.jsonl*"))]
    if not frames:
        return pd.DataFrame(columns=["pair", "category", "name", "blocks", "count", "sae", "reached", *SCORES, "risen"])
    frame = pd.concat(frames)
    base = (
        frame.dropna(subset=["clip_text_edit_base"])
        .groupby("pair_id")[["clip_text_edit_base", "clip_text_original_base"]]
        .first()
    )
    # A failed record does not say how many features it had; without its arm's number it would be an arm of its own.
    known = frame["k_used"].astype(float)
    frame["k_used"] = known.fillna(
        known.groupby([frame[name] for name in ("method", "options", "blocks")]).transform("max")
    )
    rows = []
    pairs, arms = arms_of(frame)
    for arm in arms:
        first = arm.records.iloc[0]
        options = json.loads(first["options"])
        crossing = cross(arm.along("lpips_base", 0), np.array([LPIPS]), WITHIN)
        values = {name: crossing.read(arm.along(name, 0))[:, 0] for name in arm.values}
        if first["method"] == "prompt":  # its picture is the same at all strengths: the ceiling, at an LPIPS of its own
            values = {name: array[:, 0, 0] for name, array in arm.values.items()}
        for number, pair in enumerate(pairs.ids):
            if not arm.attempted[number]:
                continue
            edit, original = values["clip_text_edit"][number], values["clip_text_original"][number]
            margin = edit - original
            rows.append(
                {
                    "pair": pair,
                    "category": int(pairs.categories[number]),
                    "name": name_of(str(first["method"]), options),
                    "blocks": str(first["blocks"]),
                    "count": options.get("count"),
                    "sae": options.get("kind"),
                    "reached": bool(np.isfinite(edit)),
                    "edit_success": values["edit_success"][number],
                    "kept": values["kept"][number],
                    "margin": margin,
                    "gain": edit - base["clip_text_edit_base"].get(pair, np.nan),
                    "risen": margin - (base["clip_text_edit_base"] - base["clip_text_original_base"]).get(pair, np.nan),
                }
            )
    return pd.DataFrame(rows)


def name_of(method: str, options: Mapping[str, object]) -> str:
    """A method as tables name it: with how it chooses, if it does."""
    return f"{method} {options['choose']}" if "choose" in options else method
