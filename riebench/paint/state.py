"""The state of the painting page within limits, as JSON and as the fragment of an address. Needs no torch."""

from __future__ import annotations

import base64
import binascii
import codecs
import zlib
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from riebench.masks.region import Mask
from riebench.util.errors import UserError

MOST_LAYERS = 32
MOST_SIDE = 256
"""Largest number of rows or columns of a brush mask."""
MOST_RUNS = 16_384
MOST_STRENGTH = 100.0
MOST_UNIT = 1e6
MOST_SEED = 2**53 - 1
"""Larger integers are not exact in JavaScript."""
MOST_STEPS = 1000
MOST_LETTERS = 2000
MOST_NAME = 300
MOST_CONDITIONS = 50
MOST_BYTES = 1_000_000
"""Bytes of a state as JSON at most."""
KEY = "s="
"""Begins the fragment of an address that holds a state."""
Name = Annotated[str, Field(max_length=MOST_NAME)]


class Limited(BaseModel):
    """A model of input from outside: it refuses unknown fields and numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BrushMask(Limited):
    """The painted cells of a layer: a grid over the picture, true or false, in row order.

    Attributes:
        rows: number of rows.
        columns: number of columns.
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
        site: the site that the layer changes.
        feature: number of the feature in the site's SAE.
        sae: fingerprint of that SAE, as :func:`riebench.sae.folders.sae_fingerprint`; None if it is not known.
        unit: the code that strength 1 adds: the feature's mean active value when it was chosen.
        strength: multiple of the unit; negative values remove the feature.
        mask: the painted cells.
        steps: the denoising steps in which the layer acts; None for all.
        on: whether the layer is switched on.
    """

    site: str = Field(min_length=1, max_length=200)
    feature: int = Field(ge=0, le=10_000_000)
    sae: str | None = Field(None, min_length=1, max_length=MOST_NAME)
    unit: float = Field(ge=0, le=MOST_UNIT)
    strength: float = Field(ge=-MOST_STRENGTH, le=MOST_STRENGTH)
    mask: BrushMask
    steps: StepInterval | None = None
    on: bool = True

    @property
    def idle(self) -> str | None:
        """Why the layer cannot change the picture, as ``idle`` of ``page/store.js`` says it; None if it can."""
        if not self.on:
            return "it is off"
        if self.unit == 0:
            return "its unit is 0, as of a feature that is nowhere active"
        if self.strength == 0:
            return "its strength is 0"
        return None if any(self.mask.runs[1::2]) else "nothing is painted in its mask"

    @property
    def acts(self) -> bool:
        """Whether the layer can change the picture."""
        return self.idle is None


class State(Limited):
    """A picture to generate, and the features painted into it.

    Attributes:
        version: version of the format; it grows when older readers would fail. Version 1 has no fingerprints.
        model: name of the model.
        weights: fingerprint of the model that the state was made with, as :attr:`Model.fingerprint`; None if it is not
            known.
        conditions: its settings that can change pictures, as :attr:`Model.conditions`; None if they are not known.
        prompt: the prompt, as the model gets it.
        seed: seed of the initial latents.
        steps: number of denoising steps.
        layers: the painted features; the changes of all layers are summed.
    """

    version: Literal[1, 2] = 2
    model: str = Field("mini", min_length=1, max_length=MOST_NAME)
    weights: str | None = Field(None, min_length=1, max_length=MOST_NAME)
    conditions: dict[Name, str | float] | None = Field(None, max_length=MOST_CONDITIONS)
    prompt: str = Field(max_length=MOST_LETTERS)
    seed: int = Field(0, ge=0, le=MOST_SEED)
    steps: int = Field(1, ge=1, le=MOST_STEPS)
    layers: list[Layer] = Field(default_factory=list, max_length=MOST_LAYERS)

    def unpainted(self) -> State:
        """The same state without layers."""
        return self.model_copy(update={"layers": []})


Checked = TypeVar("Checked", bound=BaseModel)


def checked(kind: type[Checked], text: bytes | str, name: str = "state", *, strict: bool = True) -> Checked:
    """Parse JSON from outside.

    Args:
        kind: class of the result.
        text: the JSON.
        name: name of the input in messages.
        strict: refuse values of another type, as true or "3" for a number.

    Raises:
        UserError: with the first fault, if the JSON is not of this class.
    """
    try:
        return kind.model_validate_json(text, strict=strict)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        at = ".".join(str(part)[:40] for part in first["loc"][:6])
        reason = " ".join(first["msg"].removeprefix("Value error, ").split())[:200]
        raise UserError(f"the {name} cannot be used{f' ({at})' if at else ''}: {reason}") from None


def read_state(file: Path | str) -> State:
    """The state in a JSON file.

    Raises:
        UserError: if the file cannot be read or holds no state.
    """
    try:
        with Path(file).open("rb") as opened:
            text = opened.read(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"the state {file} cannot be read: {error.strerror}; give a JSON file of the page") from None
    if len(text) > MOST_BYTES:
        raise UserError(f"the state {file} is larger than {MOST_BYTES} bytes; give a JSON file of the page")
    return checked(State, text.removeprefix(codecs.BOM_UTF8), f"state {file}")


def fragment_of(state: State) -> str:
    """The state as a fragment of an address without ``#``: deflated JSON in base64url, as ``page/link.js`` makes it."""
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    packed = packer.compress(state.model_dump_json(exclude_defaults=True).encode()) + packer.flush()
    return KEY + base64.urlsafe_b64encode(packed).decode().rstrip("=")


def state_of(fragment: str) -> State:
    """The state in the fragment of an address.

    Raises:
        UserError: if the fragment holds no state.
    """
    text = fragment.removeprefix("#").removeprefix(KEY)
    try:
        packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars="-_", validate=True)
        unpacker = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        raw = unpacker.decompress(packed, MOST_BYTES)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise UserError(f"the address holds no state: {error}; copy the whole link") from None
    return checked(State, raw)
