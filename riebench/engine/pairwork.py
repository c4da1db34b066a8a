"""All the work on one pair: what is common is done once, then every setting."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from riebench.errors import PairError, UserError
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
    needs_neurons: bool
    blocks: tuple[str, ...]


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
        started = time.perf_counter()
        try:
            seen = self._observe(pair)
            outcomes = self._edited(pair, seen)
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001 - any fault of a pair is a record, never a lost run
            settings = [(arm, strength) for arm in self.arms for strength in self.strengths]
            result = PairResult([self._record(pair, a, s, error=error) for a, s in settings])
        else:
            result = self._scored(pair, seen, outcomes, keep_images)
        spent = (time.perf_counter() - started) / max(1, len(result.records))
        return PairResult([r.model_copy(update={"seconds": round(spent, 4)}) for r in result.records], result.images)

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
                    plans.append(_checked(arm.method.plan(observed), arm.name))
            except UserError:
                raise
            except Exception as error:  # noqa: BLE001 - a stranger's method may raise anything
                plans.append(error)
        return plans

    def _edited(self, pair: Pair, seen: _Seen) -> list[tuple[Arm, float, Plan, Image | Exception]]:
        """The edited image of every setting, or why there is none."""
        outcomes: list[tuple[Arm, float, Plan, Image | Exception]] = []
        waiting: list[tuple[int, str, Edit]] = []
        for arm, plan in zip(self.arms, self._plans(pair, seen), strict=True):
            for strength in self.strengths:
                if isinstance(plan, Exception):
                    outcomes.append((arm, strength, Plan(), plan))
                    continue
                prompt = plan.prompt or pair.base_prompt
                # Without additions the edited run is a run that is there already.
                known = {pair.base_prompt: seen.base.image, pair.edit_prompt: seen.source.image}
                if not plan.additions and prompt in known:
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
        except UserError:
            raise
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
            region=np.concatenate([seen.base_instances, seen.source_instances]).any(0),
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
    ) -> Record:
        setting = Setting(
            method=arm.name, options=dict(arm.options), blocks=arm.blocks, strength=strength, steps=self.steps
        )
        parts, seed = self.instruments.parts, self.seed_of(pair)
        key = record_key(
            pair=pair.model_dump(exclude={"editing_instruction", "seed"}),
            seed=seed,
            setting=setting.model_dump(mode="json"),
            protocol=PROTOCOL,
            parts=parts,
            kernel=self.kernel,
            numerics=NUMERICS,
        )
        where = error.where if isinstance(error, PairError) else None
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
            where=where or ("method" if error else None),
        )


def _checked(plan: Plan, name: str) -> Plan:
    if not isinstance(plan, Plan):
        raise PairError(f"the method {name!r} returned {type(plan).__name__}, expected a Plan", where="method")
    return plan


def _as_image(instances: Mask) -> Image:
    """The union of instance masks in black and white."""
    return instances.any(0, keepdims=True)[0].astype(np.uint8) * np.uint8(255)
