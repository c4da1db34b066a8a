"""What concept methods share: the contrasts of a pair, what their runs show, and the frame of a method that learns.

A concept method learns an edit from *contrasts*: pairs of other prompts, with and without the concept, that are
generated from the same seed. It never looks at the source run of the pair that it edits.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, NamedTuple

from pydantic import Field

from riebench.methods import Change, Observed, Plan
from riebench.mini.grammar import PromptError, asked_attribute, contrasts, grounding_phrases, held_out, parse
from riebench.models.sites import NEURONS, Run
from riebench.pairs import Contrast, Pair, change_of, read_contrasts
from riebench.pairs.contrasts import UNMARKED, refuse_reported
from riebench.records import record_key
from riebench.util.errors import PairError, UserError

if TYPE_CHECKING:
    from torch import Tensor

FIRST_SEED = 3_000_000
"""Of the contrasts' runs; far from the seeds of pairs."""
MOST_KEPT = 256_000_000
"""Bytes of further runs that are kept in memory, so that pairs with a common value need not make them again."""

ContrastFile = Annotated[
    str | None,
    Field(
        description="File of contrasts, on each line an original prompt, a tab and an edit prompt; after further tabs"
        " their grounding phrases, if these are not the pair's. A pair takes the lines with its own words in"
        " brackets, else those without brackets. Mini's grammar writes them unless it is given."
    ),
]
Count = Annotated[int, Field(gt=0, description="Contrasts at most.")]
Everywhere = Annotated[bool, Field(description="Act at all positions; else at the base mask's.")]
Seed = Annotated[int, Field(ge=0, description="Of all that is drawn at random in training.")]


def check_contrasts(method: str, file: str | None, option: str, pairs: Sequence[Pair], count: int) -> None:
    """Refuse a run whose pairs have no contrasts, or are among them; before anything is loaded.

    Raises:
        UserError: if the file cannot be read, holds a prompt of a pair, or the grammar does not know the pairs.
    """
    if file is not None:
        refuse_reported(read_contrasts(Path(file)), pairs, Path(file))
        return
    try:
        edits = {asked_attribute(pair.original_prompt, pair.editing_prompt): pair for pair in pairs}
    except PromptError:
        raise UserError(f"the method {method!r} needs prompts for each edit; give --option {option}=FILE") from None
    reported = {parse(prompt) for pair in pairs for prompt in (pair.original_prompt, pair.editing_prompt)}
    for pair in edits.values():
        for number, prompts in written_by_grammar(pair, count):
            if reported & set(map(parse, prompts)):
                raise UserError(
                    f"contrast {number} of pair {pair.id!r} is a prompt of a pair that is reported ({prompts[0]!r} or"
                    f" {prompts[1]!r}); leave out that pair, or give --option {option}=FILE"
                )


def written_by_grammar(pair: Pair, count: int) -> list[tuple[int, tuple[str, str]]]:
    """Contrasts that mini's grammar writes for a pair, each with its number; none of the grammar's held-out scenes."""
    drawn = enumerate(contrasts(pair.original_prompt, pair.editing_prompt, 2 * count + 20))
    return [(number, prompts) for number, prompts in drawn if not any(held_out(parse(text)) for text in prompts)][
        :count
    ]


def lines_for(seen: Observed, file: Path) -> Sequence[Contrast]:
    """The contrasts of a file for the edit of the pair.

    Raises:
        PairError: if there are none.
    """
    every = seen.once(("contrasts", file), lambda: read_contrasts(file), for_all_pairs=True)
    lines = every.get(change_of(seen.pair.original_prompt, seen.pair.editing_prompt)) or every.get(UNMARKED)
    if not lines:
        raise PairError(f"{file} has no prompts for this edit; give lines with the same words in brackets", "method")
    return lines


def contrasts_of(seen: Observed, file: str | None, count: int) -> list[Pair]:
    """The contrasts of the pair as pairs of the same category, each with its phrases and its seed.

    Raises:
        PairError: if there are none, or the pair's seed is one of theirs.
    """
    pair = seen.pair
    if file is None:
        name = asked_attribute(pair.original_prompt, pair.editing_prompt)
        numbered = [
            (number, Contrast(*prompts, *grounding_phrases(name, *map(parse, prompts))))
            for number, prompts in written_by_grammar(pair, count)
        ]
    else:
        numbered = list(enumerate(lines_for(seen, Path(file))[:count]))
    if FIRST_SEED <= seen.seed <= FIRST_SEED + numbered[-1][0]:
        raise PairError(f"the seed {seen.seed} is that of a contrast; give one below {FIRST_SEED}", "method")
    return [
        pair.model_copy(
            update={
                "id": f"contrast-{number}",
                "original_prompt": contrast.original,
                "editing_prompt": contrast.edit,
                "original_gsam_prompt": contrast.original_phrase or pair.original_gsam_prompt,
                "editing_gsam_prompt": contrast.edit_phrase or pair.editing_gsam_prompt,
                "seed": FIRST_SEED + number,
            }
        )
        for number, contrast in numbered
    ]


class Shown(NamedTuple):
    """What the two runs of a contrast show.

    Attributes:
        pair: the contrast.
        without: site to the values ``[steps, positions, width]`` of the run without the concept.
        having: the same of the run with it.
        without_masks: site to boolean ``[positions]``: where the original phrase is.
        having_masks: site to boolean ``[positions]``: where the edit phrase is.
    """

    pair: Pair
    without: Mapping[str, Tensor]
    having: Mapping[str, Tensor]
    without_masks: Mapping[str, Tensor]
    having_masks: Mapping[str, Tensor]


class RecentRuns:
    """The runs of the last contrasts, up to :data:`MOST_KEPT` bytes; an object, so that it may forget some."""

    def __init__(self) -> None:
        self.runs: OrderedDict[tuple[object, ...], Run] = OrderedDict()
        self.bytes = 0

    def of(self, seen: Observed, prompted: Sequence[tuple[str, int]]) -> list[Run]:
        """The runs of prompts and seeds, with the values at all captured blocks."""
        blocks = tuple(site for site in seen.base if NEURONS not in site or site in seen.sites)
        missing = [one for one in dict.fromkeys(prompted) if (*one, blocks) not in self.runs]
        made: dict[tuple[object, ...], Run] = {}
        if missing:
            prompts, seeds = zip(*missing, strict=True)
            made = {
                (*one, blocks): run for one, run in zip(missing, seen.generate(prompts, seeds, blocks), strict=True)
            }
        found = [made.get((*one, blocks)) or self.runs[*one, blocks] for one in prompted]
        for key, run in made.items():
            self.runs[key] = run
            self.bytes += size_of(run)
        while self.bytes > MOST_KEPT:
            self.bytes -= size_of(self.runs.popitem(last=False)[1])
        return found


def size_of(run: Run) -> int:
    """Bytes of a run's values."""
    return sum(values.nbytes for values in run.values.values())


def show(seen: Observed, pairs: Sequence[Pair]) -> list[Shown]:
    """The runs of contrasts with their masks; one whose phrases are not found is left out. Made once for a pair.

    Raises:
        PairError: if the phrases of no contrast are found.
    """

    def work() -> list[Shown]:
        recent = seen.once(("recent runs",), RecentRuns, for_all_pairs=True)
        seeds = [pair.seed or 0 for pair in pairs]
        without = recent.of(seen, [(pair.base_prompt, seed) for pair, seed in zip(pairs, seeds, strict=True)])
        having = recent.of(seen, [(pair.edit_prompt, seed) for pair, seed in zip(pairs, seeds, strict=True)])
        shown, reason = [], ""
        for pair, before, after in zip(pairs, without, having, strict=True):
            try:
                masks = seen.locate(pair, before.image, after.image)
            except PairError as error:
                reason = str(error)
            else:
                shown.append(Shown(pair, before.values, after.values, *masks))
        if not shown:
            raise PairError(f"no contrast shows what its phrases name: {reason}", "method")
        return shown

    return seen.once(("contrasts shown", tuple((p.original_prompt, p.editing_prompt) for p in pairs)), work)


def mean_differences(shown: Sequence[Shown], site: str) -> Tensor:
    """The mean value at the mask with the concept minus that without it, of each contrast, ``[n, steps, width]``."""
    import torch

    return torch.stack(
        [
            one.having[site][:, one.having_masks[site]].mean(1) - one.without[site][:, one.without_masks[site]].mean(1)
            for one in shown
        ]
    )


def at_masks(shown: Sequence[Shown], site: str) -> tuple[Tensor, Tensor]:
    """All values at the masks without the concept and with it, each ``[n, width]``; steps and contrasts are joined."""
    import torch

    without = [one.without[site][:, one.without_masks[site]].flatten(0, 1) for one in shown]
    having = [one.having[site][:, one.having_masks[site]].flatten(0, 1) for one in shown]
    return torch.cat(without).clone(), torch.cat(having).clone()


def laid(direction: Tensor, seen: Observed, site: str, everywhere: bool) -> Tensor:
    """A direction ``[steps, width]`` at the positions of the base mask, or at all, ``[steps, positions, width]``."""
    spread_out = direction[:, None].expand_as(seen.base[site])
    return spread_out if everywhere else spread_out * seen.base_masks[site][:, None]


@dataclass(frozen=True)
class ConceptMethod:
    """A method that learns from contrasts, once for an edit and its sites.

    A subclass has ``learn``; what it returns is kept in the run's folder. Where that is a direction of each site,
    ``direction@SITE``, the change is this direction at the base mask.
    """

    contrasts: ContrastFile = None
    count: Count = 32
    everywhere: Everywhere = False
    name: ClassVar[str]

    @property
    def files(self) -> list[str]:
        """What its numbers also depend on: the contrasts, and the code that concept methods share."""
        return [__file__, *([] if self.contrasts is None else [self.contrasts])]

    def check(self, pairs: Sequence[Pair], steps: int) -> None:
        check_contrasts(self.name, self.contrasts, "contrasts", pairs, self.count)

    def learn(self, seen: Observed, shown: Sequence[Shown]) -> dict[str, Tensor]:
        """What is learnt from contrasts at the sites, as tensors by name."""
        raise NotImplementedError

    def change(self, seen: Observed, site: str, learnt: Mapping[str, Tensor]) -> Change | None:
        """The change of one site; None for none."""
        return laid(learnt[f"direction@{site}"], seen, site, self.everywhere)

    def notes(self, seen: Observed, learnt: Mapping[str, Tensor]) -> dict[str, float | int | str]:
        """Facts for the record: by default every learnt number that is not of a site."""
        return {name: value.item() for name, value in learnt.items() if value.ndim == 0 and "@" not in name}

    def plan(self, seen: Observed) -> Plan:
        pairs = contrasts_of(seen, self.contrasts, self.count)
        options = {name: value for name, value in dataclasses.asdict(self).items() if name != "contrasts"}
        key = record_key(
            method=self.name,
            options=options,
            contrasts=[pair.model_dump(exclude={"editing_instruction"}) for pair in pairs],
            sites=seen.sites,
        )
        learnt = seen.learnt(key, lambda: self._learnt(seen, pairs))
        changes = {site: change for site in seen.sites if (change := self.change(seen, site, learnt)) is not None}
        return Plan(changes, notes=self.notes(seen, learnt))

    def _learnt(self, seen: Observed, pairs: Sequence[Pair]) -> dict[str, Tensor]:
        import torch

        shown = show(seen, pairs)
        return {"contrasts": torch.tensor(len(shown)), **self.learn(seen, shown)}
