"""All the work on one pair: what is common is done once, then every setting."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from riebench.engine.arms import Arm
from riebench.engine.checking import as_given, checked, contained, meddling, named
from riebench.engine.recording import Recorder
from riebench.instruments import Instruments
from riebench.lens import Activations, Edit
from riebench.masks import Region, to_grid
from riebench.masks.phrases import DELETE_OBJECT
from riebench.methods import Observed, Plan
from riebench.metrics import Reference, score_images
from riebench.models import Run
from riebench.pairs import Pair
from riebench.spec.protocols import RIEBENCH, Protocol
from riebench.records import Record
from riebench.util.trace import stage

Image = NDArray[np.uint8]


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
    base_region: Region
    source_region: Region


@dataclass
class _Outcome:
    """What became of one setting: a picture, or an error."""

    arm: Arm
    strength: float
    notes: dict[str, Any] = field(default_factory=dict)
    image: Image | None = None
    error: Exception | None = None


@dataclass(frozen=True)
class _Job:
    """An edited run that waits for its place in a batch."""

    outcome: _Outcome
    prompt: str
    edit: Edit


class PairWorker:
    """Works pairs off, one by one.

    Args:
        instruments: loaded parts.
        arms: methods, block sets and strengths.
        steps: denoising steps.
        seed: of every run; None takes each pair's own, or 42.
        protocol: what is done where the published behaviour is doubtful.
        replay: whether edited runs are spared what the base run has computed already. Bit for bit the same
            where the base run's batch has as many rows as theirs; else their records differ by rounding.
    """

    def __init__(
        self,
        instruments: Instruments,
        arms: Sequence[Arm],
        steps: int,
        seed: int | None = None,
        protocol: Protocol = RIEBENCH,
        replay: bool = True,
    ) -> None:
        self.instruments = instruments
        self.steps = steps
        self.protocol = protocol
        self.replay = replay
        self.recorder = Recorder(instruments, protocol, steps, seed)
        self._take(arms)

    def _take(self, arms: Sequence[Arm]) -> None:
        """Have these arms, and capture what they need."""
        order = list(self.instruments.denoiser.lens.blocks)
        self.arms = list(arms)
        self.blocks = sorted({b for arm in arms for b in arm.blocks}, key=order.index)
        # Arms that begin with the same block come together, so that a batch can replay all that lies before it.
        self.turns = sorted(self.arms, key=lambda arm: order.index(arm.blocks[0]))
        self.neurons = any(arm.needs_neurons for arm in arms)

    @property
    def settings(self) -> list[tuple[Arm, float]]:
        """Every setting, in the order of the records of a pair."""
        return [(arm, strength) for arm in self.arms for strength in arm.strengths]

    def keys(self, pair: Pair) -> list[str]:
        """The key of every setting on a pair, in the order of its records; settings that are the same share one."""
        return list(dict.fromkeys(self.recorder.key(pair, arm, strength) for arm, strength in self.settings))

    def work(self, pair: Pair, keep_images: bool = False, keys: Collection[str] | None = None) -> PairResult:
        """Run settings on a pair. Faults inside the pair become records, and nothing is raised for them.

        Args:
            pair: the pair.
            keep_images: whether its pictures are wanted.
            keys: of the settings to run, see :meth:`keys`; None for all. Nothing is computed for the others, and
                nothing at all where there are none.
        """
        some = self._only(pair, self.keys(pair) if keys is None else keys)
        return some._work(pair, keep_images) if some.arms else PairResult([])

    def failed(self, pair: Pair, keys: Collection[str], error: Exception, where: str) -> PairResult:
        """Records that say why settings of a pair were not run."""
        some = self._only(pair, keys)
        return PairResult([self.recorder.record(pair, a, s, error=error, where=where) for a, s in some.settings])

    def _only(self, pair: Pair, keys: Collection[str]) -> PairWorker:
        """This worker with the settings of these keys alone, each once."""
        left, arms = set(keys), []
        for arm in self.arms:
            strengths = []
            for strength in arm.strengths:
                key = self.recorder.key(pair, arm, strength)
                if key in left:
                    left.remove(key)
                    strengths.append(strength)
            if strengths:
                whole = len(strengths) == len(arm.strengths)
                arms.append(arm if whole else replace(arm, strengths=tuple(strengths)))
        some = copy(self)
        some._take(arms)
        return some

    def _work(self, pair: Pair, keep_images: bool) -> PairResult:
        started, where = time.perf_counter(), "observing"
        result = PairResult([])
        try:
            seen = self._observe(pair)
            where = "engine"
            outcomes = self._edited(pair, seen)
            where = "metrics"
            result = self._scored(pair, seen, outcomes, keep_images)
        except Exception as error:  # noqa: BLE001 - any fault of a pair is a record, never a lost run
            result.records = [self.recorder.record(pair, a, s, error=error, where=where) for a, s in self.settings]
        share = (time.perf_counter() - started) / max(1, len(result.records))
        result.records = [r.model_copy(update={"seconds": round(share, 4)}) for r in result.records]
        return result

    def _observe(self, pair: Pair) -> _Seen:
        seed = self.recorder.seed_of(pair)
        prompts, seeds = [pair.base_prompt, pair.edit_prompt], [seed, seed]
        with stage("base and source run") as facts:
            base, source = self.instruments.denoiser.generate(
                prompts,
                seeds,
                self.steps,
                capture=self.blocks,
                neurons=self.neurons,
                record=self.blocks if self.replay else (),
            )
            facts |= {"image": list(base.image.shape), **_shapes(base.activations)}
        with stage("masks") as facts:
            source_region, base_region = self.instruments.masks(pair, base.image, source.image)
            facts |= {"source": list(source_region.instances.shape), "base": list(base_region.instances.shape)}
        return _Seen(base, source, base_region, source_region)

    def _grids(self, region: Region) -> dict[str, Tensor]:
        rules, denoiser = self.instruments.rules, self.instruments.denoiser
        grids: dict[tuple[int, int], Tensor] = {}
        found = {}
        for block in self.blocks:
            size = denoiser.grid(block)
            if size not in grids:
                grid = to_grid(region, *size, rules)
                grids[size] = torch.from_numpy(grid).to(denoiser.device)
            found[block] = grids[size]
        return found

    def _observed(self, pair: Pair, seen: _Seen) -> dict[tuple[str, ...], Observed]:
        """What a method on some set of blocks sees; codes and the like are shared."""
        base_masks, source_masks = self._grids(seen.base_region), self._grids(seen.source_region)
        kept: dict[Any, Any] = {}
        return {
            blocks: Observed(
                pair=pair,
                blocks=blocks,
                base=seen.base.activations or Activations(),
                source=seen.source.activations or Activations(),
                base_masks=base_masks,
                source_masks=source_masks,
                find_sae=self.instruments.sae,
                seed=self.recorder.seed_of(pair),
                shares=self.protocol.shares,
                _kept=kept,
            )
            for blocks in {arm.blocks for arm in self.arms}
        }

    def _planned(self, arm: Arm, observed: Observed) -> tuple[Plan | None, Exception | None]:
        """The plan of an arm, or why there is none."""
        try:
            return self._plan(arm, observed), None
        except Exception as error:  # noqa: BLE001 - a stranger's method may raise anything
            return None, error

    def _plan(self, arm: Arm, observed: Observed) -> Plan:
        """The plan of an arm, checked.

        Raises:
            PairError: if it does not fit, see :func:`riebench.engine.checking.checked`.
        """
        ignored = observed.pair.editing_type_id == DELETE_OBJECT and not self.protocol.delete_only_adds
        with torch.no_grad(), stage("plan") as facts, contained(arm):
            plan = (arm.with_removal if ignored else arm.method).plan(observed)
            facts["method"] = arm.name
        return checked(plan, arm, observed, self.steps, self.instruments.denoiser.lens.blocks)

    def _edited(self, pair: Pair, seen: _Seen, meddlers: Mapping[int, Exception] | None = None) -> list[_Outcome]:
        """The edited image of every setting, or why there is none.

        Arms are planned as their turn in a batch comes, so that no more plans are in memory than one batch needs.

        Args:
            pair: the pair.
            seen: what is known of it.
            meddlers: turns of arms that are not to be planned, as they change what others see.
        """
        meddlers = meddlers or {}
        observed = self._observed(pair, seen)
        known = {pair.edit_prompt: seen.source.image, pair.base_prompt: seen.base.image}
        outcomes: list[_Outcome] = []
        waiting: dict[bool, list[_Job]] = {True: [], False: []}  # by whether they begin as the base run did
        for turn, arm in enumerate(self.turns):
            mine = [_Outcome(arm, strength, error=meddlers.get(turn)) for strength in arm.strengths]
            outcomes += mine
            if turn in meddlers:
                continue
            given = as_given(observed[arm.blocks])
            plan, error = self._planned(arm, observed[arm.blocks])
            meddled = meddling(given, arm, observed[arm.blocks])
            if meddled is not None:  # edits that wait may hold what was changed: all is done again, without this arm
                return self._edited(pair, self._observe(pair), {**meddlers, turn: meddled})
            if plan is None:
                for outcome in mine:
                    outcome.error = error
                continue
            prompt = pair.base_prompt if plan.prompt is None else plan.prompt
            for outcome in mine:
                outcome.notes = dict(plan.notes)
                # With nothing to add, the edited run is a run that is there already.
                if prompt in known and (outcome.strength == 0 or not plan.additions):
                    outcome.image = known[prompt]
                else:
                    job = _Job(outcome, prompt, Edit(plan.additions, outcome.strength))
                    waiting[prompt == pair.base_prompt].append(job)
            for jobs in waiting.values():
                while len(jobs) >= self.instruments.denoiser.batch:
                    batch = self.instruments.denoiser.batch
                    self._generate(pair, seen, jobs[:batch])
                    del jobs[:batch]
        for jobs in waiting.values():
            self._generate(pair, seen, jobs)
        return sorted(outcomes, key=lambda outcome: self.arms.index(outcome.arm))

    def _generate(self, pair: Pair, seen: _Seen, jobs: Sequence[_Job]) -> None:
        """Generate edits together; when one spoils its batch, one by one, so that only the guilty fail."""
        if not jobs:
            return
        prompts, edits = [job.prompt for job in jobs], [job.edit for job in jobs]
        seeds = [self.recorder.seed_of(pair)] * len(jobs)
        try:
            with stage("edited runs") as facts:
                runs = self.instruments.denoiser.generate(
                    prompts, seeds, self.steps, edits=edits, replay=seen.base.recorded
                )
                facts["rows"] = len(jobs)
            for job, run in zip(jobs, runs, strict=True):
                job.outcome.image = run.image
        except Exception as error:  # noqa: BLE001 - additions may be functions of a stranger's
            if len(jobs) == 1:
                jobs[0].outcome.error = named(error, jobs[0].outcome.arm)
                return
            for job in jobs:
                self._generate(pair, seen, [job])

    def _scored(self, pair: Pair, seen: _Seen, outcomes: Sequence[_Outcome], keep: bool) -> PairResult:
        truth, brackets = self.instruments.truth, self.protocol.score_brackets
        reference = Reference(
            base=seen.base.image,
            source=seen.source.image,
            edit_prompt=pair.editing_prompt if brackets else pair.edit_prompt,
            original_prompt=pair.original_prompt if brackets else pair.base_prompt,
            region=seen.base_region.pixels() | seen.source_region.pixels(),
            truth=truth(pair, self.recorder.seed_of(pair)) if truth else None,
        )
        images = [outcome.image for outcome in outcomes if outcome.image is not None]
        with stage("metrics") as facts:
            scores = iter(score_images(self.instruments.scorers, reference, images) if images else [])
            facts["images"] = len(images)
        result = PairResult([])
        if keep:
            result.images = {"base": seen.base.image, "source": seen.source.image}
            result.images["mask-base"] = _as_image(seen.base_region)
            result.images["mask-source"] = _as_image(seen.source_region)
        for o in outcomes:
            if o.image is None:
                result.records.append(self.recorder.record(pair, o.arm, o.strength, error=o.error))
                continue
            record = self.recorder.record(pair, o.arm, o.strength, metrics=next(scores), notes=o.notes)
            result.records.append(record)
            if keep:
                result.images[record.key] = o.image
        return result


def _shapes(seen: Activations | None) -> dict[str, list[int]]:
    """Shapes of captured updates by block, and of the neurons of the first layer."""
    updates = {name: list(value.shape) for name, value in seen.updates.items()} if seen else {}
    for value in seen.neurons.values() if seen else ():
        return updates | {"neurons of a layer": list(value.shape)}
    return updates


def _as_image(region: Region) -> Image:
    """A region in black and white."""
    return region.pixels().astype(np.uint8) * np.uint8(255)
