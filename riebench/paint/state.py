"""The whole state of the page, within limits: what is generated and what is painted into it. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from riebench.masks.region import Mask
from riebench.util.errors import UserError

MOST_LAYERS = 32
MOST_SIDE = 256
"""Rows or columns of a brush mask at most."""
MOST_RUNS = 16_384
MOST_STRENGTH = 100.0
MOST_UNIT = 1e6
MOST_SEED = 2**53 - 1
"""Larger whole numbers are not exact in JavaScript."""
MOST_STEPS = 1000
MOST_LETTERS = 2000
MOST_BYTES = 1_000_000
"""Of a state as JSON."""


class Limited(BaseModel):
    """Whatever comes from outside: nothing unknown, no number that is not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BrushMask(Limited):
    """Where a layer is painted: cells of the picture, true or false, counted row by row.

    Attributes:
        rows: of cells.
        columns: of cells.
        runs: lengths of runs of equal cells; the first run is false and may be empty.
    """

    rows: int = Field(ge=1, le=MOST_SIDE)
    columns: int = Field(ge=1, le=MOST_SIDE)
    runs: list[Annotated[int, Field(ge=0, le=MOST_SIDE**2)]] = Field(max_length=MOST_RUNS)

    @model_validator(mode="after")
    def _covers(self) -> BrushMask:
        if sum(self.runs) != self.rows * self.columns:
            raise ValueError(f"its runs cover {sum(self.runs)} cells, expected {self.rows} x {self.columns}")
        return self

    def cells(self) -> Mask:
        """The mask ``[rows, columns]``."""
        values = np.arange(len(self.runs)) % 2 == 1
        return np.repeat(values, self.runs).reshape(self.rows, self.columns)

    @classmethod
    def of(cls, cells: Mask) -> BrushMask:
        """The brush mask of a mask ``[rows, columns]``."""
        flat = np.concatenate([[False], cells.ravel(), [not cells.ravel()[-1]]])
        ends = np.flatnonzero(flat[1:] != flat[:-1])
        runs = np.diff(ends, prepend=0).tolist()
        return cls(rows=cells.shape[0], columns=cells.shape[1], runs=runs)


class StepInterval(Limited):
    """The denoising steps ``first`` to ``last``, both included, counted from 0."""

    first: int = Field(ge=0, lt=MOST_STEPS)
    last: int = Field(ge=0, lt=MOST_STEPS)

    @model_validator(mode="after")
    def _in_order(self) -> StepInterval:
        if self.last < self.first:
            raise ValueError(f"the step interval ends at {self.last}, before its first step {self.first}")
        return self


class Layer(Limited):
    """One feature painted into the picture.

    Attributes:
        site: where it acts.
        feature: its number in the SAE of the site.
        unit: what strength 1 stands for: the feature's mean active value when it was chosen.
        strength: multiple of the unit; a negative one takes the feature away.
        mask: where it is painted.
        steps: in which steps it acts; None for all.
        on: whether it acts at all.
    """

    site: str = Field(min_length=1, max_length=200)
    feature: int = Field(ge=0, le=10_000_000)
    unit: float = Field(ge=0, le=MOST_UNIT)
    strength: float = Field(ge=-MOST_STRENGTH, le=MOST_STRENGTH)
    mask: BrushMask
    steps: StepInterval | None = None
    on: bool = True

    @property
    def acts(self) -> bool:
        """Whether it can change the picture."""
        return self.on and self.strength != 0 and self.unit != 0 and any(self.mask.runs[1::2])


class State(Limited):
    """What is generated, and what is painted into it.

    Attributes:
        version: counts up when a reader of an older one would fail.
        model: name of the model.
        prompt: as it is given to the model.
        seed: of the initial latents.
        steps: denoising steps.
        layers: what is painted; the changes of all layers are added up.
    """

    version: Literal[1] = 1
    model: str = Field("mini", min_length=1, max_length=300)
    prompt: str = Field(max_length=MOST_LETTERS)
    seed: int = Field(0, ge=0, le=MOST_SEED)
    steps: int = Field(1, ge=1, le=MOST_STEPS)
    layers: list[Layer] = Field(default_factory=list, max_length=MOST_LAYERS)

    def unpainted(self) -> State:
        """The same without layers."""
        return self.model_copy(update={"layers": []})


Checked = TypeVar("Checked", bound=BaseModel)


def checked(kind: type[Checked], text: bytes | str, name: str = "state") -> Checked:
    """A model from JSON that may be anything.

    Raises:
        UserError: saying the first thing that is wrong.
    """
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        at = ".".join(str(part)[:40] for part in first["loc"][:6])
        said = " ".join(first["msg"].removeprefix("Value error, ").split())[:200]
        raise UserError(f"the {name} cannot be used{f' ({at})' if at else ''}: {said}") from None


def read_state(file: Path | str) -> State:
    """The state in a JSON file.

    Raises:
        UserError: if it cannot be read or is no state.
    """
    try:
        with Path(file).open("rb") as opened:
            text = opened.read(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"the state {file} cannot be read: {error.strerror}; give a JSON file of the page") from None
    if len(text) > MOST_BYTES:
        raise UserError(f"the state {file} is larger than {MOST_BYTES} bytes; give a JSON file of the page")
    return checked(State, text, f"state {file}")
