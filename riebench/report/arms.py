"""Arms: a method with its options on a set of blocks, in all steps or some, and its numbers as arrays.

Arrays are over pairs, k and strengths.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from riebench.pairs.pair import CATEGORIES
from riebench.records.schema import ALL_STEPS, OUTSIDE
from riebench.report.frame import ANY, COLUMNS

Array = NDArray[np.float64]
CURVE = ("clip_text_edit", "lpips_base")
TRUTH = ("edit_success", "kept")
BASE = "clip_text_edit_base"
"""The base image's CLIP similarity with the edit prompt."""
SOURCE = ("clip_text_edit_source", "lpips_source_base")
"""The source image's CLIP similarity with the edit prompt, and its LPIPS to the base image."""
GAIN = "gain"
"""``clip_text_edit`` minus that of the base image."""
ALL = "all"
TOLERANCE = 1e-3
"""Between the numbers of one picture that was made twice, in another batch or on another machine."""
PLACES = ("blocks", "on_steps")
"""Where and when an intervention acts: columns whose value is ``any`` where the numbers are the same for all."""
ARM = ["method", "options", "part_sae", *PLACES]


@dataclass
class Arm:
    """A row of a leaderboard.

    Attributes:
        records: a row for each pair and setting; without the metrics of points that lack CLIP or LPIPS.
        method: canonical name, with the run if several runs have the same setting.
        variant: method, and the options in which it differs from other arms of the method.
        label: variant, with the steps of the intervention if some arm of the method is limited to some steps.
        blocks: short names joined by +, or ``any`` where the numbers are the same whatever the blocks.
        on_steps: an interval as ``1-3``, ``all``, or ``any`` where the numbers are the same whatever the steps.
        where: the blocks as tables name them: ``all 4`` for all blocks of the group together.
        ks: the k of each curve, None for the default or a method without k.
        strengths: the strengths of the request, in growing order.
        values: metric to ``[pairs, ks, strengths]``, NaN where not scored.
        points: metric, and ``strength``, to the path of each pair ``[pairs, ks, places]``: its values at all strengths
            from 0 up, including those of a search, in growing order; NaN after the last.
        tried: which settings of a pair have a record, ``[pairs, ks, strengths]``.
        name: label and blocks.
        family: the method's name without the run; it determines the colour.
        labels: the label for each k; it names k if the arm has several.
        attempted: which pairs have a record.
        scored: which pairs have at least one scored record.
        span: least and greatest LPIPS of each pair, ``[2, pairs]``; infinite where nothing was scored.
        curved: whether some pair has two points of different LPIPS.
        failed: number of failed records.
        outside: whether the arm leaves the denoiser unchanged for every pair.
    """

    records: pd.DataFrame
    method: str
    variant: str
    label: str
    blocks: str
    on_steps: str
    where: str
    ks: list[int | None]
    strengths: list[float]
    values: dict[str, Array]
    points: dict[str, Array]
    tried: NDArray[np.bool_]

    def __post_init__(self) -> None:
        self.name = self.label if self.blocks == ANY else f"{self.label}, {self.where}"
        self.family = self.method.split(" (")[0]
        several = len(self.ks) > 1
        self.labels = {k: f"{self.label} k={'default' if k is None else k}" if several else self.label for k in self.ks}
        # A search may have tried other strengths than the requested ones, or there are none of these.
        searched, found = (~np.isnan(self.points[name]).all((1, 2)) for name in ("strength", "clip_text_edit"))
        self.attempted = np.asarray(self.tried.any((1, 2)) | searched)
        self.scored = np.asarray(~np.isnan(self.values["clip_text_edit"]).all((1, 2)) | found)
        lpips, unscored = self.points["lpips_base"], np.isnan(self.points["lpips_base"])
        lowest, highest = np.where(unscored, np.inf, lpips), np.where(unscored, -np.inf, lpips)
        ends = lowest.min((1, 2), initial=np.inf), highest.max((1, 2), initial=-np.inf)
        self.span: Array = np.stack(ends)
        self.curved = bool((self.span[1] > self.span[0]).any())
        self.failed = int((self.records["status"] != "ok").sum())
        self.outside = set(self.records["acts"].dropna()) == {OUTSIDE}

    def along(self, metric: str, k: int) -> Array:
        """A metric along the path of the k-th k, ``[pairs, places]``."""
        return self.points[metric][:, k]


@dataclass(frozen=True)
class Pairs:
    """The pairs of a group, in the order of all arrays.

    Attributes:
        ids: sorted.
        categories: the number of each pair's category.
        base: CLIP similarity of each pair's base image with the edit prompt; NaN where no record has it.
        source: that of each pair's source image, and its LPIPS to the base image, ``[2, pairs]``; NaN likewise.
        half: 0 or 1 by a hash of the id; strengths are chosen on one half and scored on the other.
        scopes: masks of all pairs and of each category, by name; all pairs only if there is a single category.
        known: whether ``base`` is known for every pair with a scored record.
    """

    ids: list[str]
    categories: NDArray[np.intp]
    base: Array = field(repr=False)
    source: Array = field(repr=False)
    half: NDArray[np.intp] = field(repr=False)
    scopes: dict[str, NDArray[np.bool_]] = field(repr=False)
    known: bool


def half_of(pair: str) -> int:
    """The half of the split, 0 or 1, that a pair belongs to, from its id alone."""
    return hashlib.sha256(pair.encode()).digest()[0] & 1


def searched_for(frame: pd.DataFrame) -> list[float]:
    """The LPIPS budgets that strengths were searched for, in growing order."""
    return sorted({budget for text in frame["at_lpips"].dropna().unique() for budget in json.loads(text)})


def scopes_of(categories: NDArray[np.integer]) -> dict[str, NDArray[np.bool_]]:
    """Masks of all pairs and of each category, by name; all pairs only if there is a single category."""
    present = np.unique(categories)
    each = {CATEGORIES[int(number)]: categories == number for number in present if len(present) > 1}
    return {ALL: np.ones(len(categories), bool), **each}


def arms_of(frame: pd.DataFrame) -> tuple[Pairs, list[Arm]]:
    """Arrays from the records of a group; ``gain`` and ``margin`` are among the metrics."""
    base_of, source_of = _base(frame), frame.reindex(columns=["pair_id", *SOURCE]).groupby("pair_id").mean()
    if "clip_text_edit" in frame:
        frame = frame.assign(gain=frame["clip_text_edit"] - frame["pair_id"].map(base_of))
    if {"clip_text_edit", "clip_text_original"} <= set(frame):
        frame = frame.assign(margin=frame["clip_text_edit"] - frame["clip_text_original"])
    named = [name for name in map(str, frame) if name not in COLUMNS]
    frame = _same_everywhere(_whole_points(_default_k_named(frame), named))
    first = frame.drop_duplicates("pair_id").sort_values("pair_id")
    ids = first["pair_id"].tolist()
    categories = first["category"].to_numpy(np.intp)
    base = base_of.reindex(ids).to_numpy(np.float64)
    scored = np.isin(ids, frame.loc[frame["clip_text_edit"].notna(), "pair_id"].unique())
    pairs = Pairs(
        ids,
        categories,
        base,
        source_of.reindex(ids).to_numpy(np.float64).T,
        np.array([half_of(pair) for pair in ids], np.intp),
        scopes_of(categories),
        not np.isnan(base[scored]).any(),
    )
    labels = _labels(frame)
    index = pd.Index(ids)
    present = [m for m in named if frame[m].notna().any()]
    metrics = list(dict.fromkeys([*CURVE, *(m for m in (GAIN, *TRUTH) if m in present), *present]))
    every = {block for blocks in frame["blocks"].unique() if blocks != ANY for block in blocks.split("+")}
    limited = set(frame.loc[~frame["on_steps"].isin([ALL_STEPS, ANY]), "method"])
    arms = []
    for key, rows in frame.groupby(ARM, sort=False, dropna=False):
        method, options, sae, blocks, on_steps = map(str, key)
        variant, where = labels[method, options, sae], _where(blocks, every)
        words = "all steps" if on_steps == ALL_STEPS else f"steps {on_steps}"
        label = f"{variant} {words}" if method in limited else variant
        arrays = _arrays(rows, index, metrics)
        arms.append(Arm(rows, method, variant, label, blocks, on_steps, where, *arrays))
    return pairs, arms


def _where(blocks: str, every: Set[str]) -> str:
    names = blocks.split("+")
    return f"all {len(names)}" if len(names) > 2 and set(names) == every else blocks


def _whole_points(frame: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """The frame without the metrics of points that lack CLIP or LPIPS, as such a point is on no curve."""
    frame = frame.assign(**{metric: np.nan for metric in CURVE if metric not in metrics})
    whole = frame[list(CURVE)].notna().all(axis=1) & (frame["status"] == "ok")
    frame.loc[~whole, metrics] = np.nan
    return frame


def _default_k_named(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with each default k replaced by the k that was used, if an arm used one k for all pairs."""
    used = frame[frame["k"].isna()].groupby(ARM, dropna=False)["k_used"]
    # A failed record has none, but is of the same arm.
    same = used.transform("first").where(used.transform("nunique") == 1)
    return frame.assign(k=frame["k"].fillna(same))


def _same_everywhere(frame: pd.DataFrame) -> pd.DataFrame:
    """Join arms of a method that differ only in blocks, or only in steps, if their numbers do not depend on these.

    They do not if all numbers are equal; or, for a method that changes nothing inside the denoiser (``sdedit``), if
    they differ by rounding, as such pictures are the same in other batches. The blocks or steps become ``any``, and
    duplicate rows are dropped. Arms that were not all run on the same pairs and settings stay apart: where only one has
    a number, nothing is equal.
    """
    needed = ["pair_id", "method", "options", "k", "strength", "acts", "at_lpips", *CURVE]
    for place in PLACES:
        compared = frame[[*needed, *PLACES]]
        others = [other for other in PLACES if other != place]
        varied = frame.groupby("method")[place].nunique()
        for method in varied[varied > 1].index:
            rows = compared[frame["method"] == method]
            if rows["clip_text_edit"].isna().all():
                continue
            if any(_equal_in_each(rows, place, keys) for keys in (others, [])):
                frame = frame.assign(**{place: frame[place].where(frame["method"] != method, ANY)})
    return frame.drop_duplicates(["pair_id", *ARM, "k", "strength"])


def _equal_in_each(rows: pd.DataFrame, place: str, others: Sequence[str]) -> bool:
    """Whether a method has the same numbers at each value of ``place``, for every pair and setting that it has.

    After rounding, a search may go on at other strengths, so that those of a method outside the denoiser may differ.
    """
    cells = rows.groupby(["pair_id", "options", "k", "strength", *others], dropna=False)
    in_each, numbers = cells[place].nunique() == rows[place].nunique(), cells[list(CURVE)]
    if set(rows["acts"].dropna()) != {OUTSIDE}:
        return bool(in_each.all() and (numbers.nunique(dropna=False) == 1).to_numpy().all())
    in_each |= cells["at_lpips"].count() > 0
    whole = numbers.count().isin([0]) | numbers.count().eq(cells.size(), axis=0)
    return bool(in_each.all() and (whole & ~(numbers.max() - numbers.min() > TOLERANCE)).to_numpy().all())


def _base(frame: pd.DataFrame) -> pd.Series:
    """CLIP similarity of each pair's base image with the edit prompt, by pair id.

    Records of earlier versions lack this value; an edited image equal to the base image supplies it.
    """
    frame = frame.reindex(columns=["pair_id", "method", *CURVE, BASE])
    equal = frame[(frame["lpips_base"] == 0) | (frame["method"] == "none")]
    stated, measured = (f.groupby("pair_id")[m].mean() for f, m in ((frame, BASE), (equal, CURVE[0])))
    return stated.combine_first(measured)


def _labels(frame: pd.DataFrame) -> dict[tuple[str, str, str], str]:
    """The label of each (method, options, SAE): the method, options that vary, and the SAE's run if SAEs vary."""
    arms = frame[["method", "options", "part_sae"]].drop_duplicates()
    runs = frame.groupby("part_sae")["run"].unique()
    of_run = {sae: names[0] for sae, names in runs.items()} if len(set(runs.str[0])) == runs.str.len().sum() else {}
    labels = {}
    for method, rows in arms.groupby("method", sort=False):
        options = {text: json.loads(text) for text in rows["options"]}
        names = sorted({n for o in options.values() for n in o})
        varied = [n for n in names if len({json.dumps(o.get(n)) for o in options.values()}) > 1]
        for text, sae in zip(rows["options"], rows["part_sae"], strict=True):
            words = [str(method), *(f"{n}={options[text].get(n)}" for n in varied)]
            if rows["part_sae"].nunique(dropna=False) > 1:
                words.append(f"[{of_run.get(sae, sae)}]")
            labels[str(method), text, str(sae)] = " ".join(words)
    return labels


def _arrays(
    rows: pd.DataFrame, index: pd.Index, metrics: Sequence[str]
) -> tuple[list[int | None], list[float], dict[str, Array], dict[str, Array], NDArray[np.bool_]]:
    """The ``ks``, ``strengths``, ``values``, ``points`` and ``tried`` of an arm, from its records."""
    rows = rows[["pair_id", "k", "strength", "at_lpips", *metrics]]  # the fewer columns, the faster rows are chosen
    ks = sorted(rows["k"].unique(), key=lambda k: (not np.isnan(k), k))
    strengths = sorted(float(s) for s in rows.loc[rows["at_lpips"].isna(), "strength"].unique())
    requested = rows[rows["strength"].isin(strengths)]
    path = rows[rows["strength"] >= 0].sort_values("strength")
    places = path.groupby(["pair_id", "k"], dropna=False).cumcount().to_numpy()

    def filled(part: pd.DataFrame, last: NDArray[Any], length: int, columns: Sequence[str]) -> dict[str, Array]:
        shape = (len(index), len(ks), length)
        cells = (index.get_indexer(pd.Index(part["pair_id"])), pd.Index(ks).get_indexer(pd.Index(part["k"])), last)
        arrays = {column: np.full(shape, np.nan) for column in columns}
        for column, array in arrays.items():
            array[cells] = part[column].to_numpy(np.float64)
        return arrays

    column = pd.Index(strengths).get_indexer(pd.Index(requested["strength"]))
    values = filled(requested, column, len(strengths), [*metrics, "strength"])
    tried = ~np.isnan(values.pop("strength"))
    points = filled(path, places, int(places.max(initial=-1)) + 1, [*metrics, "strength"])
    return [None if np.isnan(k) else int(k) for k in ks], strengths, values, points, tried
