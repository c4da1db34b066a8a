"""What is asked for, and how a request is resolved: the same for the command line and for Python. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from riebench.methods.registry import MethodClass, create, find, method_names, option_fields
from riebench.models.registry import ModelEntry, entry_named
from riebench.models.sites import Site, blocks, neuron_sites
from riebench.pairs import Pair, category_named, load_pairs, select
from riebench.records.folder import read_run
from riebench.sae.folders import feature_count
from riebench.spec.presets import Preset, Sweep, preset_named
from riebench.spec.protocols import protocol_named
from riebench.spec.settings import Settings, parse_settings
from riebench.util.errors import UserError, unknown
from riebench.util.files import file_hash

if TYPE_CHECKING:
    from riebench.models.model import Model

STRENGTHS = (0.25, 0.5, 1, 1.5, 2)
ALL = "all"


class Condition(BaseModel):
    """A method with its options on a set of sites, at several strengths; each strength of it is a setting.

    Attributes:
        method: as it was asked for: a name, or ``package.module:Class``.
        options: all of them, in full.
        sites: the blocks that are edited together, in the order in which they run.
        strengths: factors on the whole intervention.
    """

    model_config = ConfigDict(frozen=True)

    method: str
    options: dict[str, Any]
    sites: tuple[str, ...]
    strengths: tuple[float, ...]


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
        pair_file: where the pairs come from; None if they were handed in.
        pair_hash: SHA-256 of that file.
        pair_ids: the chosen pairs.
        keep_images: pairs of each category whose pictures are kept.
        handed_in: names of loaded objects that take part, which no file keeps.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    settings: Settings = Settings()
    protocol: str = "riebench"
    conditions: tuple[Condition, ...]
    steps: int
    seed: int | None = None
    batch: int = 8
    pair_file: Path | None = None
    pair_hash: str | None = None
    pair_ids: tuple[str, ...] = ()
    keep_images: int = 0
    handed_in: tuple[str, ...] = ()

    def pairs(self) -> list[Pair]:
        """The same pairs again.

        Raises:
            UserError: if objects were handed in, or the pair file is gone or has changed.
        """
        if self.handed_in or self.pair_file is None:
            objects = ", ".join(self.handed_in)
            raise UserError(f"the run cannot be repeated from its folder: {objects} were handed in from Python")
        if not self.pair_file.is_file():
            raise UserError(f"the pair file {self.pair_file} of the run is gone; put it back, or use 'riebench run'")
        if file_hash(self.pair_file) != self.pair_hash:
            raise UserError(
                f"the pair file {self.pair_file} has changed since the run; put the old one back, or use 'riebench run'"
            )
        return select(load_pairs(self.pair_file), ids=self.pair_ids)


def resolve(
    method: str | Sequence[str] | None = None,
    block: str | Sequence[str] | None = None,
    *,
    model: str | Model = "mini",
    pairs: str | Path | Sequence[Pair] | None = None,
    strength: float | Sequence[float] | None = None,
    k: int | Sequence[int] | None = None,
    options: Mapping[str, Any] | None = None,
    preset: str | None = None,
    protocol: str | None = None,
    alone: bool = False,
    steps: int | None = None,
    seed: int | None = None,
    category: str | int | Sequence[str | int] = (),
    ids: Sequence[str] = (),
    limit: int | None = None,
    settings: Mapping[str, Any] | None = None,
    keep_images: int = 3,
    batch: int = 8,
    handed_in: Sequence[str] = (),
) -> tuple[Request, list[Pair]]:
    """Work out what a run does, before anything is loaded. The arguments are those of :func:`riebench.run`.

    Raises:
        UserError: if something does not exist, does not fit the model or contradicts something else.
    """
    loaded = None if isinstance(model, str) else model
    entry = entry_named(model) if isinstance(model, str) else model.entry
    chosen = preset_named(preset) if preset else None
    parsed = parse_settings(settings or {})
    if chosen is not None:
        for name, value in (("method", method), ("k", k), ("strength", strength), ("options", options)):
            if value:
                raise UserError(f"a preset gives its own method, k, strength and options; leave out {name} or preset")
        sweeps, blocks_wanted = list(chosen.sweeps), _many(block or ALL)
    else:
        sweeps, blocks_wanted = [_sweep(method, strength, k, options)], _many(block)
    for sweep in sweeps:
        _check_numbers(sweep)
    if not blocks_wanted:
        raise UserError("no block was named; give --block, as --block down.2.1 or --block all")
    known = _Known(entry, parsed, loaded)
    sets = _site_sets(blocks_wanted, known, alone)
    conditions = [c for sweep in sweeps for c in _conditions(sweep, sets, known)]
    file, found = _pairs(entry, pairs)
    most = limit if limit is not None else chosen.limit if chosen else None
    selected = select(found, [category_named(str(c)) for c in _many(category)], ids, most)
    for pair in selected if loaded is None or loaded.is_own else ():
        entry.check_pair(pair)
    request = Request(
        model=model if isinstance(model, str) else entry.name,
        settings=_anchored(parsed),
        protocol=protocol_named(protocol or (chosen.protocol if chosen else "riebench")).name,
        conditions=tuple(conditions),
        steps=_steps(entry, steps, chosen),
        seed=seed,
        batch=_at_least(batch, 1, "batch"),
        pair_file=file and file.resolve(),
        pair_hash=file and file_hash(file),
        pair_ids=tuple(pair.id for pair in selected),
        keep_images=_at_least(keep_images, 0, "keep_images"),
        handed_in=(*(["model"] if loaded is not None else []), *handed_in, *([] if file else ["pairs"])),
    )
    return request, selected


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


class _Known:
    """Sites and SAEs of a model, from its configurations or, where it is loaded, from itself."""

    def __init__(self, entry: ModelEntry, settings: Settings, loaded: Model | None) -> None:
        self.sites: Mapping[str, Site] = loaded.sites if loaded else entry.sites(settings)
        self.default = loaded.default_sites if loaded else entry.default_sites
        self.saes = loaded.saes if loaded else entry.saes(settings)

    def candidates(self, cls: MethodClass, sites: Sequence[str]) -> int | None:
        """How many features or neurons a method chooses from; None for one that does not choose.

        Raises:
            UserError: if the method needs an SAE that does not exist.
        """
        if cls.needs_sae:
            return sum(self._features(site) for site in sites)
        if cls.needs_neurons:
            return sum(self.sites[name].width for site in sites for name in neuron_sites(self.sites, site))
        return None

    def _features(self, site: str) -> int:
        if site not in self.saes:
            raise unknown("SAE", site, self.saes or ["none; name a folder with --set sae.folder=DIR"])
        found = self.saes[site]
        return feature_count(found) if isinstance(found, Path) else found.n_features


def _many(value: Any) -> list[Any]:
    """A list of one, or of all; empty for None."""
    if value is None:
        return []
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]


def _at_least(value: int, least: int, name: str) -> int:
    if value < least:
        raise UserError(f"{name} is {value}; expected {least} or more")
    return value


def _steps(entry: ModelEntry, steps: int | None, preset: Preset | None) -> int:
    chosen = (preset.steps if preset and preset.steps else entry.steps) if steps is None else steps
    if not 1 <= chosen <= entry.most_steps:
        raise UserError(f"steps is {chosen}; expected 1 to {entry.most_steps}, the most that the sampler takes")
    return chosen


def _sweep(method: Any, strength: Any, k: Any, options: Mapping[str, Any] | None) -> Sweep:
    if not method:
        raise UserError("no method was named; give --method, as --method sae, or --preset paper")
    methods = list(dict.fromkeys(n for m in _many(method) for n in (method_names() if m == ALL else [m])))
    given = dict(options or {})
    if "k" in given:
        if k:
            raise UserError(f"k is given twice, as k {k} and as option k={given['k']}; leave out one")
        k = given.pop("k")
        if isinstance(k, str) and k.isdecimal():
            k = int(k)
    return Sweep(methods, _many(STRENGTHS if strength is None else strength), _many(k), given)


def _check_numbers(sweep: Sweep) -> None:
    for value in sweep.strengths:
        if isinstance(value, str | bool) or not math.isfinite(value):
            raise UserError(f"strength is {value!r}; expected finite numbers, as 0.5,1,2")
    for count in sweep.k:
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise UserError(f"k is {count!r}; expected whole numbers above 0, as 20,40")


def _site_sets(wanted: Sequence[str], known: _Known, alone: bool) -> list[tuple[str, ...]]:
    """The sets of blocks to edit, each in the order in which blocks run."""
    order = blocks(known.sites)
    names = [site for name in wanted for site in (known.default if name == ALL else [name])]
    for name in names:
        if name not in order:
            raise unknown("block", name, [*order, ALL])
    together = tuple(sorted(set(names), key=order.index))
    return [together, *((site,) for site in together)] if alone and len(together) > 1 else [together]


def _conditions(sweep: Sweep, sets: Sequence[tuple[str, ...]], known: _Known) -> list[Condition]:
    """Every method of a sweep with its options on every set of sites."""
    fields = {name: option_fields(find(name)) for name in sweep.methods}
    for option in [*sweep.options, *(["k"] if sweep.k else [])]:
        if not any(option in own for own in fields.values()):
            every = sorted({name for own in fields.values() for name in own})
            raise unknown(f"option of {', '.join(map(repr, fields))}", option, every or ["none"])
    found = []
    for name, own in fields.items():
        shared = {option: value for option, value in sweep.options.items() if option in own}
        for k in sweep.k if sweep.k and "k" in own else [None]:
            for sites in sets:
                candidates = known.candidates(find(name), sites)
                given = shared if k is None else {**shared, "k": _scaled(k, sweep.candidates, candidates)}
                made = create(name, given)
                options = {option: getattr(made, option) for option in own}
                _check_k(name, options.get("k"), sites, candidates)
                condition = Condition(method=name, options=options, sites=sites, strengths=tuple(sweep.strengths))
                found += [condition] if condition not in found else []
    return found


def _scaled(k: int, of: int | None, candidates: int | None) -> int:
    return k if of is None or candidates is None else max(1, round(k * candidates / of))


def _check_k(name: str, k: Any, sites: Sequence[str], candidates: int | None) -> None:
    if isinstance(k, int) and candidates is not None and k > candidates:
        where = "+".join(sites)
        raise UserError(f"k is {k}, but {name!r} in {where} has {candidates} to choose from; give a smaller --k")


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


def _anchored(settings: Settings) -> Settings:
    """Settings whose paths are absolute, so that they mean the same wherever the next process stands."""

    def anchor(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: anchor(inner) for name, inner in value.items()}
        return value.resolve() if isinstance(value, Path) else value

    content = anchor(settings.model_dump())
    for group, name in (("model", "location"), ("sae", "folder")):  # a folder, or a name on the hub
        location = content[group][name]
        if location is not None and Path(location).is_dir():
            content[group][name] = str(Path(location).resolve())
    return Settings.model_validate(content)
