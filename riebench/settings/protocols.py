"""The protocols: the published behaviour to the letter, and the same with its faults mended. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Protocol:
    """The choices of a protocol where the published behaviour is doubtful (PROTOCOL.md, Two protocols).

    Attributes:
        name: as records have it.
        delete_marks: whether nothing takes the place of the brackets in the prompts that pictures are made from, so
            that words may run together; see :func:`riebench.pairs.brackets.without_brackets`.
        score_brackets: whether prompts are embedded with the square brackets that mark their change.
        box_threshold: least score of a box of the detector in the interventions.
        fallback: the cells of an instance that covers no whole cell of the grid: the cell with the largest
            overlap, or every cell it touches.
        delete_only_adds: whether ``only_add`` holds for delete-object pairs too.
        shares: how mean activations become comparable shares before they are ranked: divided by their sum, or
            by the sum of their absolute values, which is sound for signed neurons and the same for SAE codes.
        adaptive_ratio: whether ``sae-adaptive`` multiplies what it removes in a block by the sum of the norms of the
            decoder columns added there over that of the removed ones, and ignores ``only_add``.
        quick_gelu: whether CLIP has the activation that OpenAI's weights were trained with, unless a setting says so.
        metrics: the set of metrics that is measured unless others are named, see :func:`riebench.metrics.chosen`.
    """

    name: str
    delete_marks: bool
    score_brackets: bool
    box_threshold: float
    fallback: Literal["largest", "touched"]
    delete_only_adds: bool
    shares: Literal["sum", "absolute"]
    adaptive_ratio: bool
    quick_gelu: bool
    metrics: str


PAPER = Protocol(
    "paper",
    delete_marks=True,
    score_brackets=True,
    box_threshold=0.25,
    fallback="touched",
    delete_only_adds=False,
    shares="sum",
    adaptive_ratio=True,
    quick_gelu=False,
    metrics="published",
)
RIEBENCH = Protocol(
    "riebench",
    delete_marks=False,
    score_brackets=False,
    box_threshold=0.35,
    fallback="largest",
    delete_only_adds=True,
    shares="absolute",
    adaptive_ratio=False,
    quick_gelu=True,
    metrics="default",
)
NAMED = {p.name: p for p in (RIEBENCH, PAPER)}
"""The protocols that a benchmark is run with."""
FAULTS = {
    "brackets": "score_brackets",
    "threshold": "box_threshold",
    "fallback": "fallback",
    "shares": "shares",
    "only-add": "delete_only_adds",
    "adaptive": "adaptive_ratio",
    "gelu": "quick_gelu",
}
"""Name of a published fault to the field that it is in; ``delete_marks`` changes two of 296 pairs and is not there."""
ONE_FAULT = {
    f"{RIEBENCH.name}+{fault}": replace(RIEBENCH, name=f"{RIEBENCH.name}+{fault}", **{field: getattr(PAPER, field)})
    for fault, field in FAULTS.items()
}
"""The protocol ``riebench`` with one published fault, as ``riebench+brackets``: what does this fault alone do?"""
PROTOCOLS = NAMED | ONE_FAULT
