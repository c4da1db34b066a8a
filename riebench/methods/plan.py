"""What a method hands back; :mod:`riebench.methods` says how to write one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from riebench.lens import Addition, Place
from riebench.methods.observed import Observed


@dataclass(frozen=True)
class Plan:
    """One pair's intervention at strength 1; the engine scales it.

    Attributes:
        additions: what is added where. ``Place(block)`` takes a tensor ``[steps, channels, height, width]``,
            ``Place(block, layer)`` one ``[steps, height * width, neurons]``; or either a function of what passes there
            in one step, and of the step's number from 0, that returns the same shape without ``steps``. Places
            that are left out are left alone; a plan without additions gives the base image.
        prompt: the prompt of the edited run, if it is not the original one.
        notes: figures to keep in the record, as the k that was used; numbers or text.
    """

    additions: Mapping[Place, Addition] = field(default_factory=dict)
    prompt: str | None = None
    notes: Mapping[str, float | int | str] = field(default_factory=dict)


class Method(Protocol):
    """An intervention method: any class decorated with :func:`riebench.methods.method` that has this function."""

    def plan(self, seen: Observed) -> Plan:
        """Plan the intervention for one pair; called without gradients, once for all strengths.

        Args:
            seen: the pair, its two runs, masks and SAEs; not to be changed.
        """
        ...
