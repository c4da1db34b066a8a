"""The work on one pair: base and source run, masks, plans, edited runs, metrics, records."""

from __future__ import annotations

import logging
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from riebench.engine.pair_task import PairResult, PairSetting, PairTask
from riebench.engine.recorder import Recorder
from riebench.instruments.loading import Instruments
from riebench.masks import Mask, Region, to_grid
from riebench.masks.region import DELETE_OBJECT
from riebench.methods import Observed, Plan
from riebench.methods.interface import RunName, check_plan
from riebench.metrics import Reference, doubts_of_texts, score_images
from riebench.models import Edit, Run, Start, neuron_sites
from riebench.prompts import Prompted
from riebench.records import ACTS, INSIDE, OUTSIDE, Record
from riebench.settings.lpips_search import lpips_of
from riebench.settings.protocols import PROTOCOLS
from riebench.util.errors import PairError
from riebench.util.trace import Trace

if TYPE_CHECKING:
    from riebench.metrics.seen import Image

logger = logging.getLogger(__name__)


@dataclass
class EditedPicture:
    """The edited picture of a setting, how it is made, or why it failed.

    Attributes:
        setting: the setting.
        prompt: of the edited run.
        start: where the edited run begins, if not with noise.
        edit: to generate; None if nothing is generated, or the picture is.
        notes: of the plan, for the record.
        image: the picture; None until it is generated, and after an error.
        error: why there is no picture.
    """

    setting: PairSetting
    prompt: str = ""
    start: Start | None = None
    edit: Edit | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    image: Image | None = None
    error: Exception | None = None


class PairWork:
    """The work on one pair. What its settings share is done once.

    Args:
        task: the pair and its settings.
        recorder: of the run.
        instruments: of the run.
        kept_for_all: what methods keep from pair to pair.
        trace: times the stages of the work; None times nothing.

    Attributes:
        stage: of the work, as a failed record names it.
        base: the run without an edit, with its values; this and the following from :meth:`observe` on.
        source: the run of the edit prompt, with its values.
        base_mask: boolean ``[height, width]``: where the original phrase is in the base image.
        source_mask: boolean ``[height, width]``: where the edit phrase is in the source image.
        seen: what methods see; the sites are those of each condition.
    """

    base: Run
    source: Run
    base_mask: Mask
    source_mask: Mask
    seen: Observed

    def __init__(
        self,
        task: PairTask,
        recorder: Recorder,
        instruments: Instruments,
        kept_for_all: dict[Hashable, Any],
        trace: Trace | None = None,
    ) -> None:
        self.task, self.recorder, self.instruments = task, recorder, instruments
        self.request, self.model = recorder.request, instruments.model
        self.protocol = PROTOCOLS[self.request.protocol]
        self.stage = "observing"
        self._kept_for_all, self._trace = kept_for_all, trace

    def result(self) -> PairResult:
        """The records of all settings and of the search, and the pictures if they are kept.

        Raises:
            Exception: if the whole pair fails.
        """
        with self._timed("base and source run, masks"):
            self.observe()
        self.stage = "engine"
        pictures = self.edit(self.task.settings)
        self.stage = "metrics"
        records = self.score(pictures)
        for more_pictures, more_records in self._search(records) if self.task.searches else ():
            pictures += more_pictures
            records += more_records
        return PairResult(records, self._images(pictures) if self.task.keep_images else {})

    def observe(self) -> None:
        """Base and source run with the values at every site that the task needs, and the masks."""
        pair, seed = self.task.pair, self.task.seed
        # The base run last: what it computes first is what edited runs start from.
        prompts = [pair.edit_prompt, pair.base_prompt]
        captured, with_sae = self._sites()
        source, base = self.model.generate(prompts, [seed, seed], self.request.steps, capture=captured)
        source_region, base_region = self.instruments.masks(pair, base.image, source.image)
        base_mask, source_mask = base_region.pixels(), source_region.pixels()
        pictures: dict[RunName, Image] = {"base": base.image.view(), "source": source.image.view()}
        regions: dict[RunName, Mask] = {"base": base_mask.view(), "source": source_mask.view()}
        for array in (*pictures.values(), *regions.values()):
            array.setflags(write=False)
        self.seen = Observed(
            pair=pair,
            sites=(),
            base=MappingProxyType(base.values),
            source=MappingProxyType(source.values),
            base_masks=MappingProxyType(self._on_grids(base_region, captured)),
            source_masks=MappingProxyType(self._on_grids(source_region, captured)),
            saes=MappingProxyType({site: self.model.sae(site) for site in with_sae}),
            seed=seed,
            protocol=self.protocol,
            pictures=MappingProxyType(pictures),
            regions=MappingProxyType(regions),
            generate=self._generate_without_edits,
            _kept_for_all=self._kept_for_all,
        )
        self.base, self.source, self.base_mask, self.source_mask = base, source, base_mask, source_mask

    def _sites(self) -> tuple[list[str], list[str]]:
        """The sites whose values the task's conditions need, and those whose SAEs they need, as the model runs them."""
        sites = self.model.sites
        captured: set[str] = set()
        with_sae: set[str] = set()
        settings, searches = self.task.settings, self.task.searches
        for number in {setting.condition for setting in settings} | {search.condition for search in searches}:
            blocks, entry = self.request.conditions[number].sites, self.recorder.methods[number].entry
            captured.update(blocks)
            if entry.needs_neurons:
                captured.update(site for block in blocks for site in neuron_sites(sites, block))
            if entry.needs_sae:
                with_sae.update(blocks)
        return [site for site in sites if site in captured], [site for site in sites if site in with_sae]

    def _on_grids(self, region: Region, sites: Sequence[str]) -> dict[str, Tensor]:
        """Site to the region on its grid, boolean ``[positions]`` on the model's device."""
        grids = {site: self.model.sites[site].grid for site in sites}
        cells = {grid: to_grid(region, *grid, self.instruments.rules).ravel() for grid in set(grids.values())}
        on_device = {grid: torch.from_numpy(mask).to(self.model.device) for grid, mask in cells.items()}
        return {site: on_device[grid] for site, grid in grids.items()}

    def edit(
        self, settings: Sequence[PairSetting], plans: dict[int, Plan | Exception] | None = None
    ) -> list[EditedPicture]:
        """The edited picture of every setting.

        A condition is planned when its turn in a batch comes, so that no more plans are in memory than a batch needs.
        Conditions that begin with the same site are neighbours, so that a batch shares all that the model does before
        this site.

        Args:
            settings: of the pair.
            plans: condition to plan; missing plans are made and added. None keeps no plan.

        Raises:
            PairError: if a method changes tensors that all methods share.
        """
        pictures = [EditedPicture(setting) for setting in settings]
        waiting: dict[tuple[str, Start | None], list[EditedPicture]] = {}
        for number in self._in_order({setting.condition for setting in settings}):
            plan = plans.get(number) if plans else None
            if plan is None:
                with self._timed("plan"):
                    plan = self._plan(number)
            if plans is not None:
                plans[number] = plan
            for picture in pictures:
                if picture.setting.condition == number and self._prepare(picture, plan):
                    waiting.setdefault((picture.prompt, picture.start), []).append(picture)
            for queue in waiting.values():
                while len(queue) >= self.model.batch:
                    self._generate(queue[: self.model.batch])
                    del queue[: self.model.batch]
        for queue in waiting.values():
            self._generate(queue)
        return pictures

    def _in_order(self, conditions: Collection[int]) -> list[int]:
        """Conditions in the order in which the first of their sites run."""
        order = list(self.model.sites)
        firsts = {number: self.request.conditions[number].sites[:1] for number in conditions}
        return sorted(firsts, key=lambda number: (order.index(firsts[number][0]) if firsts[number] else -1, number))

    def _plan(self, number: int) -> Plan | Exception:
        """The plan of a condition, or the error that its method raised.

        Raises:
            PairError: if the method changes tensors that all methods share, so that the others cannot be trusted.
        """
        method, entry, name, *_ = self.recorder.methods[number]
        deletes = self.task.pair.editing_type_id == DELETE_OBJECT
        if deletes and not self.protocol.delete_only_adds and entry.values(method).get("only_add"):
            method = replace(method, only_add=False)
        seen, before = replace(self.seen, sites=self.request.conditions[number].sites), _versions(self.seen)
        plan: Plan | Exception
        try:
            with torch.no_grad(), _naming(name):
                plan = method.plan(seen)
                check_plan(plan, seen)
        except Exception as error:  # noqa: BLE001 - a user's method may raise anything
            plan = error
        if not before.items() <= _versions(seen).items():
            self.model.forget_saes()  # the next pair reads their weights again
            changes = "changes the values, masks or SAEs that all methods share; let it change a clone"
            raise PairError(f"the method {name!r} {changes}", "method")
        return plan

    def _prepare(self, picture: EditedPicture, plan: Plan | Exception) -> bool:
        """Fill in what a plan says of an edited picture; tells whether the picture is still to be generated."""
        if isinstance(plan, Exception):
            picture.error = plan
            return False
        setting, steps, pair = picture.setting.setting, self.request.steps, self.task.pair
        base, source = self.base.image, self.source.image
        picture.prompt = pair.base_prompt if plan.prompt is None else plan.prompt
        picture.notes = {ACTS: INSIDE if plan.changes else OUTSIDE, **plan.notes}
        begin = plan.first_step(setting.strength, steps) if plan.redo else 0
        made = {pair.edit_prompt: source, pair.base_prompt: base}
        if plan.picture is not None:
            picture.image = plan.blended(base, setting.strength)
        elif begin == steps:  # no step is done again
            picture.image = base
        # With nothing to add, the edited run is one that was made already.
        elif not begin and picture.prompt in made and (setting.strength == 0 or not plan.changes):
            picture.image = made[picture.prompt]
        else:
            picture.start = Start(pair.base_prompt, begin) if begin else None
            picture.edit = Edit(plan.changes, setting.strength, setting.on_steps)
        return picture.image is None

    def _generate(self, pictures: Sequence[EditedPicture]) -> None:
        """Generate pictures in one batch; if one of them fails, one by one, so that the others do not fail with it."""
        if not pictures:
            return
        edits = [picture.edit for picture in pictures if picture.edit is not None]
        prompts, seeds = [picture.prompt for picture in pictures], [self.task.seed] * len(edits)
        name = self.recorder.methods[pictures[0].setting.condition].name
        try:
            with _naming(name), self._timed("edited runs"):
                start, steps = pictures[0].start, self.request.steps
                runs = self.model.generate(prompts, seeds, steps, edits=edits, start=start)
            for picture, run in zip(pictures, runs, strict=True):
                picture.image, picture.edit = run.image, None
        except Exception as error:  # noqa: BLE001 - changes may be functions of a user's method
            if len(pictures) == 1:
                pictures[0].error = error
                return
            for picture in pictures:
                self._generate([picture])

    def _generate_without_edits(
        self, prompts: Sequence[str], seeds: Sequence[int], capture: Collection[str]
    ) -> Iterator[Run]:
        """Further runs, for methods that look at more than their pair.

        Raises:
            UserError: if the model cannot draw a prompt.
        """
        if self.model.own:
            self.model.entry.check_prompts(prompts)
        return self.model.runs(list(map(Prompted, prompts, seeds)), self.request.steps, capture)

    @cached_property
    def _reference(self) -> Reference:
        """What edited pictures are compared with."""
        pair, truth, brackets = self.task.pair, self.instruments.truth, self.protocol.score_brackets
        return Reference(
            base=self.base.image,
            source=self.source.image,
            edit_prompt=pair.editing_prompt if brackets else pair.edit_prompt,
            original_prompt=pair.original_prompt if brackets else pair.base_prompt,
            region=self.base_mask | self.source_mask,
            truth=truth(pair, self.task.seed) if truth else None,
        )

    @cached_property
    def _doubts(self) -> dict[str, str]:
        """Notes on the pair's prompts as CLIP reads them, which are also logged; mostly none."""
        doubts = doubts_of_texts(self.instruments.scorers.clip, self._reference)
        for what, doubt in doubts.items():
            logger.warning("pair %s, similarity with the %s: %s", self.task.pair.id, what, doubt)
        return doubts

    def score(self, pictures: Sequence[EditedPicture]) -> list[Record]:
        """The record of every edited picture, with its metrics or its error."""
        images = [picture.image for picture in pictures if picture.image is not None]
        scorers, names = self.instruments.scorers, self.request.metrics
        with self._timed("metrics"):
            scores = iter(score_images(scorers, self._reference, images, names) if images else [])
            doubts = self._doubts if images else {}
        return [
            self.recorder.record(self.task, picture.setting, error=picture.error)
            if picture.image is None
            else self.recorder.record(self.task, picture.setting, next(scores), picture.notes | doubts)
            for picture in pictures
        ]

    def _search(self, records: Sequence[Record]) -> Iterator[tuple[list[EditedPicture], list[Record]]]:
        """Pictures and records at further strengths, until every search has met its budgets or cannot.

        As many conditions are searched together as there are rows in a batch, so that as many plans are in memory. A
        fault ends their searches, and is the reason in the records of the strengths that come next.

        Args:
            records: of the task's settings.
        """
        searches = {known.searched: replace(known, points=dict(known.points)) for known in self.task.searches}
        for setting, record in zip(self.task.settings, records, strict=True):
            searches[setting.searched].points[setting.setting.strength] = lpips_of(record)
        order, batch = self._in_order({number for number, _ in searches}), self.model.batch
        for start in range(0, len(order), batch):
            together = [search for key, search in searches.items() if key[0] in order[start : start + batch]]
            plans: dict[int, Plan | Exception] = {}
            while settings := self.recorder.next_of(self.task, together):
                try:
                    pictures = self.edit(settings, plans)
                    records = self.score(pictures)
                except Exception as error:  # noqa: BLE001 - as any fault of a pair
                    yield [], self.recorder.failures(self.task._replace(settings=settings), error, "search")
                    break
                yield pictures, list(records)
                for setting, record in zip(settings, records, strict=True):
                    searches[setting.searched].points[setting.setting.strength] = lpips_of(record)

    def _timed(self, name: str) -> AbstractContextManager[None]:
        """A stage of the work, as a ``with`` statement."""
        return nullcontext() if self._trace is None else self._trace.stage(name)

    def _images(self, pictures: Sequence[EditedPicture]) -> dict[str, Image]:
        """The pictures of the pair by name; masks in black and white."""
        white = np.uint8(255)
        return {
            "base": self.base.image,
            "source": self.source.image,
            "mask-base": self.base_mask.astype(np.uint8) * white,
            "mask-source": self.source_mask.astype(np.uint8) * white,
            **{picture.setting.key: picture.image for picture in pictures if picture.image is not None},
        }


def _versions(seen: Observed) -> Mapping[int, int]:
    """The identity of each tensor that methods share, to how often it was changed in place."""
    groups = (seen.base, seen.source, seen.base_masks, seen.source_masks, seen._kept)
    shared = [value for group in groups for value in group.values() if isinstance(value, Tensor)]
    shared += [weight for sae in seen.saes.values() for weight in sae.parameters()]
    return {id(tensor): tensor._version for tensor in shared}


@contextmanager
def _naming(method: str) -> Iterator[None]:
    """Around a method's code: its faults name the method, and ``sys.exit`` is one of them.

    Raises:
        PairError: naming the method.
    """
    name = f"the method {method!r}"
    try:
        yield
    except PairError as error:
        raise PairError(f"{name}: {error}", error.where) if error.where in ("method", "model") else error from None
    except SystemExit as error:
        raise PairError(f"{name} raised SystemExit: {error}", "method") from error
