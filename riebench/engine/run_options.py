"""The options of a run, each a field: ``riebench run``, :func:`riebench.run` and ``run.json`` are made from them."""

# Without "from __future__ import annotations", as the command line reads the types of the fields.
import sys
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, Field, dataclass, fields
from functools import cached_property
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from riebench.instruments.handed_in import HandedIn, check_loaded
from riebench.pairs.pair import MAX_SEED, Pair
from riebench.settings.lpips_search import WITHIN
from riebench.util.errors import UserError

if TYPE_CHECKING:
    from riebench.masks.user_masks import UserMasks
    from riebench.metrics.seen import Scorers
    from riebench.models.model import Model

ALL = "all"
STRENGTHS = (0.25, 0.5, 1, 1.5, 2)


@dataclass(frozen=True)
class Option:
    """What a field of :class:`RunOptions` says besides its type and default.

    Attributes:
        help: for the command line and for Python.
        least: the smallest value.
        most: the largest value.
        flag: name on the command line, with underscores; the field's name unless given.
        written: type on the command line; the field's type unless given. An option of a list may be given again.
        commas: whether a word of the command line holds several values with commas between.
        named: whether a word of the command line is a ``name=value``.
        python_only: whether the command line lacks the option.
    """

    help: str
    least: float | None = None
    most: float | None = None
    flag: str = ""
    written: Any = None
    commas: bool = False
    named: bool = False
    python_only: bool = False


Words = str | Sequence[str] | None
Numbers = float | str | Sequence[float | str] | None
Settings = Mapping[str, Any] | None
REPEATED = list[str] | None
PLAIN = {bool: "True or False", int: "a whole number", float: "a number", str: "text", Path: "a path"}
"""The types that are checked when options are made, in words."""
NUMBERS: dict[Any, Any] = {int: Integral, float: Real}
"""Types of numbers to what stands for them, numpy's numbers included."""
SEVERAL = ("method", "block", "k", "strength", "at_lpips", "on_steps", "category", "ids", "metrics")
"""The options that take one value or several."""


@dataclass(frozen=True)
class RunOptions:
    """The options of a run as a user gives them; :func:`riebench.engine.request.resolve` makes a request of them.

    Raises:
        UserError: if a value has another type than its field, is empty, or a number is out of its bounds.
    """

    method: Annotated[
        Words, Option("Methods by name or package.module:Class; 'all' for all that are installed.", written=REPEATED)
    ] = None
    block: Annotated[
        Words, Option("Blocks, edited together; 'all' for the model's default blocks.", written=REPEATED)
    ] = None
    _: KW_ONLY
    alone: Annotated[bool, Option("Run each of the blocks alone, too.")] = False
    k: Annotated[
        Numbers,
        Option("Features (or neurons) moved in each direction, as 20,40; each is run.", commas=True),
    ] = None
    strength: Annotated[
        Numbers,
        Option(f"Factors on the whole intervention; {','.join(map(str, STRENGTHS))} unless given.", commas=True),
    ] = None
    at_lpips: Annotated[
        Numbers,
        Option("LPIPS to search the strength for, pair by pair, besides the strengths; as 0.05,0.1,0.2.", commas=True),
    ] = None
    at_lpips_within: Annotated[
        float | None,
        Option(f"Share of this LPIPS by which a picture's may differ; {WITHIN}, as reports count, unless given."),
    ] = None
    at_lpips_most: Annotated[float | None, Option("Largest strength that the search tries; 32 unless given.")] = None
    options: Annotated[Settings, Option("Options of the methods.", flag="option", named=True)] = None
    preset: Annotated[
        str | None,
        Option(
            "Published sweep in place of method, k, strength and options of methods: paper, paper-flux, paper-small."
        ),
    ] = None
    protocol: Annotated[str | None, Option("riebench, or paper (the published behaviour, its faults included).")] = None
    steps: Annotated[int | None, Option("Denoising steps; the model's own unless given.")] = None
    on_steps: Annotated[
        str | int | Sequence[str | int] | None,
        Option(
            "Steps, counted from 0, in which the methods are on, as 0,1-3,all; each interval is run. "
            "All steps unless given.",
            commas=True,
        ),
    ] = None
    model: Annotated[
        "str | Model",
        Option("Name of a model (see riebench models), package.module:name, or a folder of a pipeline.", written=str),
    ] = "mini"
    settings: Annotated[
        Settings, Option("Settings of model and instruments, see 'riebench settings'.", flag="set", named=True)
    ] = None
    masks: Annotated[
        "UserMasks | None", Option("Regions of the pairs, see riebench.masks.user_masks.UserMasks.", python_only=True)
    ] = None
    scorers: Annotated["Scorers | None", Option("Loaded CLIP and LPIPS.", python_only=True)] = None
    pairs: Annotated[
        str | Path | Sequence[Pair] | None,
        Option("Pair file (JSON); the model's own unless given.", written=Path | None),
    ] = None
    category: Annotated[
        str | int | Sequence[str | int] | None, Option("Categories by number or name.", written=REPEATED)
    ] = None
    ids: Annotated[str | int | Sequence[str | int] | None, Option("Pairs by id.", flag="id", written=REPEATED)] = None
    limit: Annotated[int | None, Option("Pairs of each category at most.", least=1)] = None
    seed: Annotated[
        int | None, Option("Seed of all runs; each pair's own (or 42) unless given.", least=0, most=MAX_SEED)
    ] = None
    out: Annotated[
        str | Path | None,
        Option("Folder for records, curve and pictures; one named for the time unless given.", written=Path | None),
    ] = None
    keep_images: Annotated[int, Option("Pairs of each category whose pictures are kept.", least=0)] = 3
    batch: Annotated[int, Option("Rows in one forward pass at most.", least=1)] = 8
    metrics: Annotated[
        Words,
        Option(
            "Metrics by name, or sets of them (default, published), as default,psnr_outside; the protocol's unless "
            "given. See 'riebench metrics'.",
            written=REPEATED,
        ),
    ] = None
    retry_failed: Annotated[bool, Option("Make failed records again; otherwise only those that are missing.")] = False
    max_failures: Annotated[int | None, Option("End after so many pairs with a failure in this session.", least=1)] = (
        None
    )
    workers: Annotated[
        int | None,
        Option(
            "Processes that work on pairs, by Ray if more than one. Unless given, a long run of a small model on the "
            "CPU starts one for each core, without Ray.",
            least=1,
        ),
    ] = None
    ray_address: Annotated[str | None, Option("Ray cluster to use; auto for the cluster of this machine.")] = None
    gpus_per_worker: Annotated[float | None, Option("GPUs of each worker; split evenly unless given.", least=0)] = None
    cpus_per_worker: Annotated[float | None, Option("Cores of each worker; split evenly unless given.", least=0.1)] = (
        None
    )
    force: Annotated[bool, Option("Discard the records in the folder and start over.")] = False
    quiet: Annotated[bool, Option("Show no progress bar.", python_only=True)] = False

    def __post_init__(self) -> None:
        for name, option in OPTIONS.items():
            if not isinstance(TYPES[name], str):
                object.__setattr__(self, name, plain(getattr(self, name)))
            value = getattr(self, name)
            _check_value(name, value)
            if value is not None and option.least is not None and value < option.least:
                raise UserError(f"{name} is {value!r}; expected {option.least} or more")
            if value is not None and option.most is not None and value > option.most:
                raise UserError(f"{name} is {value!r}; expected {option.most} or less")

    @cached_property
    def handed_in(self) -> HandedIn:
        """The loaded parts among the options."""
        return HandedIn(None if isinstance(self.model, str) else self.model, self.masks, self.scorers)

    @cached_property
    def listed(self) -> dict[str, list[Any]]:
        """The values of each option that takes one or several, by its name; empty for None. ``options`` may hold k."""
        k = (self.options or {}).get("k", self.k)
        return {name: _listed(k if name == "k" else getattr(self, name)) for name in SEVERAL}

    def as_json(self) -> dict[str, Any]:
        """The options that differ from their defaults, as ``run.json`` keeps them.

        A pair is its id, another object its type.
        """
        values = {field.name: _as_json(getattr(self, field.name)) for field in fields(self)}
        return {name: value for name, value in values.items() if value != FIELDS[name].default}


FIELDS: dict[str, Field[Any]] = {field.name: field for field in fields(RunOptions)}
"""The fields of :class:`RunOptions` by name."""
OPTIONS: dict[str, Option] = {name: get_args(field.type)[1] for name, field in FIELDS.items()}
"""What the fields say besides type and default, by name."""
TYPES: dict[str, Any] = {
    name: getattr(kind := get_args(field.type)[0], "__forward_arg__", kind) for name, field in FIELDS.items()
}
"""The types of the fields as Python's callers see them; a text where one names a class that is not imported yet."""


def plain(value: Any) -> Any:
    """A value with Python's own numbers and lists in place of numpy's, and with lists for other collections."""
    numpy = sys.modules.get("numpy")  # not imported for this: without it there is no such value
    if numpy and isinstance(value, numpy.ndarray | numpy.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset | range):
        return type(value)(map(plain, value)) if isinstance(value, list | tuple) else [plain(each) for each in value]
    return value


def _check_value(name: str, value: Any) -> None:
    """Refuse a value of another type than its field, and one that is empty.

    Raises:
        UserError: if it is such a value.
    """
    declared = TYPES[name]
    if isinstance(declared, str):
        check_loaded(name, value)
    elif misfit := _misfit(value, declared):
        inside = "is" if misfit[0] is value else "holds"
        raise UserError(f"{name} {inside} {misfit[0]!r}; expected {_in_words(declared)}")
    values = {name: value}
    if isinstance(value, Mapping) and name != "masks":
        values |= {f"{part} in {name}": each for part, each in value.items()}
    for part, each in values.items():
        is_text = isinstance(each, str)
        if (isinstance(each, list | tuple) or (is_text and part == name != "on_steps")) and not each:
            what = "an empty text" if is_text else "an empty list"
            raise UserError(f"{part} is {what}; name something, or leave it out")


def _misfit(value: Any, declared: Any) -> tuple[Any] | None:
    """The value in a tuple, or the first value inside it, that no type allows; None if all fit."""
    inside: tuple[Any] | None = None
    for kind in (declared,) if get_origin(declared) in (Sequence, Mapping) else get_args(declared) or (declared,):
        if get_origin(kind) in (Sequence, Mapping):
            is_mapping = get_origin(kind) is Mapping
            if not isinstance(value, Mapping if is_mapping else list | tuple):
                continue
            # The names of a mapping are checked; its values are those of options or settings, which check them.
            inside = next(filter(None, (_misfit(each, get_args(kind)[0]) for each in value)), None)
            if inside is None:
                return None
        elif isinstance(value, bool):
            if kind is bool:
                return None
        elif isinstance(value, NUMBERS.get(kind, kind)):
            return None
    return inside or (value,)


def _in_words(declared: Any) -> str:
    """The types that a field allows, in words."""
    kinds = (declared,) if get_origin(declared) in (Sequence, Mapping) else get_args(declared) or (declared,)
    single = " or ".join(PLAIN[kind] for kind in kinds if kind in PLAIN)
    if any(get_origin(kind) is Mapping for kind in kinds):
        return "name to value, as {'name': value}"
    lists = [get_args(kind)[0] for kind in kinds if get_origin(kind) is Sequence]
    if not lists:
        return single
    several = "a list of pairs" if lists[0] is Pair else "a list of such"
    return f"{single}, or {several}"


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _as_json(value: Any) -> Any:
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Path | Pair):
        return str(value) if isinstance(value, Path) else value.id
    if isinstance(value, Mapping):
        return {str(name): _as_json(each) for name, each in value.items()}
    if isinstance(value, Sequence):
        return [_as_json(each) for each in value]
    return type(value).__name__
