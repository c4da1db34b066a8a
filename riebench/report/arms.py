"""Arms: a method with its options on a set of blocks, and its numbers as arrays over pairs, k and strengths."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from riebench.pairs.pair import CATEGORIES
from riebench.report.frame import metrics_of

Array = NDArray[np.float64]
CURVE = ("clip_text_edit", "lpips_base")
TRUTH = ("edit_success", "kept")
BASE = "clip_text_edit_base"
"""The base image's CLIP similarity with the edit prompt."""
ANY, ALL = "any", "all"
ARM = ["method", "options", "part_sae", "blocks"]


@dataclass(frozen=True)
class Arm:
    """A row of a leaderboard.

    Attributes:
        key: method, options, SAE and blocks, as in the columns :data:`ARM`.
        label: method, and the options in which it differs from other arms of the method.
        method: canonical name, with the run if several runs have the same setting.
        blocks: short names joined by +, or ``any`` where the numbers are the same whatever the blocks.
        where: the blocks as tables name them: ``all 4`` for all blocks of the group together.
        ks: the k of each curve, None for the default or a method without k.
        strengths: in growing order.
        values: metric to ``[pairs, ks, strengths]``, NaN where not scored.
        tried: which settings of a pair have a record, ``[pairs, ks, strengths]``.
        failed: number of failed records.
    """

    key: tuple[str, ...]
    label: str
    method: str
    blocks: str
    where: str
    ks: list[int | None]
    strengths: list[float]
    values: dict[str, Array]
    tried: NDArray[np.bool_]
    failed: int

    @property
    def name(self) -> str:
        """Label and blocks."""
        return self.label if self.blocks == ANY else f"{self.label}, {self.where}"

    @property
    def family(self) -> str:
        """The method's name without the run; it determines the colour."""
        return self.method.split(" (")[0]

    @property
    def attempted(self) -> NDArray[np.bool_]:
        """Which pairs have a record."""
        return np.asarray(self.tried.any((1, 2)))

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Which pairs have at least one scored record."""
        return np.asarray(~np.isnan(self.values["clip_text_edit"]).all((1, 2)))

    def has_curve(self) -> bool:
        """Whether some pair has two points of different LPIPS."""
        lpips = self.values["lpips_base"]
        least = np.where(np.isnan(lpips), np.inf, lpips).min((1, 2), initial=np.inf)
        most = np.where(np.isnan(lpips), -np.inf, lpips).max((1, 2), initial=-np.inf)
        return bool((most > least).any())

    def with_k(self, k: int | None) -> str:
        """The label, with a k where the arm has several."""
        return f"{self.label} k={'default' if k is None else k}" if len(self.ks) > 1 else self.label

    def along(self, metric: str, k: int) -> Array:
        """A metric along the path of the k-th k, ``[pairs, strengths]``, strengths from 0 up."""
        return self.values[metric][:, k, np.asarray(self.strengths) >= 0]


@dataclass(frozen=True)
class Pairs:
    """The pairs of a group, in the order of all arrays.

    Attributes:
        ids: sorted.
        categories: number of each one's category.
        base: CLIP similarity of each one's base image with the edit prompt; NaN where no record has it.
        half: 0 or 1 by a hash of the id: the split for choosing strengths.
        known: whether ``base`` is known for every pair with a scored record.
    """

    ids: list[str]
    categories: NDArray[np.intp]
    base: Array = field(repr=False)
    half: NDArray[np.intp] = field(repr=False)
    known: bool


def half_of(pair: str) -> int:
    """The half of the split, 0 or 1, that a pair belongs to, from its id alone."""
    return hashlib.sha256(pair.encode()).digest()[0] & 1


def scopes(categories: NDArray[np.integer]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """All pairs, then each category, as a name and a mask of pairs; a single category is ``all`` only."""
    yield ALL, np.ones(len(categories), bool)
    found = np.unique(categories)
    if len(found) > 1:
        for number in found:
            yield CATEGORIES[int(number)], categories == number


def arms_of(frame: pd.DataFrame) -> tuple[Pairs, list[Arm]]:
    """Arrays from the records of a group."""
    base_of = _base(frame)
    frame = same_everywhere(_with_curve_columns(frame))
    first = frame.drop_duplicates("pair_id").sort_values("pair_id")
    ids = first["pair_id"].tolist()
    base = base_of.reindex(ids).to_numpy(np.float64)
    scored = np.isin(ids, frame.loc[frame["clip_text_edit"].notna(), "pair_id"].unique())
    pairs = Pairs(
        ids,
        first["category"].to_numpy(np.intp),
        base,
        np.array([half_of(pair) for pair in ids], np.intp),
        not np.isnan(base[scored]).any(),
    )
    labels = _labels(frame)
    index = pd.Index(ids)
    present = [m for m in metrics_of(frame) if m in CURVE or frame[m].notna().any()]
    metrics = list(dict.fromkeys([*CURVE, *(m for m in TRUTH if m in present), *present]))
    every = {block for blocks in frame["blocks"].unique() if blocks != ANY for block in blocks.split("+")}
    arms = []
    for key, rows in frame.groupby(ARM, sort=False, dropna=False):
        method, options, sae, blocks = names = tuple(map(str, key))
        arms.append(_arm(names, labels[method, options, sae], _where(blocks, every), rows, index, metrics))
    return pairs, arms


def _where(blocks: str, every: Set[str]) -> str:
    names = blocks.split("+")
    return f"all {len(names)}" if len(names) > 2 and set(names) == every else blocks


def _with_curve_columns(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.assign(**{metric: np.nan for metric in CURVE if metric not in frame})
    # A point of a curve needs both; half a point is none.
    whole = frame[list(CURVE)].notna().all(axis=1) & (frame["status"] == "ok")
    frame.loc[~whole, metrics_of(frame)] = np.nan
    return frame


def same_everywhere(frame: pd.DataFrame) -> pd.DataFrame:
    """Join the arms of a method whose numbers are the same for every set of blocks (``prompt``, ``none``)."""
    varied = frame.groupby("method")["blocks"].nunique()
    for method in varied[varied > 1].index:
        rows = frame[frame["method"] == method]
        if rows["clip_text_edit"].isna().all():
            continue
        cells = rows.groupby(["pair_id", "options", "k", "strength"], dropna=False)[list(CURVE)]
        if (cells.nunique(dropna=False) == 1).to_numpy().all():
            frame = frame.assign(blocks=frame["blocks"].where(frame["method"] != method, ANY))
    return frame.drop_duplicates(["pair_id", *ARM, "k", "strength"])


def _base(frame: pd.DataFrame) -> pd.Series:
    """CLIP similarity of each pair's base image with the edit prompt, by pair id.

    Records of earlier versions do not have it: for their pairs it is that of an edited image equal to the base image.
    """
    frame = frame.reindex(columns=[*dict.fromkeys((*frame, *CURVE, BASE))])
    equal = frame[(frame["lpips_base"] == 0) | (frame["method"] == "none")]
    stated, measured = (f.groupby("pair_id")[m].mean() for f, m in ((frame, BASE), (equal, CURVE[0])))
    return stated.combine_first(measured)


def _labels(frame: pd.DataFrame) -> dict[tuple[str, str, str], str]:
    """The method with those of its options that vary, and with its SAEs where these do."""
    arms = frame[["method", "options", "part_sae"]].drop_duplicates()
    labels = {}
    for method, rows in arms.groupby("method", sort=False):
        options = {text: json.loads(text) for text in rows["options"]}
        names = sorted({n for o in options.values() for n in o})
        varied = [n for n in names if len({json.dumps(o.get(n)) for o in options.values()}) > 1]
        for text, sae in zip(rows["options"], rows["part_sae"], strict=True):
            words = [str(method), *(f"{n}={options[text].get(n)}" for n in varied)]
            if rows["part_sae"].nunique(dropna=False) > 1:
                words.append(f"[{sae}]")
            labels[str(method), text, str(sae)] = " ".join(words)
    return labels


def with_arms(frame: pd.DataFrame, arms: Sequence[Arm]) -> pd.DataFrame:
    """The records of :func:`arms_of` with the number of their arm, in the column ``arm``."""
    frame = same_everywhere(_with_curve_columns(frame))
    numbers = {arm.key: i for i, arm in enumerate(arms)}
    keys = zip(*(frame[column].astype(object).map(str) for column in ARM), strict=True)
    return frame.assign(arm=[numbers[key] for key in keys])


def _arm(
    key: tuple[str, ...], label: str, where: str, rows: pd.DataFrame, index: pd.Index, metrics: Sequence[str]
) -> Arm:
    ks = sorted(rows["k"].unique(), key=lambda k: (not np.isnan(k), k))
    strengths = sorted(float(s) for s in rows["strength"].unique())
    cells = (
        index.get_indexer(pd.Index(rows["pair_id"])),
        pd.Index(ks).get_indexer(pd.Index(rows["k"])),
        pd.Index(strengths).get_indexer(pd.Index(rows["strength"])),
    )
    values = {}
    for metric in metrics:
        values[metric] = np.full((len(index), len(ks), len(strengths)), np.nan)
        values[metric][cells] = rows[metric].to_numpy(np.float64)
    tried = np.zeros((len(index), len(ks), len(strengths)), bool)
    tried[cells] = True
    named = [None if np.isnan(k) else int(k) for k in ks]
    return Arm(key, label, key[0], key[3], where, named, strengths, values, tried, int((rows["status"] != "ok").sum()))
