"""A check, its result, and the loop that carries out all checks."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from gpu_checks.place import Place

Numbers = dict[str, float | int | str]
"""Measurements of a check, by name. A check adds each at once, so that a failed check has some too."""


class Check(NamedTuple):
    """One check.

    Attributes:
        name: of its row.
        says: what is checked, in a line.
        run: measures; raises :class:`Failed` (or anything else) if it fails and :class:`Skipped` if it cannot be made.
    """

    name: str
    says: str
    run: Callable[[Place, Numbers], None]


class Row(NamedTuple):
    """What became of a check.

    Attributes:
        name: of the check.
        says: what is checked.
        status: what became of it.
        reason: why it failed or was skipped; empty otherwise.
        seconds: that it took.
        peak: the most device memory that was in use at once, bytes; None where that is not known.
        numbers: what it measured.
    """

    name: str
    says: str
    status: Literal["passed", "failed", "skipped"]
    reason: str
    seconds: float
    peak: int | None
    numbers: Numbers


class Failed(Exception):
    """What was measured is not what was expected."""


class Skipped(Exception):
    """The check cannot be made here; says why."""


def expect(met: bool, otherwise: str) -> None:
    """Fail a check unless something is so.

    Raises:
        Failed: saying what was found and what was expected.
    """
    if not met:
        raise Failed(otherwise)


def carry_out(checks: Sequence[Check], place: Place, seconds: float) -> Iterator[Row]:
    """Carry checks out in order, each whatever became of those before it.

    Args:
        checks: to carry out.
        place: where.
        seconds: a check that would begin after them fails.
    """
    started = time.perf_counter()
    for number, check in enumerate(checks, 1):
        _say(f"[{number}/{len(checks)}] {check.name} ...")
        if time.perf_counter() - started > seconds:
            row = Row(check.name, check.says, "failed", f"not begun: {seconds:g} seconds are over", 0.0, None, {})
        else:
            row = _row(check, place)
        _say(f"    {row.status} in {row.seconds:.1f} s{': ' if row.reason else ''}{row.reason}")
        yield row


def _row(check: Check, place: Place) -> Row:
    numbers: Numbers = {}
    status, reason = "passed", ""
    place.start_measuring()
    started = time.perf_counter()
    try:
        check.run(place, numbers)
    except Skipped as error:
        status, reason = "skipped", str(error)
    except Failed as error:
        status, reason = "failed", str(error)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a check may meet anything
        traceback.print_exc()
        status, reason = "failed", " ".join(f"{type(error).__name__}: {error}".split())
    seconds, peak = time.perf_counter() - started, place.peak()
    if status == "failed":
        place.forget()  # it may be in any state
    return Row(check.name, check.says, status, reason, seconds, peak, numbers)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
