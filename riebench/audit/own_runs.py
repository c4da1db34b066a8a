"""The runs that an audit makes itself, all on mini, where the truth is known. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from riebench.engine.request import Request, resolve
from riebench.engine.run_options import ALL, RunOptions
from riebench.pairs import Pair
from riebench.settings.protocols import ONE_FAULT, PAPER, RIEBENCH

INTERVENTIONS = ("steering", "sae", "sae-adaptive", "neurons", "caa")
CONTROLS = ("random", "sae-random", "noise", "paste", "prompt", "none")
FAULTY = ("steering", "sae", "neurons", "sae-adaptive")
"""Methods of the published code, which its faults can change."""
BUDGETS = (0.02, 0.05, 0.1)
SEED_STEP = 1_000_003
"""Added to the seeds of all pairs from one reseeded run to the next; larger than any range of seeds in a pair file."""
PLAIN, FAULT = "plain", "fault-"


class OwnRun(NamedTuple):
    """A run of the audit's own.

    Attributes:
        name: name of its folder.
        request: its methods, settings and protocol.
        pairs: its pairs.
    """

    name: str
    request: Request
    pairs: list[Pair]


def own_runs(limit: int | None, seeds: int, budget: float) -> list[OwnRun]:
    """List all runs of an audit.

    They are ``plain``, which keeps its pictures; the same with other seeds (``seed-1``, ...); the same by the protocol
    ``paper``; and runs of fewer methods, by ``riebench`` and by each protocol with a single fault (``fault-...``).
    The last have each method with ``only_add`` and without, as two of the faults are faults of this option.

    Args:
        limit: largest number of pairs of each category; None for all.
        seeds: number of runs with other seeds.
        budget: LPIPS to search strengths for besides :data:`BUDGETS`.
    """
    options = RunOptions(
        [*INTERVENTIONS, *CONTROLS],
        ALL,
        strength=(0.5, 1, 2),
        at_lpips=sorted({*BUDGETS, budget}),
        limit=limit,
        keep_images=0,
    )
    request, pairs = resolve(options)
    runs = [OwnRun(PLAIN, request.model_copy(update={"keep_images": len(pairs)}), pairs)]
    for number in range(1, seeds + 1):
        runs.append(OwnRun(f"seed-{number}", *resolve(replace(options, pairs=_reseeded(pairs, number)))))
    runs.append(OwnRun(PAPER.name, *resolve(replace(options, protocol=PAPER.name))))
    for protocol in (RIEBENCH.name, *ONE_FAULT):
        runs.append(OwnRun(f"{FAULT}{protocol}", *_with_fault(protocol, limit)))
    return runs


def _reseeded(pairs: Sequence[Pair], number: int) -> list[Pair]:
    """The same pairs with other seeds: other layouts of the same prompts."""
    step = number * SEED_STEP
    return [pair.model_copy(update={"seed": (pair.seed or 0) + step}) for pair in pairs]  # mini's pairs all have one


def _with_fault(protocol: str, limit: int | None) -> tuple[Request, list[Pair]]:
    options = RunOptions(FAULTY, ALL, strength=(1, 2), protocol=protocol, limit=limit, keep_images=0)
    both = [resolve(replace(options, options={"only_add": only})) for only in (False, True)]
    (request, pairs), (only_adding, _) = both
    return request.model_copy(update={"conditions": request.conditions + only_adding.conditions}), pairs
