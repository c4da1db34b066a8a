"""Refuse what a reader of SAE files does not honour: configuration keys and tensors that could change the SAE.

All raise ValueError, which :func:`riebench.sae.store.load_sae` turns into a UserError with the folder.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

OFF = (False, None)
"""The values of a switch that is not set."""
IN_PYTHON = "give the SAE in Python, as load(model, saes={site: sae})"
"""What to do with an SAE of a kind that no reader knows, for messages."""


def keys(names: str) -> frozenset[str]:
    """The names in a text."""
    return frozenset(names.split())


def refuse_unread_keys(
    config: Mapping[str, Any], honoured: Mapping[str, Collection[Any]], harmless: Collection[str], where: str
) -> None:
    """Refuse a key whose value is not honoured, and a key that is not known; a null counts as not set.

    Args:
        config: the configuration.
        honoured: key that changes what the SAE computes, to the values that are honoured; the first is the usual one.
        harmless: keys that change nothing that is computed, or that the reader itself reads.
        where: the name of the configuration, for messages.

    Raises:
        ValueError: naming the key.
    """
    for key, value in config.items():
        if key in honoured:
            # By type as well: 0 is no False.
            if (type(value), value) not in [(type(each), each) for each in honoured[key]]:
                usual = next(iter(honoured[key]))
                raise ValueError(f"{key} in {where} is {value!r}, expected {usual!r}; {IN_PYTHON}")
        elif key not in harmless and value is not None:
            raise ValueError(
                f"{key} in {where} is {value!r}, an unknown key that could change what the SAE computes; if it does "
                "not, remove it there"
            )


def refuse_unread_tensors(state: Collection[str], read: Collection[str]) -> None:
    """Refuse tensors that are in a file of weights and not read.

    Raises:
        ValueError: naming the first.
    """
    for name in state:
        if name not in read:
            raise ValueError(
                f"the tensor {name} in the file of weights is not read, expected {', '.join(read)}; remove it if it "
                f"changes nothing that the SAE computes, or {IN_PYTHON}"
            )


def refuse_quantised(state: Mapping[str, Any]) -> None:
    """Refuse matrices of whole numbers, whose scales are unknown; lists of them are counts.

    Raises:
        ValueError: naming the first.
    """
    for name, tensor in state.items():
        if getattr(tensor, "ndim", 0) > 1 and not tensor.is_floating_point():
            raise ValueError(
                f"the tensor {name} is {tensor.dtype}, expected floating-point numbers; quantised SAEs are not read, "
                "save it in float32"
            )


def same_number(name: str, stated: Mapping[str, Any]) -> int:
    """A whole number above 0 that several places of a folder state, all of them alike.

    Args:
        name: of the number, for messages.
        stated: place to its number; None where it does not state one.

    Raises:
        ValueError: if none states it, one is no whole number above 0, or two differ.
    """
    numbers = {place: value for place, value in stated.items() if value is not None}
    for place, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} in {place} is {value!r}, expected a whole number above 0")
    if not numbers:
        raise ValueError(f"{name} is missing, expected in {' or '.join(stated)}")
    (first, number), *others = numbers.items()
    for place, value in others:
        if value != number:
            raise ValueError(f"{name} is {number} in {first} and {value} in {place}; which is right cannot be known")
    return number
