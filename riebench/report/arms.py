"""Arms: a method with its options on a set of blocks, and its numbers as arrays over pairs, k and strengths."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence, Set
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]
CURVE = ("clip_text_edit", "lpips_base")
TRUTH = ("edit_success", "kept")
ANY = "any"
ARM = ["method", "options", "part_sae", "blocks"]


@dataclass(frozen=True)
class Arm:
    """What a row of a leaderboard stands for.

    Attributes:
        key: method, options, SAE and blocks, as in the columns :data:`ARM`.
        label: method, and those options that tell it from other arms of the method.
        method: canonical name (with the run, where runs are told apart).
        blocks: short names joined by +, or ``any`` where the numbers are the same whatever the blocks.
        where: the same for a table: ``all 4`` for all blocks of the group together.
        ks: the k of each curve, None for the default or where there is none.
        strengths: in growing order.
        values: metric to ``[pairs, ks, strengths]``, NaN where not scored.
        attempted: which pairs have a record.
        failed: number of failed records.
    """

    key: tuple[str, str, str, str]
    label: str
    method: str
    blocks: str
    where: str
    ks: list[int | None]
    strengths: list[float]
    values: dict[str, Array]
    attempted: NDArray[np.bool_]
    failed: int

    @property
    def name(self) -> str:
        """Label and blocks."""
        return self.label if self.blocks == ANY else f"{self.label}, {self.where}"

    @property
    def family(self) -> str:
        """The method's name without the run: what its colour hangs on."""
        return self.method.split(" (")[0]

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

    def along(self, metric: str, k: int) -> Array:
        """A metric along the path of the k-th k, ``[pairs, strengths]``, strengths from 0 up."""
        return self.values[metric][:, k, np.asarray(self.strengths) >= 0]


@dataclass(frozen=True)
class Pairs:
    """The pairs of a group, in the order of all arrays.

    Attributes:
        ids: sorted.
        categories: number of each one's category.
        base: CLIP similarity of each one's base image with the edit prompt; NaN where no record tells it.
        half: 0 or 1 by a hash of the id: the split for choosing strengths.
        known: whether ``base`` is known of every pair that was scored at all.
    """

    ids: list[str]
    categories: NDArray[np.intp]
    base: Array = field(repr=False)
    half: NDArray[np.intp] = field(repr=False)
    known: bool


def half_of(pair: str) -> int:
    """The half of the split, 0 or 1, that a pair belongs to, from its id alone."""
    return hashlib.sha256(pair.encode()).digest()[0] & 1


def make_arms(frame: pd.DataFrame) -> tuple[Pairs, list[Arm]]:
    """Arrays from the records of a group."""
    used = ["pair", "category", "status", *ARM, "k", "strength", *CURVE, *TRUTH]
    frame = same_everywhere(_with_curve_columns(frame[[c for c in used if c in frame]]))
    first = frame.drop_duplicates("pair").sort_values("pair")
    ids = first["pair"].tolist()
    base = _base(frame, ids)
    scored = np.isin(ids, frame.loc[frame["clip_text_edit"].notna(), "pair"].unique())
    pairs = Pairs(
        ids,
        first["category"].to_numpy(np.intp),
        base,
        np.array([half_of(pair) for pair in ids], np.intp),
        not np.isnan(base[scored]).any(),
    )
    labels = _labels(frame)
    index = pd.Index(ids)
    metrics = [m for m in (*CURVE, *TRUTH) if m in frame and (m in CURVE or frame[m].notna().any())]
    every = {block for blocks in frame["blocks"].unique() if blocks != ANY for block in blocks.split("+")}
    arms = []
    for key, rows in frame.groupby(ARM, sort=False, dropna=False):
        method, options, sae, blocks = (str(x) for x in key)
        arms.append(
            _arm(
                (method, options, sae, blocks),
                labels[method, options, sae],
                _where(blocks, every),
                rows,
                index,
                metrics,
            )
        )
    return pairs, arms


def _where(blocks: str, every: Set[str]) -> str:
    names = blocks.split("+")
    return f"all {len(names)}" if len(names) > 2 and set(names) == every else blocks


def _with_curve_columns(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.copy()
    for metric in CURVE:
        if metric not in frame:
            frame[metric] = np.nan
    # A point of a curve needs both; half a point is none.
    whole = frame[list(CURVE)].notna().all(axis=1) & (frame["status"] == "ok")
    frame.loc[~whole, [m for m in (*CURVE, *TRUTH) if m in frame]] = np.nan
    return frame


def same_everywhere(frame: pd.DataFrame) -> pd.DataFrame:
    """Methods whose numbers do not hang on the blocks (the prompt, nothing) as one arm instead of one a block set."""
    varied = frame.groupby("method")["blocks"].nunique()
    for method in varied[varied > 1].index:
        rows = frame[frame["method"] == method]
        if rows["clip_text_edit"].isna().all():
            continue
        cells = rows.groupby(["pair", "options", "k", "strength"], dropna=False)[list(CURVE)]
        if (cells.nunique(dropna=False) == 1).to_numpy().all():
            frame = frame.assign(blocks=frame["blocks"].where(frame["method"] != method, ANY))
    return frame.drop_duplicates(["pair", *ARM, "k", "strength"])


def _base(frame: pd.DataFrame, ids: Sequence[str]) -> Array:
    """CLIP similarity of the base image: that of any edited image that does not differ from it."""
    same = frame[(frame["lpips_base"] == 0) | (frame["method"] == "none")]
    return same.groupby("pair")["clip_text_edit"].mean().reindex(list(ids)).to_numpy(np.float64)


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
    """The records of :func:`make_arms` with the number of their arm, in the column ``arm``."""
    frame = same_everywhere(_with_curve_columns(frame))
    numbers = {arm.key: i for i, arm in enumerate(arms)}
    keys = zip(*(frame[column].astype(object).map(str) for column in ARM), strict=True)
    return frame.assign(arm=[numbers[key] for key in keys])


def _arm(
    key: tuple[str, str, str, str],
    label: str,
    where: str,
    rows: pd.DataFrame,
    index: pd.Index,
    metrics: Sequence[str],
) -> Arm:
    ks = sorted(rows["k"].unique(), key=lambda k: (not np.isnan(k), k))
    strengths = sorted(float(s) for s in rows["strength"].unique())
    cells = (
        index.get_indexer(pd.Index(rows["pair"])),
        pd.Index(ks).get_indexer(pd.Index(rows["k"])),
        pd.Index(strengths).get_indexer(pd.Index(rows["strength"])),
    )
    values = {}
    for metric in metrics:
        values[metric] = np.full((len(index), len(ks), len(strengths)), np.nan)
        values[metric][cells] = rows[metric].to_numpy(np.float64)
    attempted = np.zeros(len(index), bool)
    attempted[cells[0]] = True
    named = [None if np.isnan(k) else int(k) for k in ks]
    return Arm(
        key, label, key[0], key[3], where, named, strengths, values, attempted, int((rows["status"] != "ok").sum())
    )
