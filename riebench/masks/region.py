"""The part of a picture that a phrase names, in pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Region:
    """Where a phrase is in a picture: instances, or all but them.

    The instances stay apart, because each goes to a grid alone, and a complement is taken on the grid and not in
    pixels (PROTOCOL.md, Masks).

    Attributes:
        instances: masks ``[n, height, width]`` of the objects found.
        complement: whether the phrase names everything but these objects, as ``background`` does.
    """

    instances: Mask
    complement: bool = False

    def pixels(self) -> Mask:
        """The region in pixels ``[height, width]``: the union of the instances, or its complement."""
        union = np.asarray(self.instances.any(0))
        return ~union if self.complement else union
