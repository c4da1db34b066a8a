"""Find the instruments that go with a model."""

from __future__ import annotations

from collections.abc import Callable

from riebench.instruments import Instruments
from riebench.models import ModelEntry


def load_instruments(entry: ModelEntry, batch: int) -> Instruments:
    """Load a model with the instruments that go with it.

    Raises:
        UserError: if weights are missing.
    """
    from riebench.mini import instruments as mini

    loaders: dict[str, Callable[[ModelEntry, int], Instruments]] = {"mini": mini.load}
    return loaders[entry.instruments](entry, batch)
