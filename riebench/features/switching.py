"""Changes that switch a feature on or off, or put a reconstruction in the place of the values."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from riebench.sae.dictionary import Dictionary


def switched_on(direction: Tensor, level: float, area: Tensor, steps: int) -> Tensor:
    """A direction ``[d]`` added at a level in an area ``[positions]``: ``[steps, positions, d]``."""
    return (level * area.float()[:, None] * direction).expand(steps, -1, -1)


def switched_off(
    dictionary: Dictionary, index: int, direction: Tensor, area: Tensor
) -> Callable[[Tensor, int], Tensor]:
    """Takes away a direction ``[d]`` times the code of a feature, as it is in each step, in an area ``[positions]``."""

    def change(values: Tensor, step: int) -> Tensor:
        return -(dictionary.encode(values)[:, index] * area)[:, None] * direction

    return change


def reconstructed(dictionary: Dictionary) -> Callable[[Tensor, int], Tensor]:
    """Puts the reconstruction in the place of the values."""
    return lambda values, step: dictionary.decode(dictionary.encode(values)) - values


def zeroed(values: Tensor, step: int) -> Tensor:
    """Puts 0 in the place of the values."""
    return -values
