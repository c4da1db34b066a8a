"""What a method hands back."""

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
        additions: what is added where (see :data:`riebench.lens.Addition` for shapes).
        prompt: the prompt of the edited run, if it is not the original one.
        notes: figures to keep in the record, as the k that was used.
    """

    additions: Mapping[Place, Addition] = field(default_factory=dict)
    prompt: str | None = None
    notes: Mapping[str, float | int | str] = field(default_factory=dict)


class Method(Protocol):
    """An intervention method."""

    def plan(self, seen: Observed) -> Plan:
        """Plan the intervention for one pair."""
        ...
