"""The request of an ablation, checked before anything is loaded. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from riebench.instruments.handed_in import HandedIn, check_loaded
from riebench.models.arguments import is_whole, whole
from riebench.models.entries import entry_and_settings
from riebench.models.model import ModelEntry
from riebench.models.sites import block_sites, blocks_first, default_blocks
from riebench.prompts import Prompted
from riebench.settings.settings import Settings, parse_settings, refuse_without_effect
from riebench.util.errors import UserError, unknown
from riebench.weights import locate

if TYPE_CHECKING:
    from riebench.metrics import Scorers
    from riebench.models.model import Model

ALL, DEFAULT = "all", "default"
PUBLISHED_PROMPTS = 20
"""Prompts over which the paper takes its means."""
MASKER = ("detector", "text-encoder", "segmenter")
"""Weights of a model's instruments that an ablation does without."""
BlockSet = tuple[str, ...]
"""Blocks whose updates are zeroed together, in the order in which they run."""


@dataclass(frozen=True)
class AblationRequest:
    """A resolved ablation.

    Attributes:
        entry: the model.
        settings: of the model and of the scorers.
        sets: the sets of blocks that are zeroed in turn: single blocks first, in the order in which they run.
        prompted: prompts and seeds of the pictures.
        location: of the prompts.
        steps: denoising steps.
        batch: rows in one forward pass at most.
        keep_images: prompts whose pictures are kept.
        model: a loaded model that takes the place of the entry's own.
        scorers: CLIP and LPIPS in place of those that belong to the model's name.
    """

    entry: ModelEntry
    settings: Settings
    sets: tuple[BlockSet, ...]
    prompted: Sequence[Prompted]
    location: str
    steps: int
    batch: int
    keep_images: int
    model: Model | None = None
    scorers: Scorers | None = None


def resolve_ablation(
    model: str | Path | Model,
    blocks: str | Iterable[str],
    *,
    together: str | Iterable[str] = (),
    prompts: int | str | Path | None = None,
    count: int | None = None,
    column: str | None = None,
    steps: int | None = None,
    batch: int = 8,
    keep_images: int = 4,
    scorers: Scorers | None = None,
    settings: Mapping[str, Any] | None = None,
) -> AblationRequest:
    """The checked request of an ablation; its arguments are those of :func:`riebench.ablate`.

    Raises:
        UserError: if the model, a block or a setting is unknown, weights are missing, or the prompts cannot be read.
    """
    check_loaded("model", str(model) if isinstance(model, Path) else model)
    check_loaded("scorers", scorers)
    handed_in = HandedIn(None if isinstance(model, str | Path) else model, None, scorers)
    loaded = handed_in.model
    if isinstance(model, str | Path):
        entry, parsed = entry_and_settings(model, {} if settings is None else settings)
        sites = entry.sites(parsed)
    else:
        entry, parsed, sites = model.entry, parse_settings({} if settings is None else settings), model.sites
    handed_in.check_settings(parsed)
    refuse_without_effect(
        parsed, ("masker.", "sae.", "dino.", "lpips.squeeze"), "an ablation does without; leave it out"
    )
    sets = block_sets(blocks, together, [*sites], default_blocks(entry.default_sites, sites))
    steps = entry.steps if steps is None else whole("steps", steps, 1, entry.most_steps)
    batch, keep_images = whole("batch", batch, 1), whole("keep_images", keep_images, 0)
    count = None if count is None else whole("count", count, 1)
    location, number = _which_prompts(prompts, count, entry)
    prompted = entry.read_prompts(location, number, "held-out", column, own=loaded is None or loaded.own)
    if entry.parts:
        locate(entry.name, entry.parts, parsed, optional=("sae",), without=[*MASKER, *handed_in.parts])
    return AblationRequest(entry, parsed, sets, prompted, location, steps, batch, keep_images, loaded, scorers)


def block_sets(
    blocks: str | Iterable[str], together: str | Iterable[str], known: Sequence[str], default: Sequence[str]
) -> tuple[BlockSet, ...]:
    """The sets of blocks that are zeroed, each once: smaller ones first, then in the order in which they run.

    Args:
        blocks: each of them a set; a name, names joined by ``+``, ``all`` or ``default``; several with commas between.
        together: blocks of which every two are also a set.
        known: the model's sites in the order in which they run; ``all`` means those that are blocks.
        default: the blocks that ``default`` means.

    Raises:
        UserError: if a block is unknown, none is named, or ``together`` names only one.
    """
    order = {name: number for number, name in enumerate(known)}

    def expanded(word: str) -> list[BlockSet]:
        if word in (ALL, DEFAULT):
            return [(name,) for name in (block_sites(known) if word == ALL else default)]
        names = word.split("+")
        for name in names:
            if name not in order:
                raise unknown("block", name, blocks_first(known, ALL, DEFAULT))
        return [tuple(sorted(set(names), key=order.__getitem__))]

    pair = ",".join(block_sites(known)[:2])
    sets = {blocks for word in _words("blocks", blocks) for blocks in expanded(word)}
    named = {name for word in _words("together", together) for blocks in expanded(word) for name in blocks}
    paired = sorted(named, key=order.__getitem__)
    if len(paired) == 1:
        raise UserError(f"together names {paired[0]} alone; expected two blocks or more, as {pair}")
    sets |= set(combinations(paired, 2))
    if not sets:
        raise UserError(f"no block was named; give --blocks all, --blocks default, or names, as --blocks {pair}")
    return tuple(sorted(sets, key=lambda names: (len(names), [order[name] for name in names])))


def _words(argument: str, names: Any) -> list[str]:
    parts = [names] if isinstance(names, str) else list(names) if isinstance(names, Iterable) else [names]
    for part in parts:
        if not isinstance(part, str):
            raise UserError(f"{argument} holds {part!r}; expected names of blocks, as 'mid.0,up.0.0' or a list")
    return [word.strip() for part in parts for word in part.split(",") if word.strip()]


def _which_prompts(prompts: int | str | Path | None, count: int | None, entry: ModelEntry) -> tuple[str, int | None]:
    """The location of the prompts and their number; None for all of a file."""
    if prompts is None and count is None:
        prompts = PUBLISHED_PROMPTS
    if not (prompts is None or is_whole(prompts) or isinstance(prompts, str | Path)):
        raise UserError(f"prompts is {prompts!r}; expected a whole number, or a file")
    word = "" if prompts is None else str(prompts)
    if not word.lstrip("-").isdigit():
        return entry.prompts_location(word or None), count
    if count is not None:
        raise UserError(f"the number of prompts is given twice, as {word} and as {count}; leave out one")
    if int(word) < 1:
        raise UserError(f"--prompts is {word}; expected 1 or more, or a file")
    return entry.prompts_location(None), int(word)
