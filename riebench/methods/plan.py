"""What a method hands back; :mod:`riebench.methods` says how to write one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from riebench.methods.observed import Observed
from riebench.models.sites import Change, block_of
from riebench.util.errors import PairError


@dataclass(frozen=True)
class Plan:
    """One pair's intervention at strength 1; the engine scales it.

    Attributes:
        changes: site to what is added there: values ``[steps, positions, width]``, or a function of the values that
            pass in one step ``[positions, width]`` and of the step's number from 0, which returns the same shape.
            Sites that are left out are left alone; a plan without changes gives the base image.
        prompt: the prompt of the edited run, if it is not the original one.
        notes: figures to keep in the record, as the k that was used.
    """

    changes: Mapping[str, Change] = field(default_factory=dict)
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


def check_plan(plan: Any, sites: Collection[str]) -> None:
    """See that a method returned a plan for the sites of its condition, with notes that a record can keep.

    Shapes and numbers are checked by the model when the changes are used.

    Raises:
        PairError: if it did not.
    """
    if not isinstance(plan, Plan):
        raise _fault(f"returned {type(plan).__name__}, expected a Plan")
    for part, found in (("changes", plan.changes), ("notes", plan.notes)):
        if not isinstance(found, Mapping):
            raise _fault(f"returned a Plan whose {part} are {type(found).__name__}, expected a mapping")
    if not isinstance(plan.prompt, str | None):
        raise _fault(f"returned a Plan whose prompt is {type(plan.prompt).__name__}, expected text")
    for site in plan.changes:
        if not isinstance(site, str) or block_of(site) not in sites:
            raise _fault(f"changes {site!r}; its sites are {', '.join(sites)}")
    for name, value in plan.notes.items():
        if not isinstance(name, str) or not isinstance(value, int | float | str):
            raise _fault(f"notes {name!r} as {type(value).__name__}, expected a name with a number or text")
        try:
            f"{name}{value}".encode()
        except UnicodeEncodeError:  # Python's strings may hold halves of letters
            raise _fault(f"notes {name!r} as {value!r}, expected text in Unicode") from None


def _fault(wrong: str) -> PairError:
    return PairError(wrong, where="method")
