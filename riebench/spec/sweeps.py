"""What a run tries, as it is asked for. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sweep:
    """Values to try of one or more methods.

    Attributes:
        methods: names.
        strengths: factors on the whole intervention.
        k: numbers of features (or neurons) for methods that have the option.
        options: further options, given to every method that has them.
        candidates: how many features (or neurons) the k's were chosen from; a model with another number gets
            the same share. None takes them as they are.
    """

    methods: Sequence[str]
    strengths: Sequence[float] = (1.0,)
    k: Sequence[int] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    candidates: int | None = None
