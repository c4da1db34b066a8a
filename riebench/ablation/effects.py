"""What zeroing each set of blocks does, over prompts: means with intervals. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from riebench.ablation.ablation_folder import Ablation, Zeroing, set_name
from riebench.ablation.ablation_request import BlockSet
from riebench.features.scores.causality import share_kept
from riebench.stats.resample import Array, Bootstrap

MEASURES = {
    "lpips": "LPIPS",
    "clip": "CLIP",
    "clip_change": "CLIP change",
    "kept": "kept",
    "beyond_sum": "LPIPS beyond the sum",
}
"""Columns of the table of effects with their headings."""
CHANGED = "changed_"
"""How the columns of the attributes begin."""


def effects(asked: Ablation, zeroings: Sequence[Zeroing]) -> pd.DataFrame:
    """A row for each set of blocks, in their order.

    Columns: ``blocks``, ``together`` (how many), ``prompts`` (that have a picture), and for each of :data:`MEASURES`
    and each attribute (``changed_colour``) the mean over prompts, its 95 % interval (``_low``, ``_high``) by bootstrap
    over prompts, and for attributes the number of prompts whose untouched picture shows them (``_prompts``). One set of
    resamples serves all columns. What lies beyond the sum is left out where nothing has it; undefined numbers are NaN.
    """
    frame = pd.DataFrame([{"seed": one.seed, "blocks": set_name(one.blocks), **measured(one)} for one in zeroings])
    names = [set_name(blocks) for blocks in asked.sets]
    values = {
        str(column): frame.pivot(index="seed", columns="blocks", values=column)[names].to_numpy(float)
        for column in frame.columns.drop(["seed", "blocks"])
    }
    beyond = beyond_sum(values["lpips"], asked.sets)
    if not np.isnan(beyond).all():
        values["beyond_sum"] = beyond
    found = pd.DataFrame(
        {
            "blocks": names,
            "together": [len(blocks) for blocks in asked.sets],
            "prompts": np.isfinite(values["lpips"]).sum(0),
        }
    )
    resamples = Bootstrap([0] * len(values["lpips"]))
    for column, matrix in values.items():
        means = resamples.means(matrix)
        found[column], found[f"{column}_low"], found[f"{column}_high"] = means.mean, means.low, means.high
        if column.startswith(CHANGED):
            found[f"{column}_prompts"] = means.count
    return found


def attributes_in(table: pd.DataFrame) -> list[str]:
    """The attributes that a table of effects has."""
    names = [str(column).removeprefix(CHANGED) for column in table if str(column).startswith(CHANGED)]
    return [name for name in names if not name.endswith(("_low", "_high", "_prompts"))]


def measured(one: Zeroing) -> dict[str, float]:
    """The measures of a record. An attribute is changed (1) if it reads otherwise than in the untouched picture or is
    no longer to be seen, else not (0); one that the untouched picture does not show has no value."""
    nan = float("nan")
    clip, before = (nan if value is None else value for value in (one.clip, one.clip_untouched))
    found = {"lpips": nan if one.lpips is None else one.lpips, "clip": clip, "clip_change": clip - before}
    if one.untouched is None or one.zeroed is None:
        return found
    changed = {f"{CHANGED}{name}": float(one.zeroed.get(name) != value) for name, value in one.untouched.items()}
    return found | {"kept": share_kept(one.untouched, one.zeroed)} | changed


def beyond_sum(lpips: Array, sets: Sequence[BlockSet]) -> Array:
    """LPIPS of each set of several blocks less the sum of that of its blocks alone ``[prompts, sets]``.

    Above zero, the blocks stand in for one another; below, they do the same damage. NaN for a block alone, and where
    not every block of a set was zeroed alone, too.
    """
    alone = {blocks[0]: lpips[:, place] for place, blocks in enumerate(sets) if len(blocks) == 1}
    found = np.full_like(lpips, np.nan)
    for place, blocks in enumerate(sets):
        if len(blocks) > 1 and alone.keys() >= set(blocks):
            found[:, place] = lpips[:, place] - sum(alone[block] for block in blocks)
    return found
