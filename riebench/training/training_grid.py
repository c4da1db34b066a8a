"""What a training run makes: its settings, published ones by name, and the grid of SAEs. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from riebench.util.errors import UserError, unknown


class SAESettings(BaseModel):
    """How SAEs are trained; the defaults are those of mini's own.

    Attributes:
        batch: vectors in a step.
        steps: steps; 0 for as many as one pass over the data gives.
        lr: Adam's learning rate.
        eps: Adam's epsilon.
        decay: share of the steps, the last ones, over which the learning rate falls linearly to 0.
        auxk: dead features that reconstruct the residual.
        aux_weight: weight of the auxiliary loss.
        dead_after: vectors without an activation after which a feature counts as dead.
        buffer: vectors of each site that are shuffled together.
        shuffle_seed: of the order of the vectors.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch: int = Field(4096, ge=1)
    steps: int = Field(3000, ge=0)
    lr: float = Field(1e-3, gt=0)
    eps: float = Field(6.25e-10, gt=0)
    decay: float = Field(0.2, ge=0, le=1)
    auxk: int = Field(64, ge=1)
    aux_weight: float = Field(1 / 32, ge=0)
    dead_after: int = Field(200_000, ge=1)
    buffer: int = Field(1 << 18, ge=1)
    shuffle_seed: int = Field(0, ge=0, lt=1 << 23)


class Axes(BaseModel):
    """The axes of the grid.

    Attributes:
        k: active features.
        expansion: features per dimension, n / d.
        aux: whether dead features reconstruct the residual.
        frozen: whether the decoder stays random, the baseline of arXiv 2602.14111.
        seeds: of the start.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    k: tuple[int, ...] = (16,)
    expansion: tuple[int, ...] = (4,)
    aux: tuple[bool, ...] = (True,)
    frozen: tuple[bool, ...] = (False,)
    seeds: tuple[Annotated[int, Field(lt=1 << 63)], ...] = (0,)


PUBLISHED: dict[str, Any] = {"steps": 0, "lr": 1e-4, "decay": 0.0, "auxk": 256, "dead_after": 10_000_000}
PRESETS: dict[str, dict[str, Any]] = {
    "mini": {},
    "paper": {**PUBLISHED, "k": (160,)},
    "paper-v1": {**PUBLISHED, "k": (10,)},
}
"""``paper``: the SAEs of RIEBench; ``paper-v1``: the first release (arXiv 2410.22366). n is 5120 at d = 1280."""


class GridPoint(BaseModel):
    """One SAE of the grid.

    Attributes:
        site: whose values it is trained on.
        k: active features.
        expansion: features per dimension.
        aux: whether dead features reconstruct the residual.
        frozen: whether the decoder stays as it started.
        seed: of the start.
    """

    model_config = ConfigDict(frozen=True)

    site: str
    k: int
    expansion: int
    aux: bool
    frozen: bool = False
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder; begins with its site, so that ``sae.folder`` finds it."""
        aux = f"aux-{'on' if self.aux else 'off'}" + "_frozen" * self.frozen
        return f"{self.site.replace('/', '-')}_k{self.k}_x{self.expansion}_{aux}_seed{self.seed}"

    @property
    def start(self) -> tuple[str, int, int, bool, int]:
        """What its training has in common with that of the SAE that differs in the auxiliary loss alone."""
        return self.site, self.k, self.expansion, self.frozen, self.seed


def settings_and_axes(preset: str | None, given: Mapping[str, Any]) -> tuple[SAESettings, Axes]:
    """The settings and axes of a preset, with those that are given in their place; None leaves one as it is.

    Raises:
        UserError: if the preset or a name is unknown, or a value does not fit.
    """
    if preset is not None and preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    known = [*SAESettings.model_fields, *Axes.model_fields]
    for name in given:
        if name not in known:
            raise unknown("setting", name, known)
    chosen = PRESETS[preset or "mini"] | {name: value for name, value in given.items() if value is not None}
    try:
        settings = SAESettings(**{n: v for n, v in chosen.items() if n in SAESettings.model_fields})
        return settings, Axes(**{n: v for n, v in chosen.items() if n in Axes.model_fields})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{first['loc'][0]} is {first['input']!r}: {first['msg']}") from None


def grid_points(axes: Axes, widths: Mapping[str, int]) -> list[GridPoint]:
    """Every SAE of the grid, for sites with the widths of their vectors.

    Raises:
        UserError: if an axis is empty, has a value twice or below 1, or a k is above the number of features.
    """
    for name, values in axes.model_dump().items():
        least = 1 if name in ("k", "expansion") else 0
        if not values or len(set(values)) < len(values) or min(values) < least:
            raise UserError(f"{name} is {_listed(values)}; expected different numbers, each {least} or more")
    points = []
    for site, k, expansion, frozen, seed, aux in product(
        widths, axes.k, axes.expansion, axes.frozen, axes.seeds, axes.aux
    ):
        if k > (features := expansion * widths[site]):
            raise UserError(
                f"k is {k}, but an SAE of {site} has {features} features at expansion {expansion}; "
                "lower k or raise the expansion"
            )
        points.append(GridPoint(site=site, k=k, expansion=expansion, aux=aux, frozen=frozen, seed=seed))
    return points


def _listed(values: Sequence[Any]) -> str:
    return ",".join(map(str, values)) or "empty"
