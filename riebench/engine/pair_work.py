"""All the work on one pair: observe, plan, edit, score. What is common to its settings is done once."""

from __future__ import annotations

import time
from collections.abc import Collection, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from riebench.engine.recording import Recorder
from riebench.engine.request import Request
from riebench.engine.searching import course_of, courses, next_settings
from riebench.engine.tasks import Survey, Task, Wanted
from riebench.instruments.loading import HandedIn, load_instruments
from riebench.masks import Mask, Region, to_grid
from riebench.masks.region import DELETE_OBJECT
from riebench.methods import Method, Observed, Plan
from riebench.methods.interface import check_plan
from riebench.methods.registry import entry_of
from riebench.metrics import Reference, metrics_of, score_images
from riebench.models import Edit, Run, Start, neuron_sites
from riebench.pairs import Pair
from riebench.prompts import Prompted
from riebench.records import ACTS, INSIDE, OUTSIDE, Record
from riebench.settings.lpips_search import LpipsSearch, lpips_of
from riebench.settings.protocols import PROTOCOLS
from riebench.util.errors import PairError
from riebench.util.trace import stage

Image = NDArray[np.uint8]


@dataclass
class PairResult:
    """Records of a pair and, where asked for, its pictures by name."""

    records: list[Record]
    images: dict[str, Image] = field(default_factory=dict)


@dataclass(frozen=True)
class _Runs:
    """Base and source run of a pair, and the regions of its phrases, also in pixels."""

    base: Run
    source: Run
    base_region: Region
    source_region: Region
    base_pixels: Mask
    source_pixels: Mask


@dataclass
class _Outcome:
    """What becomes of one setting: a picture, or an error."""

    wanted: Wanted
    prompt: str = ""
    start: Start | None = None
    edit: Edit | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    image: Image | None = None
    error: Exception | None = None


class PairWorker:
    """Works pairs off, one by one.

    Args:
        request: what to run.
        given: loaded parts.

    Attributes:
        instruments: model, masks and scorers.
        recorder: knows the settings of a pair and writes records.

    Raises:
        UserError: if something cannot be loaded.
    """

    def __init__(self, request: Request, given: HandedIn | None = None) -> None:
        with stage("load models"):
            self.instruments = load_instruments(
                request.model,
                request.settings,
                request.protocol,
                metrics=request.metrics,
                batch=request.batch,
                handed_in=given,
            )
        self.recorder = Recorder(request, self.instruments)
        self.request = request
        self.protocol = PROTOCOLS[request.protocol]
        self._kept_for_all: dict[Hashable, Any] = {}
        model, methods = self.instruments.model, zip(request.conditions, self.recorder.methods, strict=True)
        needed = {site for c, method in methods if entry_of(method).needs_sae for site in c.sites}
        self.saes = {site: model.sae(site) for site in model.sites if site in needed}

    def survey(self, pairs: Sequence[Pair], before: Sequence[Record] = ()) -> Survey:
        """The run as this worker knows it; ``before`` are records that a search goes on from."""
        instruments, request = self.instruments, self.request
        tried: dict[str, list[Record]] = {}
        for record in before:
            tried.setdefault(record.pair_id, []).append(record)
        names = [entry_of(method).record_name(method) for method in self.recorder.methods]
        return Survey(
            tasks=[self.recorder.task(pair, tried.get(pair.id, ())) for pair in pairs],
            shared={
                "arms": [
                    {
                        "method": name,
                        "options": c.options,
                        "blocks": list(c.sites),
                        "strengths": list(c.strengths),
                        "on_steps": [interval and list(interval) for interval in c.on_steps],
                    }
                    for c, name in zip(request.conditions, names, strict=True)
                ],
                "steps": request.steps,
                "model": request.model,
                "protocol": request.protocol,
                "parts": instruments.parts,
                "conditions": dict(instruments.conditions),
                "metric_names": {"clip": instruments.scorers.clip.name, "lpips": instruments.scorers.lpips.name},
            },
            locations=dict(instruments.locations),
            device=str(instruments.model.device),
            bytes=psutil.Process().memory_info().rss,
            metrics=[metric.name for metric in metrics_of(request.metrics, instruments.truth is not None)],
            measured_by=dict(instruments.measured_by),
            at_lpips=request.at_lpips,
        )

    def work(self, task: Task) -> PairResult:
        """Run the settings of a task. Any fault of the pair becomes a record with the reason."""
        started, where = time.perf_counter(), "observing"
        images: dict[str, Image] = {}
        try:
            runs = self.observe(task)
            where = "engine"
            outcomes = self.edit(task, runs)
            where = "metrics"
            records = self.score(task, runs, outcomes)
            if self.request.at_lpips is not None:
                self.search(task, runs, outcomes, records, self.request.at_lpips)
            if task.keep_images:
                images = _pictures(runs, outcomes)
        except Exception as error:  # noqa: BLE001 - any fault of a pair is a record, never a lost run
            records = self.recorder.failures(task, error, where)
        share = round((time.perf_counter() - started) / max(1, len(records)), 4)
        return PairResult([record.model_copy(update={"seconds": share}) for record in records], images)

    def give_up(self, task: Task, reason: str) -> PairResult:
        """The records of a pair at which workers died."""
        return PairResult(self.recorder.failures(task, RuntimeError(reason), where="workers"))

    @stage("base and source run, masks")
    def observe(self, task: Task) -> _Runs:
        """Base and source run with their values at every site that the task needs, and the regions of the phrases."""
        wanted = (*task.wanted, *(one for one, _ in task.known))
        pair, sites = task.pair, self._sites({one.condition for one in wanted})
        # The base run last: what it computes first is what edited runs start from.
        prompts, seeds = [pair.edit_prompt, pair.base_prompt], [task.seed, task.seed]
        source, base = self.instruments.model.generate(prompts, seeds, self.request.steps, capture=sites)
        source_region, base_region = self.instruments.masks(pair, base.image, source.image)
        return _Runs(base, source, base_region, source_region, base_region.pixels(), source_region.pixels())

    def _sites(self, conditions: Collection[int]) -> list[str]:
        """The sites whose values some conditions need, in the order in which they run."""
        sites = self.instruments.model.sites
        needed: set[str] = set()
        for number in conditions:
            blocks = self.request.conditions[number].sites
            needed.update(blocks)
            if entry_of(self.recorder.methods[number]).needs_neurons:
                needed.update(site for block in blocks for site in neuron_sites(sites, block))
        return [site for site in sites if site in needed]

    def edit(self, task: Task, runs: _Runs, plans: dict[int, Plan] | None = None) -> list[_Outcome]:
        """The edited picture of every setting, or why there is none.

        A method that changes what it is given, which others see too, fails; all is then done again without it.

        Args:
            task: the settings.
            runs: of the pair.
            plans: number of a condition to its plan; those that are missing are made, and kept there for a next call.
        """
        refused: dict[int, Exception] = {}
        while True:
            outcomes = self._edited(task, runs, refused, plans)
            if outcomes is not None:
                return outcomes
            runs = self.observe(task)
            if plans:
                plans.clear()
            self.instruments.model.forget_saes()
            self.saes = {site: self.instruments.model.sae(site) for site in self.saes}

    def _edited(
        self, task: Task, runs: _Runs, refused: dict[int, Exception], plans: dict[int, Plan] | None
    ) -> list[_Outcome] | None:
        """The outcome of every setting; None if a condition changed what others see, which is then refused.

        Conditions are planned as their turn in a batch comes, so that no more plans are in memory than a batch needs.
        Those that begin with the same site come together, so that a batch shares all that the model does before it.

        Args:
            task: the settings.
            runs: of the pair.
            refused: number of a condition to why it is not planned.
            plans: see :meth:`edit`.
        """
        outcomes = [_Outcome(wanted) for wanted in task.wanted]
        observed, batch = self._observed(task, runs), self.instruments.model.batch
        waiting: dict[tuple[str, Start | None], list[_Outcome]] = {}
        for number in self._in_order({one.condition for one in task.wanted}):
            mine = [outcome for outcome in outcomes if outcome.wanted.condition == number]
            before = _versions(observed)
            plan = refused.get(number) or (plans or {}).get(number) or self._planned(number, observed)
            if not before.items() <= _versions(observed).items():
                name = entry_of(self.recorder.methods[number]).name
                wrong = f"the method {name!r} changes the values, masks or SAEs that it is given; change a clone"
                refused[number] = PairError(wrong, "method")
                return None
            if isinstance(plan, Exception):
                for outcome in mine:
                    outcome.error = plan
                continue
            if plans is not None:
                plans[number] = plan
            for outcome in mine:
                self._prepare(outcome, plan, task, runs)
                if outcome.edit is not None:
                    waiting.setdefault((outcome.prompt, outcome.start), []).append(outcome)
            for queue in waiting.values():
                while len(queue) >= batch:
                    self._generate(task.seed, queue[:batch])
                    del queue[:batch]
        for queue in waiting.values():
            self._generate(task.seed, queue)
        return outcomes

    def _prepare(self, outcome: _Outcome, plan: Plan, task: Task, runs: _Runs) -> None:
        """What is to be generated for a setting; where nothing is, its picture."""
        setting, steps = outcome.wanted.setting, self.request.steps
        outcome.prompt = task.pair.base_prompt if plan.prompt is None else plan.prompt
        outcome.notes = {ACTS: INSIDE if plan.changes else OUTSIDE, **plan.notes}
        begin = plan.first_step(setting.strength, steps) if plan.redo else 0
        made = {task.pair.edit_prompt: runs.source.image, task.pair.base_prompt: runs.base.image}
        if plan.picture is not None:
            outcome.image = plan.blended(runs.base.image, setting.strength)
        elif begin == steps:  # nothing is done again
            outcome.image = runs.base.image
        # With nothing to add, the edited run is one that was made already.
        elif not begin and outcome.prompt in made and (setting.strength == 0 or not plan.changes):
            outcome.image = made[outcome.prompt]
        else:
            outcome.start = Start(task.pair.base_prompt, begin) if begin else None
            outcome.edit = Edit(plan.changes, setting.strength, setting.on_steps)

    def _in_order(self, conditions: Collection[int]) -> list[int]:
        """Conditions in the order in which the first of their sites run."""
        order = list(self.instruments.model.sites)
        places = {number: self.request.conditions[number].sites[:1] for number in conditions}
        return sorted(places, key=lambda number: (order.index(places[number][0]) if places[number] else -1, number))

    def search(
        self, task: Task, runs: _Runs, outcomes: list[_Outcome], records: list[Record], search: LpipsSearch
    ) -> None:
        """Edit at further strengths, until every condition has met the LPIPS that is searched for, or cannot.

        A fault ends the search of the conditions that are searched together, and is the reason in the records of the
        strengths that were to be tried.

        Args:
            task: the settings that were run, and those that are known.
            runs: of the pair.
            outcomes: of the former; what is searched is added.
            records: likewise.
            search: what is searched for.
        """
        run = zip(task.wanted, map(lpips_of, records), strict=True)
        points = courses([*task.known, *run])
        like = [*task.wanted, *(wanted for wanted, _ in task.known)]
        order = self._in_order({number for number, _ in points})
        for start in range(0, len(order), self.instruments.model.batch):  # as many plans as a batch needs
            together = order[start : start + self.instruments.model.batch]
            mine = {course: known for course, known in points.items() if course[0] in together}
            plans: dict[int, Plan] = {}
            while settings := next_settings(search, mine, like):
                part = task._replace(wanted=self.recorder.wanted(task, settings))
                try:
                    made = self.edit(part, runs, plans)
                    found = self.score(part, runs, made)
                except Exception as error:  # noqa: BLE001 - as any fault of a pair
                    records += self.recorder.failures(part, error, "search")
                    break
                outcomes += made
                records += found
                for wanted, record in zip(part.wanted, found, strict=True):
                    mine[course_of(wanted)][wanted.setting.strength] = lpips_of(record)

    def _observed(self, task: Task, runs: _Runs) -> Observed:
        """What methods see; each sees the sites of its own condition."""
        model, names = self.instruments.model, runs.base.values
        grids = {name: model.sites[name].grid for name in names}
        masks = []
        for region in (runs.base_region, runs.source_region):
            cells = {grid: to_grid(region, *grid, self.instruments.rules).ravel() for grid in set(grids.values())}
            on_device = {grid: torch.from_numpy(mask).to(model.device) for grid, mask in cells.items()}
            masks.append({name: on_device[grid] for name, grid in grids.items()})
        return Observed(
            pair=task.pair,
            sites=(),
            base=MappingProxyType(runs.base.values),
            source=MappingProxyType(runs.source.values),
            base_masks=MappingProxyType(masks[0]),
            source_masks=MappingProxyType(masks[1]),
            saes=MappingProxyType(self.saes),
            seed=task.seed,
            protocol=self.protocol,
            pictures=MappingProxyType({"base": _read_only(runs.base.image), "source": _read_only(runs.source.image)}),
            regions=MappingProxyType({"base": _read_only(runs.base_pixels), "source": _read_only(runs.source_pixels)}),
            generate=self._further,
            _kept_for_all=self._kept_for_all,
        )

    @stage("plan")
    def _planned(self, number: int, observed: Observed) -> Plan | Exception:
        """The plan of a condition, or why there is none."""
        method = self.recorder.methods[number]
        deletes = observed.pair.editing_type_id == DELETE_OBJECT
        if deletes and not self.protocol.delete_only_adds and entry_of(method).values(method).get("only_add"):
            method = replace(method, only_add=False)
        sites = self.request.conditions[number].sites
        try:
            with torch.no_grad(), _named(method):
                seen = replace(observed, sites=sites)
                plan: Plan = method.plan(seen)
                check_plan(plan, seen)
                return plan
        except Exception as error:  # noqa: BLE001 - a stranger's method may raise anything
            return error

    def _further(self, prompts: Sequence[str], seeds: Sequence[int], capture: Collection[str]) -> Iterator[Run]:
        """Runs without edits, for methods that look at more than their pair."""
        return self.instruments.model.runs(list(map(Prompted, prompts, seeds)), self.request.steps, capture)

    @stage("edited runs")
    def _generate(self, seed: int, outcomes: Sequence[_Outcome]) -> None:
        """Generate edits together; when one spoils its batch, one by one, so that only the guilty fail."""
        if not outcomes:
            return
        edits = [outcome.edit for outcome in outcomes if outcome.edit is not None]
        try:
            with _named(self.recorder.methods[outcomes[0].wanted.condition]):
                prompts = [outcome.prompt for outcome in outcomes]
                start, steps = outcomes[0].start, self.request.steps
                runs = self.instruments.model.generate(prompts, [seed] * len(edits), steps, edits=edits, start=start)
            for outcome, run in zip(outcomes, runs, strict=True):
                outcome.image, outcome.edit = run.image, None
        except Exception as error:  # noqa: BLE001 - changes may be functions of a stranger's
            if len(outcomes) == 1:
                outcomes[0].error = error
                return
            for outcome in outcomes:
                self._generate(seed, [outcome])

    @stage("metrics")
    def score(self, task: Task, runs: _Runs, outcomes: Sequence[_Outcome]) -> list[Record]:
        """The record of every setting."""
        pair, truth, brackets = task.pair, self.instruments.truth, self.protocol.score_brackets
        reference = Reference(
            base=runs.base.image,
            source=runs.source.image,
            edit_prompt=pair.editing_prompt if brackets else pair.edit_prompt,
            original_prompt=pair.original_prompt if brackets else pair.base_prompt,
            region=runs.base_pixels | runs.source_pixels,
            truth=truth(pair, task.seed) if truth else None,
        )
        made = [outcome.image for outcome in outcomes if outcome.image is not None]
        names = self.request.metrics
        scores = iter(score_images(self.instruments.scorers, reference, made, names) if made else [])
        return [
            self.recorder.record(task, o.wanted, error=o.error)
            if o.image is None
            else self.recorder.record(task, o.wanted, next(scores), o.notes)
            for o in outcomes
        ]


def _versions(observed: Observed) -> dict[int, int]:
    """How often each tensor that methods share was changed in place, by its identity."""
    groups = (observed.base, observed.source, observed.base_masks, observed.source_masks, observed._kept)
    shared = [value for group in groups for value in group.values() if isinstance(value, Tensor)]
    shared += [weight for sae in observed.saes.values() for weight in sae.parameters()]
    return {id(tensor): tensor._version for tensor in shared}


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.setflags(write=False)
    return view


@contextmanager
def _named(method: Method) -> Iterator[None]:
    """Around a method's code: faults of its own are told with its name, and ``sys.exit`` is one of them.

    Raises:
        PairError: naming the method.
    """
    name = f"the method {entry_of(method).record_name(method)!r}"
    try:
        yield
    except PairError as error:
        raise PairError(f"{name}: {error}", error.where) if error.where in ("method", "model") else error from None
    except (Exception, KeyboardInterrupt):  # the former are records already, the latter is the user's
        raise
    except BaseException as error:
        raise PairError(f"{name} raised {type(error).__name__}: {error}".removesuffix(": "), "method") from error


def _pictures(runs: _Runs, outcomes: Sequence[_Outcome]) -> dict[str, Image]:
    """The pictures of a pair by name; masks in black and white."""
    white = np.uint8(255)
    return {
        "base": runs.base.image,
        "source": runs.source.image,
        "mask-base": runs.base_pixels.astype(np.uint8) * white,
        "mask-source": runs.source_pixels.astype(np.uint8) * white,
        **{outcome.wanted.key: outcome.image for outcome in outcomes if outcome.image is not None},
    }
