"""The work on one pair: base and source run, masks, edited runs, metrics, records."""

from __future__ import annotations

import logging
from collections.abc import Collection, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from riebench.engine.edited_runs import EditedPicture, EditedRuns
from riebench.engine.learnt_files import LearntFiles
from riebench.engine.pair_task import PairResult, PairSetting, PairTask
from riebench.engine.recorder import Recorder
from riebench.engine.sae_check import notes_at, notes_of_saes
from riebench.instruments.loading import Instruments
from riebench.masks import Mask, Region, to_grid
from riebench.methods import Observed, Plan
from riebench.methods.interface import RunName
from riebench.metrics import Reference, doubts_of_texts, score_images
from riebench.models import Edit, Model, Run, neuron_sites
from riebench.models.sae_sites import read_site
from riebench.pairs import Pair
from riebench.prompts import Prompted
from riebench.records import Record
from riebench.settings.lpips_search import lpips_of
from riebench.settings.protocols import PROTOCOLS
from riebench.util.trace import Trace

if TYPE_CHECKING:
    from riebench.metrics.clip import ClipScorer
    from riebench.metrics.seen import Image

logger = logging.getLogger(__name__)


class PairWork:
    """The work on one pair. What its settings share is done once.

    Nothing that it holds refers to it, so that the tensors of a pair are freed with it, and wait for no collection of
    garbage.

    Args:
        task: the pair and its settings.
        recorder: of the run.
        instruments: of the run.
        kept_for_all: what methods keep from pair to pair.
        learnt: keeps what methods learn in the run's folder.
        trace: times the stages of the work; None times nothing.

    Attributes:
        stage: of the work, as a failed record names it.
        base: the run without an edit, with its values; this and the following from :meth:`observe` on.
        source: the run of the edit prompt, with its values.
        base_mask: boolean ``[height, width]``: where the original phrase is in the base image.
        source_mask: boolean ``[height, width]``: where the edit phrase is in the source image.
        seen: what methods see; the sites are those of each condition.
        edited: the edited runs.
    """

    base: Run
    source: Run
    base_mask: Mask
    source_mask: Mask
    seen: Observed
    edited: EditedRuns

    def __init__(
        self,
        task: PairTask,
        recorder: Recorder,
        instruments: Instruments,
        kept_for_all: dict[Hashable, Any],
        learnt: LearntFiles,
        trace: Trace | None = None,
    ) -> None:
        self.task, self.recorder, self.instruments = task, recorder, instruments
        self.request, self.model = recorder.request, instruments.model
        self.protocol = PROTOCOLS[self.request.protocol]
        self.stage = "observing"
        self._kept_for_all, self._learnt, self._timed = kept_for_all, learnt, partial(_timed_by, trace)
        self._pictures: list[EditedPicture] = []
        self._records: list[Record] = []

    def generate(self) -> None:
        """Make the edited pictures of all settings; with a search, also all that follows from their metrics.

        Raises:
            Exception: if the whole pair fails.
        """
        with self._timed("base and source run, masks"):
            self.observe()
        self.stage = "engine"
        self._pictures = self.edited.pictures(self.task.settings)
        self.stage = "metrics"
        if self.task.searches:
            self._records = self.score(self._pictures)
            for more_pictures, more_records in self._search(tuple(self._records)):
                self._pictures += more_pictures
                self._records += more_records

    def result(self) -> PairResult:
        """The records of all settings and of the search, and the pictures if they are kept.

        The model is not needed, so that it can generate the next pair's pictures at the same time.

        Raises:
            Exception: if the whole pair fails.
        """
        records = self._records or self.score(self._pictures)
        return PairResult(records, self._images(self._pictures) if self.task.keep_images else {})

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
            base_masks=MappingProxyType(_on_grids(base_region, captured, self.instruments)),
            source_masks=MappingProxyType(_on_grids(source_region, captured, self.instruments)),
            saes=MappingProxyType({site: self.model.sae(site) for site in with_sae}),
            seed=seed,
            protocol=self.protocol,
            pictures=MappingProxyType(pictures),
            regions=MappingProxyType(regions),
            generate=partial(_generate, self.model, self.request.steps),
            locate=partial(_locate, self.instruments, captured),
            similarity=partial(_similarity, self.instruments.scorers.clip),
            _kept_for_all=self._kept_for_all,
        )
        self._about_saes = notes_of_saes(self.seen)
        self.base, self.source, self.base_mask, self.source_mask = base, source, base_mask, source_mask
        runs = (base.image, source.image)
        self.edited = EditedRuns(self.task, self.recorder, self.model, self.seen, *runs, self._timed, self._learnt)

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
                captured.update(read_site(block, self.model.sae(block)) for block in blocks)
        return [site for site in sites if site in captured], [site for site in sites if site in with_sae]

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
            else self.recorder.record(
                self.task,
                picture.setting,
                next(scores),
                picture.notes | doubts | notes_at(self._about_saes, self._blocks_with_saes(picture.setting)),
            )
            for picture in pictures
        ]

    def _blocks_with_saes(self, setting: PairSetting) -> tuple[str, ...]:
        """The blocks of a setting, if its method uses SAEs."""
        return setting.setting.blocks if self.recorder.methods[setting.condition].entry.needs_sae else ()

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
        order, batch = self.edited.in_order({number for number, _ in searches}), self.model.batch
        for start in range(0, len(order), batch):
            together = [search for key, search in searches.items() if key[0] in order[start : start + batch]]
            plans: dict[int, Plan | Exception] = {}
            while settings := self.recorder.next_of(self.task, together):
                try:
                    pictures = self.edited.pictures(settings, plans)
                    records = self.score(pictures)
                except Exception as error:  # noqa: BLE001 - as any fault of a pair
                    yield [], self.recorder.failures(self.task._replace(settings=settings), error, "search")
                    break
                yield pictures, list(records)
                for setting, record in zip(settings, records, strict=True):
                    searches[setting.searched].points[setting.setting.strength] = lpips_of(record)

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


def _timed_by(trace: Trace | None, stage: str) -> AbstractContextManager[None]:
    """A stage of the work, as a ``with`` statement."""
    return nullcontext() if trace is None else trace.stage(stage)


def _on_grids(region: Region, sites: Sequence[str], instruments: Instruments) -> dict[str, Tensor]:
    """Site to the region on its grid, boolean ``[positions]`` on the model's device."""
    model = instruments.model
    grids = {site: model.sites[site].grid for site in sites}
    cells = {grid: to_grid(region, *grid, instruments.rules).ravel() for grid in set(grids.values())}
    on_device = {grid: torch.from_numpy(mask).to(model.device) for grid, mask in cells.items()}
    return {site: on_device[grid] for site, grid in grids.items()}


def _generate(
    model: Model,
    steps: int,
    prompts: Sequence[str],
    seeds: Sequence[int],
    capture: Collection[str],
    edits: Sequence[Edit] = (),
) -> Iterator[Run]:
    """Further runs, for methods that look at more than their pair.

    Raises:
        UserError: if the model cannot draw a prompt.
    """
    if model.own:
        model.entry.check_prompts(prompts)
    if edits:
        return iter(model.generate(prompts, seeds, steps, edits=edits, capture=capture))
    return model.runs(list(map(Prompted, prompts, seeds)), steps, capture)


def _locate(
    instruments: Instruments, sites: Sequence[str], pair: Pair, base: Image, source: Image
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The masks (base, source) of a pair's phrases in pictures of further runs, on the grid of each site."""
    source_region, base_region = instruments.masks(pair, base, source)
    return _on_grids(base_region, sites, instruments), _on_grids(source_region, sites, instruments)


def _similarity(clip: ClipScorer, pictures: Sequence[Image], prompt: str) -> list[float]:
    """The CLIP similarity of pictures with a prompt."""
    return (clip.images(pictures) @ clip.text(prompt)).tolist() if pictures else []
