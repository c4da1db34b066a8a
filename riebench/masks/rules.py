"""How phrases become grid masks: the published rules, each by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Fallback = Literal["largest", "touched"]


@dataclass(frozen=True)
class MaskRules:
    """The rules of PROTOCOL's section on masks; the defaults are the published ones, faults mended.

    Attributes:
        blur_kernel: side of the blur before the grid, pixels.
        union: whether instances go to the grid one by one and are united there, or are united before.
        fallback: what stands for an instance of which nothing is left: the one cell that it covers most, or
            every cell it touches (what the published code returns).
        add_object: whether the source mask stands for both, or each picture has a mask of its own.
        delete_object: the same of the base mask.
        special_phrases: whether ``#everything``, ``background`` and ``~`` have their meaning.
    """

    blur_kernel: int = 31
    union: Literal["instances", "before"] = "instances"
    fallback: Fallback = "largest"
    add_object: Literal["source", "both"] = "source"
    delete_object: Literal["base", "both"] = "base"
    special_phrases: bool = True
