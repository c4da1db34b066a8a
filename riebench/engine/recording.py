"""Turn what happened in one setting of a pair into its record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from riebench.engine.arms import Arm
from riebench.util.errors import PairError
from riebench.instruments import Instruments
from riebench.pairs import Pair
from riebench.spec.protocols import Protocol
from riebench.records import Record, Setting, record_key
from riebench.records.code import code_version

NUMERICS = 2
"""Version of the parts of this package that compute; raised when a change of them changes numbers."""


LONGEST = 500
"""Letters of a reason; some libraries append pages."""


@dataclass(frozen=True)
class Recorder:
    """Writes down everything that can change a record's numbers, and a hash of it as the record's key.

    Attributes:
        instruments: of the run.
        protocol: of the run.
        steps: denoising steps.
        seed: of every run; None takes each pair's own, or 42 (the published one).
    """

    instruments: Instruments
    protocol: Protocol
    steps: int
    seed: int | None

    def seed_of(self, pair: Pair) -> int:
        """The seed of all runs of a pair."""
        if self.seed is not None:
            return self.seed
        return pair.seed if pair.seed is not None else 42

    @cached_property
    def conditions(self) -> dict[str, Any]:
        """Further settings of the instruments that can change numbers."""
        return dict(self.instruments.conditions)

    def key(self, pair: Pair, arm: Arm, strength: float) -> str:
        """The key of the record of one setting: a hash of everything that can change its numbers, and nothing else.

        In it are: the pair with its id (methods and functions for masks see all of it) and the seed that it is run
        with; the setting, and the files that the method is written in; the protocol's name; fingerprints of the weights
        of model, masker, scorers and (if the method needs them) SAEs; the conditions, as the type of the weights, size,
        guidance and mask rules; and :data:`NUMERICS`, the version of the parts of this package that compute.

        Not in it are the size of batches, the number of workers, the device and the versions of torch, diffusers and
        the like. They move numbers by rounding alone, within the tolerance that the tests state, and a run must be
        able to go on after an update or on another machine. Records keep the versions (``code``), ``run.json`` the
        device of each session.
        """
        return record_key(
            pair=pair.model_dump(exclude={"seed"}),
            seed=self.seed_of(pair),
            setting=self.setting(arm, strength).model_dump(mode="json"),
            method=arm.code,
            protocol=self.protocol.name,
            parts=self._parts(arm),
            conditions=self.conditions,
            numerics=NUMERICS,
        )

    def setting(self, arm: Arm, strength: float) -> Setting:
        """One setting as its record keeps it."""
        return Setting(
            method=arm.name, options=dict(arm.options), blocks=arm.blocks, strength=strength, steps=self.steps
        )

    def _parts(self, arm: Arm) -> dict[str, str]:
        return {n: v for n, v in self.instruments.parts.items() if n != "sae" or arm.needs_sae}

    def record(
        self,
        pair: Pair,
        arm: Arm,
        strength: float,
        metrics: Mapping[str, float | None] | None = None,
        notes: Mapping[str, Any] | None = None,
        error: Exception | None = None,
        where: str = "method",
    ) -> Record:
        """The record of one setting: its metrics, or the error that there was and where it happened."""
        if isinstance(error, PairError):
            where = error.where
        return Record(
            key=self.key(pair, arm, strength),
            status="failed" if error else "ok",
            pair_id=pair.id,
            category=pair.editing_type_id,
            seed=self.seed_of(pair),
            original_prompt=pair.original_prompt,
            editing_prompt=pair.editing_prompt,
            setting=self.setting(arm, strength),
            method_class=f"{type(arm.method).__module__}:{type(arm.method).__qualname__}",
            model=self.instruments.name,
            protocol=self.protocol.name,
            parts=self._parts(arm),
            conditions=self.conditions,
            code=code_version(),
            metrics=dict(metrics or {}),
            notes=dict(notes or {}),
            reason=_said(error) if error else None,
            error=type(error).__name__ if error else None,
            where=where if error else None,
        )


def _said(error: Exception) -> str:
    """What an error says, in letters that a file takes; a stranger's may not even say that."""
    try:
        said = str(error)
    except Exception:  # noqa: BLE001 - a stranger's error
        said = ""
    return (said or type(error).__name__)[:LONGEST].encode(errors="backslashreplace").decode()
