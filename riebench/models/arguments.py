"""Checks of the arguments of a model's Python calls: each refusal is one line that names the argument."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any

from riebench.models.sites import Edit, Start
from riebench.pairs.pair import MAX_SEED
from riebench.util.errors import UserError


def edits_of_call(
    prompts: Any, seeds: Any, steps: Any, edits: Any, capture: Any, on_steps: Any, start: Any
) -> tuple[list[Edit], Start | None]:
    """The edits of the rows and the start of a call of :meth:`riebench.models.model.Model.generate`.

    Edits that name no steps get those of the call.

    Raises:
        UserError: if an argument has another type than the method says, or the numbers of rows differ.
    """
    for name, values in (("prompts", prompts), ("seeds", seeds)):
        if isinstance(values, Set):
            raise UserError(f"{name} is a {type(values).__name__}, which has no order; expected a list, one each a row")
    _check_list("prompts", prompts, lambda value: isinstance(value, str), "text")
    _check_list("seeds", seeds, is_seed, f"whole numbers from 0 to {MAX_SEED}")
    _check_list("capture", capture, lambda value: isinstance(value, str), "names of sites")
    check_steps(steps)
    on_steps = _steps_named(on_steps)
    if isinstance(edits, Edit | Mapping | str) or not isinstance(edits, Sequence):
        raise UserError(f"edits is a {type(edits).__name__}; expected a list with one (changes, strength) a row")
    rows = [_edit(number, edit) for number, edit in enumerate(edits)]
    rows = [edit._replace(on_steps=on_steps) if edit.on_steps is None else edit for edit in rows]
    if not len(prompts) == len(seeds) == (len(rows) or len(prompts)):
        counts = f"{len(prompts)} prompts and {len(seeds)} seeds{f' and {len(rows)} edits' if rows else ''}"
        raise UserError(f"{counts} were given; expected as many of each, one a row")
    if start is None:
        return rows, None
    if not (isinstance(start, tuple) and len(start) == 2 and isinstance(start[0], str) and is_whole(start[1])):
        raise UserError(f"start is {start!r}; expected Start(prompt, step)")
    start = Start(*start)
    if start.step not in range(1, steps):
        raise UserError(f"the start is before step {start.step}; expected 1 to {steps - 1}")
    return rows, start


def check_saes(saes: Any) -> None:
    """Refuse what is no mapping of sites to SAEs (UserError)."""
    if not isinstance(saes, Mapping):
        raise UserError(f"saes is a {type(saes).__name__}; expected site to SAE, as {{'mid.0': sae}}")


@contextmanager
def batch_kept(model: Any) -> Iterator[None]:
    """Leave a loaded model with the batch that it had before the ``with`` statement; anything else is left alone.

    Args:
        model: a loaded model, which may be a user's; or None, or the name of one.
    """
    before = getattr(model, "batch", None)
    try:
        yield
    finally:
        if before is not None:
            model.batch = before


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number, numpy's included, and no truth value."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def whole(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """A whole number, numpy's included, as Python's own.

    Args:
        name: of the argument.
        value: that was given.
        least: smallest value.
        most: largest value.

    Raises:
        UserError: if it is no whole number, or out of these bounds.
    """
    if not is_whole(value):
        raise UserError(f"{name} is {value!r}; expected a whole number")
    if least is not None and not least <= value <= (value if most is None else most):
        raise UserError(f"{name} is {value!r}; expected {least} {'or more' if most is None else f'to {most}'}")
    return int(value)


def words(name: str, value: Any) -> list[str]:
    """Names that were given as one, or as a collection.

    Raises:
        UserError: if one is no text, or there is none.
    """
    several = [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)
    for word in several:
        if not isinstance(word, str):
            raise UserError(f"{name} is {word!r}; expected text, or a list of it")
    if not several:
        raise UserError(f"{name} is an empty list; name something, or leave it out")
    return several


def is_seed(value: Any) -> bool:
    """Whether a value is a seed."""
    return is_whole(value) and 0 <= value <= MAX_SEED


def check_steps(steps: Any) -> None:
    """Refuse a number of steps that is no whole number of at least 1 (UserError)."""
    if not is_whole(steps) or steps < 1:
        raise UserError(f"steps is {steps!r}; expected a whole number of at least 1")


def _edit(number: int, edit: Any) -> Edit:
    if not isinstance(edit, tuple | list) or not 1 <= len(edit) <= len(Edit._fields):
        wrong = f"edits[{number}] is a {type(edit).__name__}"
        raise UserError(f"{wrong}; expected (changes, strength), as ({{'mid.0': change}}, 1.0)")
    checked = Edit(*edit)
    if not isinstance(checked.changes, Mapping):
        wrong = f"the changes of edits[{number}] are a {type(checked.changes).__name__}"
        raise UserError(f"{wrong}; expected site to change, as {{'mid.0': change}}")
    if not isinstance(checked.strength, Real) or not float("-inf") < checked.strength < float("inf"):
        raise UserError(f"the strength of edits[{number}] is {checked.strength!r}; expected a finite number")
    return checked._replace(strength=float(checked.strength), on_steps=_steps_named(checked.on_steps))


def _steps_named(on_steps: Any) -> frozenset[int] | None:
    if on_steps is None:
        return None
    _check_list("on_steps", on_steps, is_whole, "whole numbers")
    return frozenset(map(int, on_steps))


def _check_list(name: str, values: Any, fits: Callable[[Any], bool], expected: str) -> None:
    """Refuse an argument that is no collection, or that holds something else than is expected."""
    is_list = isinstance(values, Collection) if not hasattr(values, "shape") else len(values.shape) == 1
    if isinstance(values, str | bytes | Mapping) or not is_list:
        raise UserError(f"{name} is {values!r}; expected a list of {expected}")
    for value in values:
        if not fits(value):
            raise UserError(f"{name} holds {value!r}; expected {expected}")
