"""A whole run: pairs outside, settings inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from riebench.catalog import entry_named
from riebench.engine.arms import block_sets, make_arms
from riebench.engine.instruments import Given, load_instruments
from riebench.engine.pairwork import PairWorker
from riebench.util.errors import UserError
from riebench.instruments import Instruments
from riebench.methods import find
from riebench.pairs import Pair
from riebench.spec.protocols import protocol_named
from riebench.spec.settings import Settings
from riebench.spec.sweeps import Sweep


@dataclass(frozen=True)
class RunSpec:
    """What to run.

    Attributes:
        sweeps: methods with their options and strengths.
        blocks: short names, intervened in together; ``all`` stands for the four of RIEBench.
        alone: whether each of these blocks is also run alone.
        steps: denoising steps; None for the model's own.
        model: name of the model.
        protocol: name of the protocol.
        seed: of all runs; None for each pair's own.
        batch: rows in one forward pass at most.
        replay: whether edited runs are spared what the base run has computed already.
        settings: of the instruments.
    """

    sweeps: Sequence[Sweep]
    blocks: Sequence[str]
    alone: bool = False
    steps: int | None = None
    model: str = "mini"
    protocol: str = "riebench"
    seed: int | None = None
    batch: int = 8
    replay: bool = True
    settings: Settings = field(default_factory=Settings)

    @property
    def methods(self) -> list[str]:
        """Names of all methods, each once."""
        return list(dict.fromkeys(name for sweep in self.sweeps for name in sweep.methods))


def prepare(spec: RunSpec, given: Given | None = None) -> tuple[Instruments, PairWorker]:
    """Check a specification and load what it needs.

    Raises:
        UserError: if it cannot be run; nothing has been computed by then.
    """
    entry, protocol = entry_named(spec.model), protocol_named(spec.protocol)
    for name in spec.methods:
        find(name)
    steps = entry.steps if spec.steps is None else spec.steps
    if steps < 1:
        raise UserError(f"--steps is {steps}; expected 1 or more")
    instruments = load_instruments(entry, spec.batch, spec.settings, protocol, given)
    sets = block_sets(spec.blocks, list(instruments.denoiser.lens.blocks), spec.alone)
    arms = make_arms(spec.sweeps, sets, instruments)
    return instruments, PairWorker(instruments, arms, steps, spec.seed, protocol, spec.replay)


def check_truth(instruments: Instruments, worker: PairWorker, pairs: Sequence[Pair]) -> None:
    """Refuse pairs that the model's world cannot judge, before anything is computed.

    Raises:
        UserError: naming the pair.
    """
    if instruments.truth is not None:
        for pair in pairs:
            instruments.truth(pair, worker.recorder.seed_of(pair))


def describe(worker: PairWorker) -> dict[str, Any]:
    """What all records of a run folder share, and the settings, as ``run.json`` keeps them."""
    instruments = worker.instruments
    return {
        "arms": [
            {"method": a.name, "options": dict(a.options), "blocks": list(a.blocks), "strengths": list(a.strengths)}
            for a in worker.arms
        ],
        "steps": worker.steps,
        "model": instruments.name,
        "protocol": worker.protocol.name,
        "parts": instruments.parts,
        "conditions": dict(instruments.conditions),
        "metric_names": {"clip": instruments.scorers.clip.name, "lpips": instruments.scorers.lpips.name},
    }
