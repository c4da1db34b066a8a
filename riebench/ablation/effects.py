"""The effects of zeroing each set of blocks: means over prompts with intervals. Needs no torch."""

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


def effects(ablation: Ablation, zeroings: Sequence[Zeroing]) -> pd.DataFrame:
    """A row for each set of blocks, in their order.

    Columns: ``blocks``, ``together`` (how many), ``prompts`` (that have a picture), and for each of :data:`MEASURES`
    and each attribute (``changed_colour``) the mean over prompts, its 95 % interval (``_low``, ``_high``) by bootstrap
    over prompts, and for attributes the number of prompts whose untouched picture shows them (``_prompts``). One set of
    resamples serves all columns. ``beyond_sum`` is left out if no set has it; undefined numbers are NaN.
    """
    frame = pd.DataFrame(
        [{"seed": zeroing.seed, "blocks": set_name(zeroing.blocks), **measured(zeroing)} for zeroing in zeroings]
    )
    names = [set_name(blocks) for blocks in ablation.sets]
    values = {
        str(column): frame.pivot(index="seed", columns="blocks", values=column)[names].to_numpy(float)
        for column in frame.columns.drop(["seed", "blocks"])
    }
    beyond = beyond_sum(values["lpips"], ablation.sets)
    if not np.isnan(beyond).all():
        values["beyond_sum"] = beyond
    table = pd.DataFrame(
        {
            "blocks": names,
            "together": [len(blocks) for blocks in ablation.sets],
            "prompts": np.isfinite(values["lpips"]).sum(0),
        }
    )
    resamples = Bootstrap([0] * len(values["lpips"]))
    for column, matrix in values.items():
        means = resamples.means(matrix)
        table[column], table[f"{column}_low"], table[f"{column}_high"] = means.mean, means.low, means.high
        if column.startswith(CHANGED):
            table[f"{column}_prompts"] = means.count
    return table


def attributes_in(table: pd.DataFrame) -> list[str]:
    """The attributes that a table of effects has."""
    names = [str(column).removeprefix(CHANGED) for column in table if str(column).startswith(CHANGED)]
    return [name for name in names if not name.endswith(("_low", "_high", "_prompts"))]


def measured(zeroing: Zeroing) -> dict[str, float]:
    """The measures of a record. An attribute is changed (1) if it reads otherwise than in the untouched picture or is
    no longer to be seen, else not (0); one that the untouched picture does not show has no value."""
    nan = float("nan")
    clip, untouched = (nan if value is None else value for value in (zeroing.clip, zeroing.clip_untouched))
    measures = {"lpips": nan if zeroing.lpips is None else zeroing.lpips, "clip": clip, "clip_change": clip - untouched}
    if zeroing.untouched is None or zeroing.zeroed is None:
        return measures
    changed = {
        f"{CHANGED}{name}": float(zeroing.zeroed.get(name) != value) for name, value in zeroing.untouched.items()
    }
    return measures | {"kept": share_kept(zeroing.untouched, zeroing.zeroed)} | changed


def beyond_sum(lpips: Array, sets: Sequence[BlockSet]) -> Array:
    """LPIPS of each set of several blocks less the sum of that of its blocks alone ``[prompts, sets]``.

    Above zero, the blocks stand in for one another; below, they do the same damage. NaN for a block alone, and where
    not every block of a set was zeroed alone, too.
    """
    alone = {blocks[0]: lpips[:, place] for place, blocks in enumerate(sets) if len(blocks) == 1}
    beyond = np.full_like(lpips, np.nan)
    for place, blocks in enumerate(sets):
        if len(blocks) > 1 and alone.keys() >= set(blocks):
            beyond[:, place] = lpips[:, place] - sum(alone[block] for block in blocks)
    return beyond
