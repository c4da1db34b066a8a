"""Conditions of a run: each a method with its options on a set of sites. Needs no torch."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, FiniteFloat

from riebench.engine.presets import Sweep
from riebench.engine.run_options import ALL, STRENGTHS, RunOptions
from riebench.methods.registry import MethodEntry, find, method_names
from riebench.models.model import Model, ModelEntry
from riebench.models.sites import Site, block_of, blocks_first, default_blocks, neuron_sites, refuse_text
from riebench.pairs import Pair
from riebench.sae.folders import feature_count
from riebench.settings.intervals import Intervals
from riebench.settings.settings import Settings
from riebench.util.errors import UserError, unknown

if TYPE_CHECKING:
    from riebench.sae.sae import SAE

logger = logging.getLogger(__name__)


class Condition(BaseModel):
    """A method with its options on a set of sites; each strength of it in each interval of the steps is a setting.

    Attributes:
        method: its name, or ``package.module:Class``.
        options: all of them, in full.
        sites: the blocks that are edited together, in the order in which they run.
        strengths: factors on the whole intervention, each once.
        on_steps: the steps in which the method is on, from 0, of each interval; None for all.
    """

    model_config = ConfigDict(frozen=True)

    method: str
    options: dict[str, Any]
    sites: tuple[str, ...]
    strengths: Annotated[tuple[FiniteFloat, ...], AfterValidator(lambda values: tuple(dict.fromkeys(values)))]
    on_steps: Intervals = (None,)


class ModelSites(NamedTuple):
    """What a model offers to methods.

    Attributes:
        sites: by name.
        saes: by site; None if the SAEs of the model have not been fetched yet.
        default_blocks: the blocks that ``all`` stands for.
    """

    sites: Mapping[str, Site]
    saes: Mapping[str, Path | SAE] | None
    default_blocks: Sequence[str]

    @classmethod
    def of(cls, entry: ModelEntry, model: Model | None, settings: Settings) -> ModelSites:
        """The sites and SAEs of a loaded model, or of one that is not loaded yet."""
        if model is not None:
            return cls(model.sites, model.saes, model.default_sites)
        saes = entry.saes(settings)
        fetched = bool(saes) or settings.sae.folder is not None or all(part.name != "sae" for part in entry.parts)
        sites = entry.sites(settings)
        return cls(sites, saes if fetched else None, default_blocks(entry.default_sites, sites))

    def block_sets(self, names: Sequence[str], alone: bool) -> list[tuple[str, ...]]:
        """The sets of blocks, or of other sites, to edit, each in the order in which they run.

        Args:
            names: of blocks and sites that are edited together; ``all`` for the default blocks.
            alone: whether each of them is a set, too.

        Raises:
            UserError: if there is no name, or no such block.
        """
        known = [*self.sites]
        blocks = {block for name in names for block in (self.default_blocks if name == ALL else [name])}
        for block in names:
            if block not in known and block != ALL:
                raise unknown("block", block, blocks_first(known, ALL))
        refuse_text(blocks, self.sites, "a run, which scores a region,")
        if not blocks:
            examples = " or ".join(f"--block {name}" for name in (*self.default_blocks[:1], ALL))
            raise UserError(f"no block was named; give --block, as {examples}")
        together = tuple(sorted(blocks, key=known.index))
        return [together, *((block,) for block in together)] if alone and len(together) > 1 else [together]

    def candidates(self, method: MethodEntry, blocks: Sequence[str]) -> int | None:
        """How many features or neurons a method chooses from; None if it does not choose, or SAEs must be fetched.

        Raises:
            UserError: if the method needs an SAE that does not exist, or neurons of what is no block.
        """
        if method.needs_neurons:
            for block in blocks:
                if block != block_of(block):
                    wrong = f"a method of neurons takes whole blocks, and {block} is a site inside one"
                    raise UserError(f"{wrong}; give --block {block_of(block)}")
                if not neuron_sites(self.sites, block):
                    raise UserError(f"no neurons can be read at {block}; give another block, or leave out this method")
            return sum(self.sites[name].width for block in blocks for name in neuron_sites(self.sites, block))
        if not method.needs_sae or self.saes is None:
            return None
        for block in blocks:
            if block not in self.saes:
                raise unknown("SAE", block, self.saes or ["none; name a folder with --set sae.folder=DIR"])
        saes = [self.saes[block] for block in blocks]
        return sum(feature_count(sae) if isinstance(sae, Path) else sae.n_features for sae in saes)


def sweep_of(options: RunOptions) -> Sweep:
    """The sweep that options name: methods, strengths, k and further options.

    Raises:
        UserError: if there is no method, or k is given twice.
    """
    if not options.method:
        raise UserError("no method was named; give --method, as --method sae, or --preset paper")
    names = [name for word in options.listed["method"] for name in (method_names() if word == ALL else [word])]
    further = dict(options.options or {})
    if options.k is not None and "k" in further:
        raise UserError(f"k is given twice, as k {options.k} and as option k={further['k']}; leave out one")
    strengths = list(STRENGTHS) if options.strength is None else options.listed["strength"]
    further.pop("k", None)
    return Sweep(list(dict.fromkeys(names)), strengths, options.listed["k"], further)


def usable_methods(
    sweep: Sweep, pairs: Sequence[Pair], steps: int, intervals: Intervals, leave_out: bool
) -> dict[str, MethodEntry]:
    """The methods of a sweep that can be run on the pairs in so many steps.

    Args:
        sweep: names the methods.
        pairs: of the run.
        steps: denoising steps.
        intervals: steps in which the methods are on.
        leave_out: whether a method that refuses is left out with a warning.

    Raises:
        UserError: if a method does not exist, or refuses and is not to be left out.
    """
    methods = {name: find(name) for name in sweep.methods}
    for name, method in list(methods.items()):
        try:
            method.check_intervals(intervals)
            if method.checks_runs:
                method.check_run(method.create(_shared_options(sweep, method)), pairs, steps)
        except UserError as error:
            if not leave_out:
                raise
            logger.warning("left out: %s", error)
            del methods[name]
    return methods


def conditions_of(
    sweep: Sweep,
    methods: Mapping[str, MethodEntry],
    block_sets: Sequence[tuple[str, ...]],
    intervals: Intervals,
    model_sites: ModelSites,
) -> list[Condition]:
    """Every method of a sweep with its options on every set of blocks, each once.

    Args:
        sweep: values to try.
        methods: those of the sweep that can be run.
        block_sets: blocks that are edited together.
        intervals: steps in which the methods are on.
        model_sites: what the model offers.

    Raises:
        UserError: if no method has an option, a value does not fit, or the model lacks an SAE.
    """
    known = sorted({option for method in methods.values() for option in method.option_names})
    for option in [*sweep.options, *(["k"] if sweep.k else [])]:
        if not any(method.own_option(option) in method.option_names for method in methods.values()):
            raise unknown("option", option, known or ["none"], f"of {', '.join(map(repr, methods))}")
    conditions = [
        Condition(method=name, options=options, sites=blocks, strengths=sweep.strengths, on_steps=intervals)
        for name, method in methods.items()
        for blocks in block_sets
        for options in _option_sets(sweep, name, method, blocks, model_sites.candidates(method, blocks))
    ]
    return [condition for number, condition in enumerate(conditions) if condition not in conditions[:number]]


def _option_sets(
    sweep: Sweep, name: str, method: MethodEntry, blocks: Sequence[str], candidates: int | None
) -> list[dict[str, Any]]:
    """The options of one method on one set of blocks in full, once for each k.

    A k of a sweep for another model's number of candidates becomes the same share of this model's.
    """
    shared = _shared_options(sweep, method)
    scale = candidates / sweep.candidates if sweep.candidates and candidates else None
    option_sets = []
    for k in sweep.k if sweep.k and "k" in method.option_names else [None]:
        scaled = k if scale is None or k is None else max(1, round(k * scale))
        options = method.values(method.create(shared if k is None else {**shared, "k": scaled}))
        most = options.get("k")
        if isinstance(most, int) and candidates is not None and most > candidates:
            where = f"{name!r} in {'+'.join(blocks)}"
            raise UserError(f"k is {most}, but {where} has {candidates} to choose from; give a smaller --k")
        option_sets.append(options)
    return option_sets


def _shared_options(sweep: Sweep, method: MethodEntry) -> dict[str, Any]:
    """The options of a sweep that a method has."""
    return {
        option: value for option, value in sweep.options.items() if method.own_option(option) in method.option_names
    }
