"""The work on one prompt: its untouched picture, a picture for each set of blocks, and their distances."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from riebench.ablation.ablation_folder import Ablation, Zeroing
from riebench.ablation.ablation_request import MASKER, AblationRequest, BlockSet
from riebench.features.switching import zeroed
from riebench.instruments.loading import assemble_scorers, model_instruments, world_of
from riebench.metrics.scoring import whole_text
from riebench.models.devices import types_as_loaded
from riebench.models.sites import Edit
from riebench.prompts import Prompted, prompts_hash
from riebench.records.schema import Value
from riebench.settings.protocols import PROTOCOLS
from riebench.util.errors import PairError

log = logging.getLogger(__name__)
PROTOCOL = "riebench"
DIGITS = 6
Picture = NDArray[np.uint8]


class PromptResult(NamedTuple):
    """The records of a prompt and, if they are kept, its pictures by set of blocks; ``()`` is the untouched picture."""

    zeroings: list[Zeroing]
    pictures: Mapping[BlockSet, Picture]


class AblationWorker:
    """The worker of an ablation: holds the model and its instruments.

    Args:
        request: the ablation.

    Attributes:
        ablation: its facts, with the fingerprints of all weights.

    Raises:
        UserError: if weights are missing, or a prompt is not of the model's world.
    """

    copies = False

    def __init__(self, request: AblationRequest) -> None:
        self.request = request
        entry, settings = request.entry, request.settings
        self.model = request.model or entry.load(settings)
        self.model.batch = request.batch
        conditions: dict[str, Value] = dict(self.model.conditions)
        if request.scorers is None:
            without = (*MASKER, "model") if request.model else MASKER
            own = model_instruments(entry, settings, PROTOCOLS[PROTOCOL], without)
            self.scorers = assemble_scorers(own)
            conditions |= own.conditions
        else:
            self.scorers = request.scorers
        measuring: dict[str, Any] = {"clip": self.scorers.clip, "lpips": self.scorers.lpips}
        self.world = world_of(entry) if self.model.own else None
        if self.world is not None:
            for prompt, _ in request.prompted:
                self.world.shown(prompt)
        self.ablation = Ablation(
            model=entry.name,
            parts={
                "model": self.model.fingerprint,
                **{name: f"{part.name}-{part.fingerprint}" for name, part in measuring.items()},
            },
            metric_names={name: part.name for name, part in measuring.items()},
            conditions=conditions,
            steps=request.steps,
            sets=request.sets,
            location=request.location,
            prompts=len(request.prompted),
            prompts_sha256=prompts_hash(request.prompted),
            truth=self.world is not None,
        )

    def work(self, task: int) -> PromptResult:
        """The records of a prompt by its number."""
        prompted, sets = self.request.prompted[task], self.request.sets
        outcomes = self._pictures(prompted, ((), *sets))
        untouched = outcomes[()]
        pictures = {blocks: picture for blocks, picture in outcomes.items() if not isinstance(picture, PairError)}
        if isinstance(untouched, PairError):
            faults, scored = dict.fromkeys(sets, untouched), {}
        else:
            faults = {blocks: fault for blocks, fault in outcomes.items() if isinstance(fault, PairError)}
            with types_as_loaded(self.model.device):
                scored = self._scored(prompted, pictures)
        failed = {
            blocks: Zeroing(**prompted._asdict(), blocks=blocks, status="failed", reason=str(fault))
            for blocks, fault in faults.items()
        }
        kept = pictures if task < self.request.keep_images else {}
        return PromptResult([scored.get(blocks) or failed[blocks] for blocks in sets], kept)

    def give_up(self, task: int, reason: str) -> PromptResult:
        """Failed records of a prompt at which workers died."""
        prompted = self.request.prompted[task]._asdict()
        failed = [Zeroing(**prompted, blocks=blocks, status="failed", reason=reason) for blocks in self.request.sets]
        return PromptResult(failed, {})

    def _pictures(self, prompted: Prompted, sets: Sequence[BlockSet]) -> dict[BlockSet, Picture | PairError]:
        """A picture or a fault for each set of blocks.

        If a set fails its whole batch, each set is generated alone, so that the other sets have their pictures.
        """
        prompt, seed = prompted
        edits = [Edit(dict.fromkeys(blocks, zeroed)) for blocks in sets]
        try:
            runs = self.model.generate([prompt] * len(sets), [seed] * len(sets), self.request.steps, edits=edits)
            return {blocks: run.image for blocks, run in zip(sets, runs, strict=True)}
        except PairError as error:
            if len(sets) == 1:
                return {sets[0]: error}
            return {blocks: self._pictures(prompted, [blocks])[blocks] for blocks in sets}

    def _scored(self, prompted: Prompted, pictures: Mapping[BlockSet, Picture]) -> dict[BlockSet, Zeroing]:
        """A record for each set of blocks that has a picture."""
        images = list(pictures.values())
        clip = self.scorers.clip
        if cut := clip.cut(prompted.prompt):
            log.warning("no CLIP similarity with the prompt %r (seed %d), which has %s", *prompted, cut)
        similar = (clip.images(images).double() @ whole_text(clip, prompted.prompt)).tolist()
        read = [None if self.world is None else dict(self.world.read(image, *prompted)) for image in images]
        rows = zip(pictures, self._distances(images), similar, read, strict=True)
        return {
            blocks: Zeroing(
                **prompted._asdict(),
                blocks=blocks,
                lpips=_rounded(lpips),
                clip=_rounded(value),
                clip_untouched=_rounded(similar[0]),
                untouched=read[0],
                zeroed=shown,
            )
            for blocks, lpips, value, shown in rows
            if blocks
        }

    def _distances(self, images: Sequence[Picture]) -> list[float]:
        """LPIPS of each picture to the first; the features of no more than a batch of them are in memory."""
        lpips, totals = self.scorers.lpips, []
        (base,) = lpips.features(images[:1])
        for start in range(0, len(images), lpips.batch):
            features = lpips.features(images[start : start + lpips.batch])
            totals += lpips.totals([lpips.layers(base, picture) for picture in features])
        return totals


def _rounded(value: float) -> float | None:
    """A number as records keep it; None for NaN."""
    return None if math.isnan(value) else round(value, DIGITS)
