"""All the work on one pair: what is common is done once, then every setting."""

from __future__ import annotations

import hashlib
import inspect
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from riebench.errors import PairError
from riebench.instruments import Instruments
from riebench.lens import Activations, Edit
from riebench.masks import pair_instances, to_grid
from riebench.methods import Method, Observed, Plan
from riebench.metrics import Reference, score_images
from riebench.models import Run
from riebench.pairs import Pair
from riebench.records import Record, Setting, record_key
from riebench.records.code import code_version

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
PROTOCOL = "riebench"
NUMERICS = 1  # raised when a change of the code changes numbers


@dataclass(frozen=True)
class Arm:
    """One method with its options on one set of blocks; every strength of it is one setting."""

    name: str
    options: Mapping[str, Any]
    method: Method
    blocks: tuple[str, ...]

    @property
    def needs_neurons(self) -> bool:
        """Whether neurons must be captured for it."""
        return bool(getattr(self.method, "needs_neurons", False))

    @property
    def needs_sae(self) -> bool:
        """Whether each of its blocks must have an SAE."""
        return bool(getattr(self.method, "needs_sae", False))

    @cached_property
    def code(self) -> str:
        """Hash of the file that the method is written in, so that an edited method makes new records."""
        file = inspect.getsourcefile(type(self.method))
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file else ""


@dataclass
class PairResult:
    """Records of a pair and, where asked for, its pictures by name."""

    records: list[Record]
    images: dict[str, Image] = field(default_factory=dict)


@dataclass(frozen=True)
class _Seen:
    """What is known of a pair before any setting."""

    base: Run
    source: Run
    base_instances: Mask
    source_instances: Mask


class PairWorker:
    """Works pairs off, one by one.

    Args:
        instruments: loaded parts.
        arms: methods and block sets.
        strengths: of every arm.
        steps: denoising steps.
        seed: of every run; None takes each pair's own, or 42.
        kernel: side of the blur of masks, pixels.
    """

    def __init__(
        self,
        instruments: Instruments,
        arms: Sequence[Arm],
        strengths: Sequence[float],
        steps: int,
        seed: int | None = None,
        kernel: int | None = None,
    ) -> None:
        self.instruments = instruments
        self.arms = list(arms)
        self.strengths = list(strengths)
        self.steps = steps
        self.seed = seed
        self.kernel = kernel or instruments.entry.blur_kernel
        order = list(instruments.denoiser.lens.blocks)
        self.blocks = sorted({b for arm in arms for b in arm.blocks}, key=order.index)
        self.neurons = any(arm.needs_neurons for arm in arms)

    def seed_of(self, pair: Pair) -> int:
        """The seed of all runs of a pair."""
        if self.seed is not None:
            return self.seed
        return pair.seed if pair.seed is not None else 42

    def work(self, pair: Pair, keep_images: bool = False) -> PairResult:
        """Run every setting on a pair. Faults inside the pair become records, and nothing is raised for them."""
        started, where = time.perf_counter(), "observing"
        result = PairResult([])
        try:
            seen = self._observe(pair)
            where = "engine"
            outcomes = self._edited(pair, seen)
            where = "metrics"
            result = self._scored(pair, seen, outcomes, keep_images)
        except Exception as error:  # noqa: BLE001 - any fault of a pair is a record, never a lost run
            settings = [(arm, strength) for arm in self.arms for strength in self.strengths]
            result.records = [self._record(pair, a, s, error=error, where=where) for a, s in settings]
        share = (time.perf_counter() - started) / max(1, len(result.records))
        result.records = [r.model_copy(update={"seconds": round(share, 4)}) for r in result.records]
        return result

    def _observe(self, pair: Pair) -> _Seen:
        seed = self.seed_of(pair)
        denoiser = self.instruments.denoiser
        prompts, seeds = [pair.base_prompt, pair.edit_prompt], [seed, seed]
        base, source = denoiser.generate(prompts, seeds, self.steps, capture=self.blocks, neurons=self.neurons)
        source_instances, base_instances = pair_instances(
            self.instruments.masker,
            pair.editing_type_id,
            base.image,
            source.image,
            pair.original_gsam_prompt,
            pair.editing_gsam_prompt,
        )
        return _Seen(base, source, base_instances, source_instances)

    def _grids(self, instances: Mask) -> dict[str, Tensor]:
        grids: dict[tuple[int, int], Tensor] = {}
        found = {}
        for block in self.blocks:
            size = self.instruments.denoiser.grid(block)
            if size not in grids:
                grids[size] = torch.from_numpy(to_grid(instances, *size, kernel=self.kernel))
            found[block] = grids[size]
        return found

    def _plans(self, pair: Pair, seen: _Seen) -> list[Plan | Exception]:
        base_masks, source_masks = self._grids(seen.base_instances), self._grids(seen.source_instances)
        base, source = seen.base.activations or Activations(), seen.source.activations or Activations()
        codes: dict[tuple[str, str], Tensor] = {}
        plans: list[Plan | Exception] = []
        for arm in self.arms:
            observed = Observed(
                pair=pair,
                blocks=arm.blocks,
                base=base,
                source=source,
                base_masks=base_masks,
                source_masks=source_masks,
                find_sae=self.instruments.sae,
                seed=self.seed_of(pair),
                _codes=codes,
            )
            try:
                with torch.no_grad():
                    plans.append(self._checked(arm.method.plan(observed), arm))
            except Exception as error:  # noqa: BLE001 - a stranger's method may raise anything
                plans.append(error)
        return plans

    def _checked(self, plan: Plan, arm: Arm) -> Plan:
        """A plan that names only places of the arm's blocks, for the right number of steps.

        Raises:
            PairError: otherwise.
        """
        if not isinstance(plan, Plan):
            raise PairError(f"the method {arm.name!r} returned {type(plan).__name__}, expected a Plan", where="method")
        for place, addition in plan.additions.items():
            layers = self.instruments.denoiser.lens.blocks[place.block].layers if place.block in arm.blocks else 0
            if not layers or (place.layer is not None and place.layer not in range(layers)):
                known = ", ".join(arm.blocks)
                raise PairError(f"the method {arm.name!r} adds at {place}; its blocks are {known}", where="method")
            if isinstance(addition, Tensor) and len(addition) != self.steps:
                said = f"adds {len(addition)} steps at {place}, expected {self.steps}"
                raise PairError(f"the method {arm.name!r} {said}", where="method")
        for name, value in plan.notes.items():
            if not isinstance(value, (int, float, str)):
                said = f"notes {name!r} as {type(value).__name__}, expected a number or text"
                raise PairError(f"the method {arm.name!r} {said}", where="method")
        return plan

    def _edited(self, pair: Pair, seen: _Seen) -> list[tuple[Arm, float, Plan, Image | Exception]]:
        """The edited image of every setting, or why there is none."""
        outcomes: list[tuple[Arm, float, Plan, Image | Exception]] = []
        waiting: list[tuple[int, str, Edit]] = []
        for arm, plan in zip(self.arms, self._plans(pair, seen), strict=True):
            for strength in self.strengths:
                if isinstance(plan, Exception):
                    outcomes.append((arm, strength, Plan(), plan))
                    continue
                prompt = pair.base_prompt if plan.prompt is None else plan.prompt
                # With nothing to add, the edited run is a run that is there already.
                known = {pair.edit_prompt: seen.source.image, pair.base_prompt: seen.base.image}
                if prompt in known and (strength == 0 or not plan.additions):
                    outcomes.append((arm, strength, plan, known[prompt]))
                    continue
                waiting.append((len(outcomes), prompt, Edit(plan.additions, strength)))
                outcomes.append((arm, strength, plan, PairError("not generated", where="engine")))
        for index, image in self._generate(pair, waiting):
            outcomes[index] = (*outcomes[index][:3], image)
        return outcomes

    def _generate(self, pair: Pair, waiting: Sequence[tuple[int, str, Edit]]) -> list[tuple[int, Image | Exception]]:
        """Generate edits together; when one spoils its batch, one by one, so that only the guilty fail."""
        if not waiting:
            return []
        prompts, edits = [p for _, p, _ in waiting], [e for _, _, e in waiting]
        seeds = [self.seed_of(pair)] * len(waiting)
        try:
            runs = self.instruments.denoiser.generate(prompts, seeds, self.steps, edits=edits)
            return [(index, run.image) for (index, _, _), run in zip(waiting, runs, strict=True)]
        except Exception as error:  # noqa: BLE001 - additions may be functions of a stranger's
            if len(waiting) == 1:
                return [(waiting[0][0], error)]
            return [outcome for one in waiting for outcome in self._generate(pair, [one])]

    def _scored(
        self, pair: Pair, seen: _Seen, outcomes: Sequence[tuple[Arm, float, Plan, Image | Exception]], keep: bool
    ) -> PairResult:
        truth = self.instruments.truth
        reference = Reference(
            base=seen.base.image,
            source=seen.source.image,
            edit_prompt=pair.edit_prompt,
            original_prompt=pair.base_prompt,
            region=_union(seen.base_instances) | _union(seen.source_instances),
            truth=truth(pair, self.seed_of(pair)) if truth else None,
        )
        images = [image for *_, image in outcomes if not isinstance(image, Exception)]
        scores = iter(score_images(self.instruments.scorers, reference, images) if images else [])
        result = PairResult([])
        if keep:
            result.images = {"base": seen.base.image, "source": seen.source.image}
            result.images["mask-base"] = _as_image(seen.base_instances)
            result.images["mask-source"] = _as_image(seen.source_instances)
        for arm, strength, plan, image in outcomes:
            if isinstance(image, Exception):
                result.records.append(self._record(pair, arm, strength, error=image))
                continue
            record = self._record(pair, arm, strength, metrics=next(scores), notes=dict(plan.notes))
            result.records.append(record)
            if keep:
                result.images[record.key] = image
        return result

    def _record(
        self,
        pair: Pair,
        arm: Arm,
        strength: float,
        metrics: dict[str, float | None] | None = None,
        notes: dict[str, Any] | None = None,
        error: Exception | None = None,
        where: str = "method",
    ) -> Record:
        setting = Setting(
            method=arm.name, options=dict(arm.options), blocks=arm.blocks, strength=strength, steps=self.steps
        )
        seed = self.seed_of(pair)
        parts = {n: v for n, v in self.instruments.parts.items() if n != "sae" or arm.needs_sae}
        key = record_key(
            pair=pair.model_dump(exclude={"id", "editing_instruction", "seed"}),
            seed=seed,
            setting=setting.model_dump(mode="json"),
            method=arm.code,
            protocol=PROTOCOL,
            parts=parts,
            kernel=self.kernel,
            numerics=NUMERICS,
        )
        if isinstance(error, PairError):
            where = error.where
        return Record(
            key=key,
            status="failed" if error else "ok",
            pair_id=pair.id,
            category=pair.editing_type_id,
            seed=seed,
            original_prompt=pair.original_prompt,
            editing_prompt=pair.editing_prompt,
            setting=setting,
            model=self.instruments.entry.name,
            protocol=PROTOCOL,
            parts=parts,
            code=code_version(),
            metrics=metrics or {},
            notes=notes or {},
            reason=str(error) if error else None,
            error=type(error).__name__ if error else None,
            where=where if error else None,
        )


def _union(instances: Mask) -> Mask:
    """The union ``[height, width]`` of instance masks ``[n, height, width]``."""
    return np.asarray(instances.any(0))


def _as_image(instances: Mask) -> Image:
    """The union of instance masks in black and white."""
    return _union(instances).astype(np.uint8) * np.uint8(255)
