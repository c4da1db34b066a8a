"""A few of the latest results, kept for their next use."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Works a value out once and keeps it until ``most`` others have been asked for since.

    Args:
        most: how many are kept; 0 works everything out anew.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._kept: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of a key; ``make`` gives it if it is not kept."""
        value = self._kept.pop(key) if key in self._kept else make()
        self._kept[key] = value  # now the latest
        if len(self._kept) > self.most:
            self._kept.popitem(last=False)
        return value
