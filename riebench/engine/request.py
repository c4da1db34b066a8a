"""What is asked for, and how a request is resolved: the same for the command line and for Python. Needs no torch."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, FiniteFloat, NonNegativeInt, PositiveInt, ValidationError

from riebench.engine.presets import Sweep, preset_named
from riebench.methods.registry import METHODS, MethodEntry, create, find, method_names
from riebench.models.entries import entry_named
from riebench.models.model import ModelEntry
from riebench.models.sites import NEURONS, Site, neuron_sites
from riebench.pairs import Pair, category_named, load_pairs, select
from riebench.pairs.edited_images import pictured
from riebench.records.folder import read_run
from riebench.sae.folders import feature_count
from riebench.settings.intervals import Intervals, parse_intervals
from riebench.settings.lpips_search import SearchOptions, parse_search
from riebench.settings.protocols import NAMED, ONE_FAULT, PROTOCOLS
from riebench.settings.settings import Settings, parse_settings
from riebench.util.errors import UserError, unknown
from riebench.util.files import file_hash

if TYPE_CHECKING:
    from riebench.models.model import Model
    from riebench.sae.topk import TopKSAE

STRENGTHS = (0.25, 0.5, 1, 1.5, 2)
ALL = "all"
PICTURES = "riebench.engine.pictures:Pictures"
"""The method that stands for pictures from elsewhere."""
NAMES = {"strengths": "strength"}
"""Fields whose argument is called otherwise."""


class Condition(BaseModel):
    """A method with its options on a set of sites; each strength of it in each interval of the steps is a setting.

    Attributes:
        method: as it was asked for: a name, or ``package.module:Class``.
        options: all of them, in full.
        sites: the blocks that are edited together, in the order in which they run.
        strengths: factors on the whole intervention.
        on_steps: the steps in which it is on, from 0, of each interval; None for all.
    """

    model_config = ConfigDict(frozen=True)

    method: str
    options: dict[str, Any]
    sites: tuple[str, ...]
    strengths: tuple[FiniteFloat, ...]
    on_steps: Intervals = (None,)


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
        pair_file: where the pairs come from; None if they are the model's own or were handed in.
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
        file = self.pair_file or entry_named(self.model).pairs
        if self.handed_in or file is None:
            objects = ", ".join(self.handed_in)
            raise UserError(f"the run cannot be repeated from its folder: {objects} were handed in from Python")
        if not file.is_file():
            raise UserError(f"the pair file {file} of the run is gone; put it back, or use 'riebench run'")
        if file_hash(file) != self.pair_hash:
            change = "has changed since the run; put the old one back, or use 'riebench run'"
            raise UserError(f"the pair file {file} {change}")
        found = select(load_pairs(file), ids=self.pair_ids)
        return pictured(found, self.images) if self.images else found


def resolve(
    method: str | Sequence[str] | None = None,
    block: str | Sequence[str] | None = None,
    *,
    model: str | Model = "mini",
    pairs: str | Path | Sequence[Pair] | None = None,
    strength: float | str | Sequence[float | str] | None = None,
    k: int | str | Sequence[int | str] | None = None,
    options: Mapping[str, Any] | None = None,
    preset: str | None = None,
    protocol: str | None = None,
    alone: bool = False,
    steps: int | None = None,
    on_steps: str | int | Sequence[str | int] | None = None,
    seed: int | None = None,
    category: str | int | Sequence[str | int] = (),
    ids: Sequence[str] = (),
    limit: int | None = None,
    settings: Mapping[str, Any] | None = None,
    keep_images: int = 3,
    batch: int = 8,
    handed_in: Sequence[str] = (),
    metrics: str | Sequence[str] | None = None,
    at_lpips: float | str | Sequence[float | str] | None = None,
    at_lpips_within: float | None = None,
    at_lpips_most: float | None = None,
) -> tuple[Request, list[Pair]]:
    """Work out what a run does, before anything is loaded. The arguments are those of :func:`riebench.run`.

    Raises:
        UserError: if something does not exist, does not fit the model or contradicts something else.
    """
    loaded = None if isinstance(model, str) else model
    entry = entry_named(model) if isinstance(model, str) else model.entry
    parsed = parse_settings(settings or {})
    entry.check_settings(parsed)
    saes, sites = (loaded.saes, loaded.sites) if loaded else (entry.saes(parsed), entry.sites(parsed))
    to_come = not saes and not loaded and parsed.sae.folder is None and any(part.name == "sae" for part in entry.parts)
    chosen = preset_named(preset) if preset else None
    if chosen is None:
        sweeps = [_sweep(method, strength, k, options)]
    else:
        sweeps, block = list(chosen.sweeps), block or ALL
        for name, value in (("method", method), ("k", k), ("strength", strength), ("options", options)):
            if value is not None and value not in ([], (), {}):
                raise UserError(f"a preset gives its own method, k, strength and options; leave out {name} or preset")
    blocks = [site for site in sites if NEURONS not in site]
    sets = _site_sets(_many(block), blocks, entry.default_sites, alone)
    if steps is None:  # a preset's are for distilled models; a guided one needs its own
        steps = (chosen and entry.guidance <= 1 and chosen.steps) or entry.steps
    if not 1 <= steps <= entry.most_steps:
        raise UserError(f"steps is {steps}; expected 1 to {entry.most_steps}, the most that the sampler takes")
    intervals = (None,) if on_steps is None else parse_intervals(_many(on_steps), steps)
    protocol = protocol or (chosen.protocol if chosen else "riebench")
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, ONE_FAULT if "+" in protocol else NAMED)
    measured = metrics_named(entry, _many(metrics) or [PROTOCOLS[protocol].metrics])
    bounds = {"within": at_lpips_within, "most": at_lpips_most}
    searched = any(one is not None for one in (at_lpips, *bounds.values()))
    search = parse_search(_many(at_lpips), bounds) if searched else None
    named = [str(c) for c in _many(category)]
    file, found = _pairs(entry, pairs)
    most = chosen.limit if chosen and limit is None else limit
    selected = select(found, [category_named(name) for name in named], ids, most)
    if loaded is None or loaded.own:
        entry.check_pairs(selected)
    fit = partial(_able, pairs=selected, steps=steps, leave_out=ALL in _many(method))
    try:
        request = Request(
            model=model if isinstance(model, str) else entry.name,
            settings=parsed,
            protocol=protocol,
            conditions=tuple(
                c
                for sweep in sweeps
                for c in _conditions(sweep, fit, sets, intervals, sites, None if to_come else saes)
            ),
            steps=steps,
            seed=seed,
            batch=batch,
            pair_file=None if file == entry.pairs or file is None else file.resolve(),
            pair_hash=file and file_hash(file),
            pair_ids=tuple(pair.id for pair in selected),
            keep_images=keep_images,
            handed_in=(*(["model"] if loaded else []), *handed_in, *([] if file else ["pairs"])),
            metrics=measured,
            at_lpips=search,
        )
    except ValidationError as error:
        raise _number_fault(error) from None
    return request, selected


def resolve_pictures(name: str, images: Path, strength: float = 1.0, **more: Any) -> tuple[Request, list[Pair]]:
    """Work out how the pictures of a folder, each named by the id of its pair, are scored beside the methods.

    Args:
        name: that records and tables give to what made them.
        images: the folder.
        strength: that records give to them.
        more: further arguments of :func:`resolve`: model, pairs, protocol, steps, settings, metrics, ...

    Raises:
        UserError: as :func:`resolve`, and if the name is a method's, or the folder has no picture of a pair.
    """
    if not re.fullmatch(r"[\w.+-]+", name):
        raise UserError(f"the name {name!r} will not do; expected letters, digits and . + - _")
    if taken := METHODS.holder(name):
        raise UserError(f"the name {name!r} is that of a method ({taken}); give another --name")
    request, pairs = resolve("none", ALL, strength=strength, **more)
    condition = Condition(method=PICTURES, options={"name": name}, sites=(), strengths=request.conditions[0].strengths)
    request = request.model_copy(update={"conditions": (condition,), "images": images.resolve()})
    return request, pictured(pairs, images.resolve())


def metrics_named(entry: ModelEntry, words: Sequence[str]) -> tuple[str, ...] | None:
    """The metrics that some names (or sets of them, also joined by commas) stand for; None for the default ones.

    Raises:
        UserError: if there is no such metric, or one needs a network that the model's pictures cannot be given to.
    """
    names = [name.strip() for word in words for name in word.split(",")]
    if names == ["default"]:
        return None
    from riebench.metrics import chosen, metrics_of

    found = chosen(names)
    for needed in metrics_of(found):
        if needed.scorer is not None and needed.scorer not in entry.scorers:
            why = f"a network for photographs ({needed.scorer}), which says nothing of the pictures of {entry.name}"
            raise UserError(f"the metric {needed.name} needs {why}; leave it out")
    return found


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


def _many(value: Any) -> list[Any]:
    """A list of one, or of all; empty for None."""
    if value is None:
        return []
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]


def _number_fault(error: ValidationError) -> UserError:
    first = error.errors()[0]
    name = next(str(part) for part in reversed(first["loc"]) if isinstance(part, str))
    return UserError(f"{NAMES.get(name, name)} is {first['input']!r}: {first['msg'].lower()}")


def _sweep(method: Any, strength: Any, k: Any, options: Mapping[str, Any] | None) -> Sweep:
    if not method:
        raise UserError("no method was named; give --method, as --method sae, or --preset paper")
    methods = list(dict.fromkeys(n for m in _many(method) for n in (method_names() if m == ALL else [m])))
    given = dict(options or {})
    if k is not None and "k" in given:
        raise UserError(f"k is given twice, as k {k} and as option k={given['k']}; leave out one")
    return Sweep(methods, _many(STRENGTHS if strength is None else strength), _many(given.pop("k", k)), given)


def _site_sets(
    wanted: Sequence[str], known: Sequence[str], default: Sequence[str], alone: bool
) -> list[tuple[str, ...]]:
    """The sets of blocks to edit, each in the order in which blocks run."""
    names = [site for name in wanted for site in (default if name == ALL else [name])]
    for name in names:
        if name not in known:
            raise unknown("block", name, [*known, ALL])
    if not names:
        raise UserError("no block was named; give --block, as --block down.2.1 or --block all")
    together = tuple(sorted(set(names), key=list(known).index))
    return [together, *((site,) for site in together)] if alone and len(together) > 1 else [together]


def _able(sweep: Sweep, pairs: Sequence[Pair], steps: int, leave_out: bool) -> dict[str, MethodEntry]:
    """The methods of a sweep, checked; one that refuses the run is left out with a warning, or refuses it for all.

    Raises:
        UserError: if a method does not exist, or refuses and is not to be left out.
    """
    entries = {name: find(name) for name in sweep.methods}
    for name, entry in [(name, entry) for name, entry in entries.items() if entry.checks_runs]:
        made = create(name, {o: value for o, value in sweep.options.items() if o in entry.option_names})
        try:
            entry.check_run(made, pairs, steps)
        except UserError as error:
            if not leave_out:
                raise
            logging.getLogger(__name__).warning("left out: %s", error)
            del entries[name]
    return entries


def _conditions(
    sweep: Sweep,
    fit: Callable[[Sweep], Mapping[str, MethodEntry]],
    sets: Sequence[tuple[str, ...]],
    intervals: Intervals,
    sites: Mapping[str, Site],
    saes: Mapping[str, Path | TopKSAE] | None,
) -> list[Condition]:
    """Every method of a sweep that ``fit`` lets through, with its options on every set of sites, each once."""
    entries = fit(sweep)
    fields = {name: entry.option_names for name, entry in entries.items()}
    for option in [*sweep.options, *(["k"] if sweep.k else [])]:
        if not any(option in own for own in fields.values()):
            every = sorted({name for own in fields.values() for name in own})
            raise unknown(f"option of {', '.join(map(repr, fields))}", option, every or ["none"])
    found = []
    for name, entry in entries.items():
        shared = {option: value for option, value in sweep.options.items() if option in fields[name]}
        for blocks_together in sets:
            candidates = _candidates(entry, blocks_together, sites, saes)
            for k in sweep.k if sweep.k and "k" in fields[name] else [None]:
                # A k of another model's number of candidates becomes the same share of this one's.
                scale = candidates / sweep.candidates if sweep.candidates and candidates else None
                scaled = k if scale is None or k is None else max(1, round(k * scale))
                made = create(name, shared if k is None else {**shared, "k": scaled})
                options = entry.values(made)
                most = options.get("k")
                if isinstance(most, int) and candidates is not None and most > candidates:
                    where = f"{name!r} in {'+'.join(blocks_together)}"
                    raise UserError(f"k is {most}, but {where} has {candidates} to choose from; give a smaller --k")
                found.append(
                    Condition(
                        method=name,
                        options=options,
                        sites=blocks_together,
                        strengths=sweep.strengths,
                        on_steps=intervals,
                    )
                )
    return [condition for number, condition in enumerate(found) if condition not in found[:number]]


def _candidates(
    entry: MethodEntry, together: Sequence[str], sites: Mapping[str, Site], saes: Mapping[str, Path | TopKSAE] | None
) -> int | None:
    """How many features or neurons a method chooses from; None for one that does not choose.

    Without SAEs (None: they are not on this machine yet) that cannot be told, and is None, too.

    Raises:
        UserError: if the method needs an SAE that does not exist.
    """
    if entry.needs_neurons:
        return sum(sites[name].width for site in together for name in neuron_sites(sites, site))
    if not entry.needs_sae or saes is None:
        return None
    for site in together:
        if site not in saes:
            raise unknown("SAE", site, saes or ["none; name a folder with --set sae.folder=DIR"])
    found = [saes[site] for site in together]
    return sum(feature_count(sae) if isinstance(sae, Path) else sae.n_features for sae in found)


def _pairs(entry: ModelEntry, given: str | Path | Sequence[Pair] | None) -> tuple[Path | None, list[Pair]]:
    """The pair file, if there is one, and its pairs."""
    if given is not None and not isinstance(given, str | Path):
        return None, list(given)
    file = entry.pairs if given is None else Path(given)
    if file is None:
        raise UserError(
            f"{entry.name} has no pairs of its own; give a file with --pairs, see 'riebench pairs build --help'"
        )
    return file, load_pairs(file)
