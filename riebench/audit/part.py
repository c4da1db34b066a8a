"""The interface of a part of an audit: numbers, tables, figure and verdict; and functions that several parts use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd

from riebench.audit.evidence import Subject
from riebench.report.style import FIXED
from riebench.report.texttable import TextTable, number
from riebench.stats.resample import LEAST_FLIPS, LEVEL, holm, sign_flip

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CSV = "csv"
"""Metadata of a frame of a part: the name of its CSV file, without ending."""
FLIPS = 10_000
WIDTH, ROW, AROUND = 7.2, 0.2, 1.3
"""Width of a figure, height of a row in it, and height around its rows; inches."""
TONES = {"gain": FIXED["steering"], "margin": FIXED["sae"], "edit_success": FIXED["neurons"], "kept": FIXED["random"]}
"""Score to the colour in all figures."""


class LeftOut(Exception):
    """The records do not allow a part; the message is the reason."""


class Part(ABC):
    """One question of an audit with its answer. A subclass is a frozen dataclass.

    A field with the metadata :data:`CSV` is a frame that is written as a CSV file; None if there is nothing to write.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    explanation: ClassVar[str]
    """For the reader of the page."""
    rules: ClassVar[Sequence[str]] = ()
    """The rules by which the verdict follows from the numbers."""
    figure_file: ClassVar[str] = ""
    """Empty if the part has no figure."""
    notes: Sequence[str] = ()
    """Remarks for the reader."""

    @classmethod
    @abstractmethod
    def measure(cls, subject: Subject) -> Self:
        """Compute the part.

        Raises:
            LeftOut: if the records do not allow the part.
        """

    @abstractmethod
    def tables(self) -> list[TextTable]:
        """The tables of the text and the page."""

    @abstractmethod
    def verdict(self, ranking: str) -> list[str]:
        """Sentences on what a ranking can tell."""

    def figure(self) -> Figure:
        """The figure, where ``figure_file`` names one."""
        raise NotImplementedError

    def points(self) -> list[str]:
        """Sentences on all rankings and metrics together."""
        return []

    def verdict_table(self) -> TextTable | None:
        """A table that stands among the verdicts; None without one."""
        return None

    @classmethod
    def csv_names(cls) -> list[str]:
        """The names of the CSV files that the part may have, without ending."""
        return [str(each.metadata[CSV]) for each in fields(cls) if CSV in each.metadata]  # type: ignore[arg-type]

    def frames(self) -> dict[str, pd.DataFrame]:
        """Name of a CSV file, without ending, to its frame."""
        named = {str(each.metadata[CSV]): getattr(self, each.name) for each in fields(self) if CSV in each.metadata}  # type: ignore[arg-type]
        return {name: frame for name, frame in named.items() if frame is not None}


def compare_arms(values: pd.DataFrame, flips: int = FLIPS, seed: int = 0) -> pd.DataFrame:
    """The mean paired difference of each two columns of a frame of pairs x arms, with its test.

    Two arms are told apart if the p-value of the paired sign-flip test (Fisher 1935), corrected by Holm (1979) over all
    rows, is below 5 %, as on the leaderboard.

    Returns:
        Columns a, b, pairs (that both have), difference (a - b), p, told_apart.
    """
    both = list(combinations(values.columns, 2))
    if not both:
        return pd.DataFrame(columns=["a", "b", "pairs", "difference", "p", "told_apart"])
    differences = np.stack([values[a].to_numpy() - values[b].to_numpy() for a, b in both], 1)
    p = sign_flip(differences, max(flips, LEAST_FLIPS * len(both)), seed)
    return pd.DataFrame(
        {
            "a": [a for a, _ in both],
            "b": [b for _, b in both],
            "pairs": (~np.isnan(differences)).sum(0),
            "difference": pd.DataFrame(differences).mean().to_numpy(),
            "p": p,
            "told_apart": holm(p) < 1 - LEVEL,
        }
    )


def rows_of(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The rows of a frame, each as column to value."""
    return ({str(name): value for name, value in row.items()} for row in frame.to_dict("records"))


def cells(row: dict[str, Any], columns: Sequence[str]) -> list[str]:
    """Some numbers of a row as text."""
    return [number(row[column]) for column in columns]
