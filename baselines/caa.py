"""Contrastive activation addition (arXiv 2312.06681): one direction for an edit, learnt from many other prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from riebench.methods import Observed, Plan, method
from riebench.mini.grammar import Scene, contrasts, parse
from riebench.models.mini import ENTANGLED, PAIRS
from riebench.models.sites import NEURONS
from riebench.pairs import Contrast, Pair, load_pairs

from .contrasted import FIRST_SEED, check_contrasts, lines_for

if TYPE_CHECKING:
    from torch import Tensor

Prompts = Annotated[
    str | None,
    Field(
        description="File of contrasts, also given as contrasts=FILE: on each line an original prompt, a tab and an"
        " edit prompt. A pair takes the lines with its own words in brackets, else those without brackets. Mini's"
        " grammar writes them unless it is given."
    ),
]
Count = Annotated[int, Field(gt=0, description="Prompts of each side that the grammar writes.")]
Everywhere = Annotated[bool, Field(description="Add at all positions; else at the base mask's.")]


@method("caa")
class ContrastiveAddition:
    """Adds the mean update of many edit prompts minus that of their original prompts; sees no source run.

    A mean over all positions is short beside an update at one of them, so that strengths around 8 are usual.
    """

    prompts: Prompts = None
    count: Count = 32
    everywhere: Everywhere = False
    other_names: ClassVar[Mapping[str, str]] = {"contrasts": "prompts"}

    @property
    def files(self) -> list[str]:
        """What its numbers also depend on."""
        return [] if self.prompts is None else [self.prompts]

    def check(self, pairs: Sequence[Pair], steps: int) -> None:
        check_contrasts("caa", self.prompts, "prompts", pairs, 1)

    def plan(self, seen: Observed) -> Plan:
        found = self.contrasts(seen)
        original, edit = [tuple(getattr(one, side) for one in found) for side in ("original", "edit")]
        added, removed = mean_updates(seen, edit), mean_updates(seen, original)
        changes = {}
        for site in seen.sites:
            direction = (added[site] - removed[site])[:, None].expand_as(seen.base[site])
            changes[site] = direction if self.everywhere else direction * seen.base_masks[site][:, None]
        return Plan(changes, notes={"prompts": len(original)})

    def contrasts(self, seen: Observed) -> Sequence[Contrast]:
        """Other prompts that make the edit of the pair; never its own, nor those of other pairs of mini's set."""
        pair = seen.pair
        if self.prompts is not None:
            return lines_for(seen, Path(self.prompts))
        reported = scenes_of_set(parse(pair.original_prompt), parse(pair.editing_prompt))
        written = contrasts(pair.original_prompt, pair.editing_prompt, self.count)
        return [Contrast(*both) for both in written if not reported & set(map(parse, both))]


@cache
def scenes_of_set(before: Scene, after: Scene) -> frozenset[Scene]:
    """The scenes of all pairs of that set of mini's which has a pair of these two; of any other pair, the two."""
    for file in (PAIRS, ENTANGLED):
        pairs = [(parse(pair.original_prompt), parse(pair.editing_prompt)) for pair in load_pairs(file)]
        if (before, after) in pairs:
            return frozenset(scene for both in pairs for scene in both)
    return frozenset((before, after))


def mean_updates(seen: Observed, prompts: tuple[str, ...]) -> Mapping[str, Tensor]:
    """Each block's mean update ``[steps, width]`` over prompts and positions, worked out once for all pairs."""
    import torch

    blocks = tuple(site for site in seen.base if NEURONS not in site or site in seen.sites)

    def work() -> Mapping[str, Tensor]:
        runs = seen.generate(prompts, range(FIRST_SEED, FIRST_SEED + len(prompts)), blocks)
        means = [{site: run.values[site].mean(1) for site in blocks} for run in runs]
        return {site: torch.stack([mean[site] for mean in means]).mean(0) for site in blocks}

    return seen.once(("mean updates", blocks, prompts), work, for_all_pairs=True)
