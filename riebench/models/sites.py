"""Sites, the named places in a model whose values are read and added to, and what one generation takes and gives.

Needs no torch.
"""

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
        """Number of positions."""
        return self.grid[0] * self.grid[1]


Values: TypeAlias = "Tensor"
"""Values at a site, ``[steps, positions, width]``; of updates and of neurons alike."""

Change: TypeAlias = Union["Tensor", Callable[["Tensor", int], "Tensor"]]
"""What an edit adds at a site at strength 1: a tensor ``[steps, positions, width]``, or a function that is called in
each step. The function takes the values ``[positions, width]`` of that step in float32 and the step's number from 0;
it returns ``[positions, width]``."""


class Edit(NamedTuple):
    """An intervention in the generation of one picture.

    Attributes:
        changes: site to the change that is added there at strength 1.
        strength: the factor on all changes.
        on_steps: the steps, from 0, in which the changes are added; None for all.
    """

    changes: Mapping[str, Change]
    strength: float = 1.0
    on_steps: Collection[int] | None = None


class Start(NamedTuple):
    """The beginning of a run that starts from a finished picture, noised again, and not from noise alone.

    Attributes:
        prompt: of the finished picture, which is made with the run's own seed and number of steps.
        step: the step, from 0, that the run continues with; at least 1. The picture gets the noise of that step.
    """

    prompt: str
    step: int


class Run(NamedTuple):
    """A generated picture.

    Attributes:
        image: the picture ``[height, width, 3]``, 0 to 255.
        values: captured site to its values ``[steps, positions, width]``, on the model's device.
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
        begin: finished latents ``[rows, ...]`` that replace the rows' own, and the step that they are noised for; see
            :class:`Start`.
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
    """The sites of the neurons of a block's layers, in the order in which they run."""
    return [site for site in sites if site.startswith(block + NEURONS)]
