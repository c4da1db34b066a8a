"""Sites: the named places in a model whose values are read and added to. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, Union

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

NEURONS = "/neurons."


class Site(NamedTuple):
    """The shape of the values at a site.

    Attributes:
        width: length of the vector at each position.
        grid: rows and columns of positions on the picture; positions are counted row by row.
    """

    width: int
    grid: tuple[int, int]

    @property
    def positions(self) -> int:
        """How many positions there are."""
        return self.grid[0] * self.grid[1]


Values: TypeAlias = "Tensor"
"""``[steps, positions, width]``, of block updates and of neurons alike."""

Change: TypeAlias = Union["Tensor", Callable[["Tensor", int], "Tensor"]]
"""What is added at a site at strength 1: values ``[steps, positions, width]``, or a function of the values that pass
in one step ``[positions, width]`` and of the step's number from 0, which returns the same shape."""


class Edit(NamedTuple):
    """The intervention in one row of a batch.

    Attributes:
        changes: site to what is added there at strength 1.
        strength: the factor on all of them.
        on_steps: the steps, from 0, in which they are added; None for all.
    """

    changes: Mapping[str, Change]
    strength: float = 1.0
    on_steps: Collection[int] | None = None


class Start(NamedTuple):
    """Where a run begins that is not made from noise alone: a finished picture, noised again.

    Attributes:
        prompt: of the run, with the same seed and number of steps, whose finished latents are noised.
        step: from 1, counted as in the whole run, whose noise they get; the run goes on with that step.
    """

    prompt: str
    step: int


class Run(NamedTuple):
    """One finished generation.

    Attributes:
        image: the picture ``[height, width, 3]``.
        values: site to ``[steps, positions, width]`` for the captured sites.
    """

    image: NDArray[np.uint8]
    values: Mapping[str, Values]


class Batch(NamedTuple):
    """Pictures that are generated together, one in each row.

    Attributes:
        prompts: one a row.
        seeds: one a row.
        steps: denoising steps.
        edits: one a row; empty edits nothing.
        capture: sites whose values are kept.
        begin: finished latents ``[rows, ...]``, and the step from 1 before which they are noised and take the place of
            the rows' own; see :class:`Start`.
        finished: a list that gets the finished latents ``[rows, ...]``.
    """

    prompts: Sequence[str]
    seeds: Sequence[int]
    steps: int
    edits: Sequence[Edit] = ()
    capture: Collection[str] = ()
    begin: tuple[Tensor, int] | None = None
    finished: list[Tensor] | None = None


def neuron_sites(sites: Iterable[str], block: str) -> list[str]:
    """The sites with the neurons of a block's layers, in order."""
    return [site for site in sites if site.startswith(block + NEURONS)]
