"""Requests: a run worked out from its options, before anything is loaded. Needs no torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError

from riebench.engine.conditions import Condition, ModelSites, conditions_of, sweep_of, usable_methods
from riebench.engine.presets import Preset, preset_named
from riebench.engine.run_options import ALL, RunOptions
from riebench.methods.registry import METHODS, find
from riebench.models.entries import entry_named, named_model, pair_file_named
from riebench.models.model import ModelEntry
from riebench.pairs import Pair, categories_named, load_pairs, select
from riebench.pairs.pair_files import fault
from riebench.records.folder import read_run
from riebench.settings.intervals import parse_intervals
from riebench.settings.lpips_search import SearchOptions, parse_search
from riebench.settings.protocols import NAMED, ONE_FAULT, PROTOCOLS
from riebench.settings.settings import Settings, changed, parse_settings, refuse_without_effect
from riebench.settings.settings import chosen as settings_chosen
from riebench.util.errors import UserError, unknown
from riebench.util.files import file_hash

OPTION_NAMES = {"strengths": "strength"}
"""Fields of a request whose option has another name."""
OF_METRICS = {"dino.": "dino", "lpips.squeeze": "lpips-squeeze"}
"""Beginnings of the names of settings to the network, of single metrics alone, that they belong to."""


class Request(BaseModel):
    """A resolved run; ``run.json`` keeps it, so that the same can be asked for again.

    Attributes:
        model: name of the model.
        settings: of model and instruments.
        protocol: name of the protocol.
        conditions: what is tried on every pair.
        steps: denoising steps.
        seed: of all runs; None takes each pair's own, or 42.
        batch: rows in one forward pass at most.
        pair_file: where the pairs come from, as ``mini:entangled`` for a set of a model; None if they are the model's
            own or were handed in.
        pair_hash: SHA-256 of that file.
        pair_ids: the chosen pairs.
        keep_images: pairs of each category whose pictures are kept.
        handed_in: names of loaded objects that take part, which no file keeps.
        metrics: names of what is measured; None for all but the optional ones.
        images: folder with the pictures of the pairs, where they are made elsewhere.
        at_lpips: what is searched for besides the strengths of the conditions.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    settings: Settings = Settings()
    protocol: str = "riebench"
    conditions: tuple[Condition, ...]
    steps: int
    seed: int | None = None
    batch: PositiveInt = 8
    pair_file: Path | None = None
    pair_hash: str | None = None
    pair_ids: tuple[str, ...] = ()
    keep_images: NonNegativeInt = 0
    handed_in: tuple[str, ...] = ()
    metrics: tuple[str, ...] | None = None
    images: Path | None = None
    at_lpips: SearchOptions | None = None

    def pairs(self) -> list[Pair]:
        """The same pairs again.

        Raises:
            UserError: if objects were handed in, or the pair file is gone or has changed.
        """
        file = pair_file_named(self.pair_file) if self.pair_file else entry_named(self.model).pairs
        if self.handed_in or file is None:
            objects = ", ".join(self.handed_in)
            raise UserError(f"the run cannot be repeated from its folder: {objects} were handed in from Python")
        if not file.is_file():
            raise UserError(f"the pair file {file} of the run is gone; put it back, or use 'riebench run'")
        if file_hash(file) != self.pair_hash:
            change = "has changed since the run; put the old one back, or use 'riebench run'"
            raise UserError(f"the pair file {file} {change}")
        found = select(load_pairs(file), ids=self.pair_ids)
        return _pictured(found, self.images) if self.images else found


def resolve(options: RunOptions) -> tuple[Request, list[Pair]]:
    """Work out what a run does, before anything is loaded: the request and its pairs.

    Raises:
        UserError: if something does not exist, does not fit the model or contradicts something else.
    """
    preset = _preset(options)
    model = options.handed_in.model
    settings = changed(parse_settings(preset.settings if preset else {}), options.settings or {})
    name, settings = (model.entry.name, settings) if model else named_model(str(options.model), settings)
    entry = model.entry if model else entry_named(name)
    entry.check_settings(settings)
    options.handed_in.check_settings(settings)
    model_sites = ModelSites.of(entry, model, settings)
    steps, protocol = _steps(options, entry, preset), _protocol(options, preset)
    metrics = metrics_named(entry, options.listed["metrics"] or [PROTOCOLS[protocol].metrics])
    search = _search(options)
    file, pairs = _pairs(options, entry, preset)
    try:
        request = Request(
            model=name,
            settings=settings,
            protocol=protocol,
            conditions=_conditions(options, preset, model_sites, pairs, steps),
            steps=steps,
            seed=options.seed,
            batch=options.batch,
            pair_file=_as_kept(options, entry, file),
            pair_hash=file and file_hash(file),
            pair_ids=tuple(pair.id for pair in pairs),
            keep_images=options.keep_images,
            handed_in=(*options.handed_in.names, *([] if file else ["pairs"])),
            metrics=metrics,
            at_lpips=search,
        )
    except ValidationError as error:
        raise _number_fault(error) from None
    if not any(find(condition.method).needs_sae for condition in request.conditions):
        refuse_without_effect(settings, ("sae.",), "no method of the run uses SAEs; leave it out")
    refuse_unused_scorers(settings, metrics)
    return request, pairs


def _conditions(
    options: RunOptions, preset: Preset | None, sites: ModelSites, pairs: Sequence[Pair], steps: int
) -> tuple[Condition, ...]:
    """What a run does to each pair, sweep by sweep."""
    sweeps = [sweep_of(options)] if preset is None else preset.sweeps
    blocks = options.listed["block"] if options.block else [ALL] if preset else []
    block_sets = sites.block_sets(blocks, options.alone)
    intervals = (None,) if options.on_steps is None else parse_intervals(options.listed["on_steps"], steps)
    leave_out = ALL in options.listed["method"]
    return tuple(
        condition
        for sweep in sweeps
        for condition in conditions_of(
            sweep, usable_methods(sweep, pairs, steps, intervals, leave_out), block_sets, intervals, sites
        )
    )


def resolve_pictures(name: str, images: Path, options: RunOptions) -> tuple[Request, list[Pair]]:
    """Work out how the pictures of a folder, each named by the id of its pair, are scored beside the methods.

    Args:
        name: what made the pictures, as records and tables call it.
        images: the folder.
        options: of base and source run; ``strength`` is what the records of the pictures have.

    Raises:
        UserError: as :func:`resolve`, and if the name is a method's, or the folder has no picture of a pair.
    """
    if not re.fullmatch(r"[\w.+-]+", name):
        raise UserError(f"the name {name!r} will not do; expected letters, digits and . + - _")
    if taken := METHODS.holder(name):
        raise UserError(f"the name {name!r} is that of a method ({taken}); give another --name")
    request, pairs = resolve(replace(options, method="none", block=ALL))
    from riebench.engine.pictures import Pictures  # only here, or "--method all" would run it

    method, strengths = f"{Pictures.__module__}:{Pictures.__qualname__}", request.conditions[0].strengths
    condition = Condition(method=method, options={"name": name}, sites=(), strengths=strengths)
    request = request.model_copy(update={"conditions": (condition,), "images": images.resolve()})
    return request, _pictured(pairs, images.resolve())


def _pictured(pairs: Sequence[Pair], images: Path) -> list[Pair]:
    """See :func:`riebench.pairs.edited_images.pictured`, which few runs need and which imports numpy and Pillow."""
    from riebench.pairs.edited_images import pictured

    return pictured(pairs, images)


def metrics_named(entry: ModelEntry, words: Sequence[str]) -> tuple[str, ...] | None:
    """The metrics that some names (or sets of them, also joined by commas) stand for; None for the default ones.

    Raises:
        UserError: if there is no such metric, or one needs a network that the model's pictures cannot be given to.
    """
    names = [name.strip() for word in words for name in word.split(",")]
    from riebench.metrics import chosen, metrics_of

    found = None if names == ["default"] else chosen(names)
    for needed in metrics_of(found):
        if needed.scorer is not None and needed.scorer not in entry.scorers:
            why = f"a network for photographs ({needed.scorer}), which says nothing of the pictures of {entry.name}"
            raise UserError(f"the metric {needed.name} needs {why}; leave it out")
    return found


def refuse_unused_scorers(settings: Settings, metrics: Sequence[str] | None) -> None:
    """Refuse settings of networks that no metric needs; ``metrics`` as of :func:`metrics_named` (UserError)."""
    if any(name.startswith(tuple(OF_METRICS)) for name in settings_chosen(settings)):
        from riebench.metrics import scorers_of

        unused = [name for name, scorer in OF_METRICS.items() if scorer not in scorers_of(metrics)]
        refuse_without_effect(
            settings, unused, "no metric of the run needs it; name one with --metrics, or leave it out"
        )


def requests_of(folder: Path) -> list[Request]:
    """What was asked for in the sessions of a run folder, each request once.

    Raises:
        UserError: if ``run.json`` does not say.
    """
    sessions = read_run(folder).get("sessions") or []
    try:
        found = [Request.model_validate(session["request"]) for session in sessions]
    except (ValidationError, KeyError, TypeError):
        raise UserError(f"{folder / 'run.json'} does not say what was run; use 'riebench run'") from None
    if not found:
        raise UserError(f"{folder} has no run.json that says what was run; give the folder of a run")
    return [request for number, request in enumerate(found) if request not in found[:number]]


def _preset(options: RunOptions) -> Preset | None:
    """The preset that options name."""
    if not options.preset:
        return None
    preset = preset_named(options.preset)
    for name in ("method", "k", "strength", "options"):
        if getattr(options, name) not in (None, [], (), {}):
            raise UserError(f"a preset gives its own method, k, strength and options; leave out {name} or preset")
    return preset


def _steps(options: RunOptions, entry: ModelEntry, preset: Preset | None) -> int:
    """The denoising steps; those of a preset are for distilled models, so that a guided model keeps its own."""
    of_preset = preset.steps if preset and entry.guidance <= 1 else None
    steps = (of_preset or entry.steps) if options.steps is None else options.steps
    if not entry.least_steps <= steps <= entry.most_steps:
        raise UserError(
            f"steps is {steps}; expected {entry.least_steps} to {entry.most_steps}, the most that the sampler takes"
        )
    return steps


def _protocol(options: RunOptions, preset: Preset | None) -> str:
    """The name of the protocol."""
    protocol = options.protocol or (preset.protocol if preset else "riebench")
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, ONE_FAULT if "+" in protocol else NAMED)
    return protocol


def _search(options: RunOptions) -> SearchOptions | None:
    """The search for strengths at given LPIPS; None without one."""
    bounds = {"within": options.at_lpips_within, "most": options.at_lpips_most}
    if options.at_lpips is None and all(bound is None for bound in bounds.values()):
        return None
    return parse_search(options.listed["at_lpips"], bounds)


def _pairs(options: RunOptions, entry: ModelEntry, preset: Preset | None) -> tuple[Path | None, list[Pair]]:
    """The pair file, None if pairs were handed in, and the chosen pairs."""
    file, pairs = _pair_file(options, entry)
    limit = preset.limit if preset and options.limit is None else options.limit
    categories = categories_named(options.listed["category"])
    chosen = select(pairs, categories, [str(name) for name in options.listed["ids"]], limit)
    model = options.handed_in.model
    if model is None or model.own:
        entry.check_pairs(chosen)
    return file, chosen


def _pair_file(options: RunOptions, entry: ModelEntry) -> tuple[Path | None, list[Pair]]:
    """The pair file, None if pairs were handed in, and all of its pairs."""
    if options.pairs is not None and not isinstance(options.pairs, str | Path):
        pairs = [_checked(pair) for pair in options.pairs]
        if twice := [name for name, count in Counter(pair.id for pair in pairs).items() if count > 1]:
            raise UserError(f"pairs has the id {twice[0]!r} twice; give each pair its own")
        return None, pairs
    file = entry.pairs if options.pairs is None else pair_file_named(options.pairs)
    if file is None:
        raise UserError(
            f"{entry.name} has no pairs of its own; give a file with --pairs, see 'riebench pairs build --help'"
        )
    return file, load_pairs(file)


def _as_kept(options: RunOptions, entry: ModelEntry, file: Path | None) -> Path | None:
    """The pair file as a request keeps it: by its path, or by its name if it comes with the package."""
    if file is None or file == entry.pairs:
        return None
    named = isinstance(options.pairs, str | Path) and file != Path(options.pairs)
    return Path(str(options.pairs)) if named else file.resolve()


def _checked(pair: Pair) -> Pair:
    """A pair that was handed in, checked as one of a file is; ``model_copy`` checks nothing.

    Raises:
        UserError: if it is malformed.
    """
    try:
        return type(pair).model_validate(dict(pair))
    except ValidationError as error:
        raise UserError("pair {!r}, key {!r}: {}".format(pair.id, *fault(error))) from None


def _number_fault(error: ValidationError) -> UserError:
    first = error.errors()[0]
    name = next(str(part) for part in reversed(first["loc"]) if isinstance(part, str))
    return UserError(f"{OPTION_NAMES.get(name, name)} is {first['input']!r}: {first['msg'].lower()}")
