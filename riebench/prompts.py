"""Prompts with their seeds, from text, CSV and Parquet files or from mini's grammar. Needs no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple, overload

from riebench.util.errors import UserError, unknown

GRAMMAR = "grammar"
FIRST_SEEDS = {"train": 1_002_000_000, "held-out": 560_000}
"""The first seed of each split. Seeds of the two never meet, so nothing is judged on a picture it was trained on."""

Split = Literal["train", "held-out"]

TABLES = (".csv", ".parquet")
"""The endings of files with columns."""
KEPT = 10_000
"""Prompts of the grammar that are kept, as several passes over them draw each again."""


class Prompted(NamedTuple):
    """The prompt and the seed of one picture."""

    prompt: str
    seed: int


class GrammarPrompts(Sequence[Prompted]):
    """Prompts of mini's grammar, each drawn at its first access, so that any number of them is made at once.

    Args:
        count: number of prompts.
        split: see :func:`read_prompts`.
    """

    def __init__(self, count: int, split: Split) -> None:
        self.seeds = range(FIRST_SEEDS[split], FIRST_SEEDS[split] + count)
        self.held = split == "held-out"

    def __len__(self) -> int:
        return len(self.seeds)

    @overload
    def __getitem__(self, number: int) -> Prompted: ...
    @overload
    def __getitem__(self, number: slice) -> list[Prompted]: ...
    def __getitem__(self, number: int | slice) -> Prompted | list[Prompted]:
        if isinstance(number, slice):
            return [_drawn(seed, self.held) for seed in self.seeds[number]]
        return _drawn(self.seeds[number], self.held)


@lru_cache(KEPT)
def _drawn(seed: int, held: bool) -> Prompted:
    """The prompt of mini's grammar with a seed, of a held-out scene or of another."""
    import numpy as np

    from riebench.mini.grammar import random_prompt, random_scene

    rng = np.random.default_rng([seed, 3])
    return Prompted(random_prompt(random_scene(rng, held=held), rng), seed)


def read_prompts(location: str, count: int | None, split: Split, column: str | None = None) -> Sequence[Prompted]:
    """The first ``count`` prompts of a file or of mini's grammar, with seeds that count up from the split's first.

    Args:
        location: a text file (one prompt a line, empty lines are skipped), a ``.csv``, a ``.parquet``, or ``grammar``.
        count: number of prompts; None for all of a file. The grammar has no end and needs a number.
        split: ``train`` never draws scenes of the grammar's held-out tenth, and ``held-out`` draws only these.
        column: name of the column with the prompts in a table.

    Raises:
        UserError: if the file cannot be read, has no such column, holds no prompt, or fewer than ``count``; if a column
            is named and there is no table; if the split is unknown.
    """
    if split not in FIRST_SEEDS:
        raise unknown("split", split, FIRST_SEEDS)
    if column is not None and Path(location).suffix not in TABLES:
        raise UserError(f"column is {column!r}, but the prompts of {location} are no table's; leave it out")
    if location == GRAMMAR:
        if count is None:
            raise UserError("the grammar has prompts without end; say how many with --count")
        return GrammarPrompts(count, split)
    prompts = list(islice(_in_file(Path(location), column), count))
    if not prompts:
        raise UserError(f"the prompt file {location} holds no prompt; expected one a line, or a column of them")
    if count is not None and len(prompts) < count:
        raise UserError(f"the prompt file {location} holds {len(prompts)} prompts, {count} were asked for")
    return [Prompted(prompt, FIRST_SEEDS[split] + number) for number, prompt in enumerate(prompts)]


def _in_file(path: Path, column: str | None) -> list[str]:
    try:
        if path.suffix in TABLES:
            return _stripped(_in_table(path, column))
        return _stripped(path.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, ValueError) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise UserError(f"the prompt file {path} cannot be read: {reason}") from None


def _stripped(lines: Iterable[str]) -> list[str]:
    return [prompt.strip() for prompt in lines if prompt.strip()]


def _in_table(path: Path, column: str | None) -> list[str]:
    import pandas as pd

    table = pd.read_csv(path, keep_default_na=False) if path.suffix == ".csv" else pd.read_parquet(path)
    if column not in table:
        known = ", ".join(map(str, table.columns))
        raise UserError(f"the prompt file {path} has no column {column!r}; give --column, one of: {known}")
    return [str(value) for value in table[column].dropna()]


def prompts_hash(prompted: Sequence[Prompted]) -> str:
    """SHA-256 of prompts and seeds, in order."""
    return hashlib.sha256(json.dumps(list(prompted), ensure_ascii=False).encode()).hexdigest()
