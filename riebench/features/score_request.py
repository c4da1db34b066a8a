"""The request of ``riebench sae score``, carried out. Torch is imported once all that needs no weights is checked."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Any, NamedTuple

from riebench.features.located_saes import locate_sae, site_of
from riebench.features.score_files import VERSION, read_scores, score_path, write_scores
from riebench.features.score_settings import BASELINES, NO_BASELINE, ScoreSettings
from riebench.instruments.handed_in import check_loaded
from riebench.models.arguments import batch_kept, whole, words
from riebench.models.entries import entry_named, named_model
from riebench.models.model import ModelEntry
from riebench.prompts import GRAMMAR, Prompted
from riebench.records.code import code_version
from riebench.records.schema import record_key
from riebench.sae.folders import read_config, sae_folders
from riebench.settings.protocols import PROTOCOLS
from riebench.settings.settings import Settings, parse_settings, refuse_without_effect
from riebench.util.errors import UserError, unknown
from riebench.util.plugins import load_object, one_line_errors
from riebench.util.progress import progress_bar, tracked
from riebench.util.work_folder import InTurn, WorkFolder, check_work_folder, work_off

if TYPE_CHECKING:
    from riebench.features.held_out_pictures import SharedPictures
    from riebench.features.judge import Scores
    from riebench.features.subjects import Subject
    from riebench.instruments.world import World
    from riebench.models.model import Model

FROM_GRAMMAR = 400
"""Held-out prompts from the grammar unless told otherwise."""
PROTOCOL = "riebench"
SiteDescriptions = Mapping[str, Mapping[int, str]]
"""Site to feature to its description."""


@dataclass(frozen=True)
class LocatedDictionary:
    """A dictionary to judge, before it is loaded.

    Attributes:
        name: in tables.
        kind: ``sae`` or ``dictionary``.
        site: of its values.
        sae: its folder, or the dictionary itself.
        config: the configuration in its folder.
    """

    name: str
    kind: str
    site: str
    sae: Any
    config: Mapping[str, Any]


@dataclass(frozen=True)
class ScoreRequest:
    """The options of ``riebench sae score``."""

    saes: Sequence[Any]
    model: str | Model
    settings: Settings
    site: str | None
    baselines: Sequence[str]
    prompts: str | None
    count: int | None
    column: str | None
    descriptions: Path | None
    batch: int
    scores: ScoreSettings


def score(
    saes: Any = (),
    out: Path | str = "scores",
    *,
    model: str | Model = "mini",
    site: str | None = None,
    baselines: Sequence[str] = BASELINES,
    prompts: str | None = None,
    count: int | None = None,
    column: str | None = None,
    descriptions: Path | str | None = None,
    batch: int = 16,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Judge dictionaries beside baselines; a JSON for each and tables over all in ``out``.

    Args:
        saes: folders of SAEs (or of several), sites of the model that have one, ``module:function`` that gives a
            dictionary, or dictionaries themselves; one or several. None: the model's own.
        out: folder; a dictionary is not judged again if the folder has its scores with the same key.
        model: a name, or a loaded model.
        site: of the dictionaries, if their folders do not say.
        baselines: names of the baselines beside them.
        prompts: a file, or ``grammar``.
        count: number of prompts.
        column: of a table of prompts.
        descriptions: a JSON file, site to feature to its description.
        batch: rows in one forward pass at most.
        settings: of the instruments, as ``riebench settings`` lists them.
        options: see :class:`riebench.features.score_settings.ScoreSettings`.

    Returns:
        The contents of all score files in the folder.

    Raises:
        UserError: for bad input; before torch is imported unless the check needs weights.
    """
    several = list(saes) if isinstance(saes, (list, tuple)) else [saes]
    check_loaded("model", model)
    for name, value in (("out", out), ("prompts", prompts), ("descriptions", descriptions)):
        if not isinstance(value, str | Path | None) or (name == "out" and not value):
            raise UserError(f"{name} is {value!r}; expected a {'folder' if name == 'out' else 'file'}")
    file = None if descriptions is None else Path(descriptions)
    parsed = parse_settings({} if settings is None else settings)
    if isinstance(model, str):
        model, parsed = named_model(model, parsed)
    batch, count = whole("batch", batch, 1), None if count is None else whole("count", count, 1)
    baselines = words("baselines", baselines) if baselines else ()
    for name in options:
        if name not in (known := [field.name for field in fields(ScoreSettings)]):
            raise unknown("option", name, known, "of score")
    chosen = ScoreSettings(**options)
    request = ScoreRequest(several, model, parsed, site, baselines, prompts, count, column, file, batch, chosen)
    return carry_out_scores(request, Path(out))


def carry_out_scores(request: ScoreRequest, out: Path) -> list[dict[str, Any]]:
    """Check a request, load what it needs, and judge the dictionaries whose scores the folder lacks."""
    entry = _checked_entry(request)
    check_work_folder(out)
    targets = [target for sae in request.saes or _own(entry, request) for target in _targets(sae, entry, request)]
    if request.scores.neutral:
        entry.check_prompts([request.scores.neutral])
    request = replace(request, prompts=entry.prompts_location(request.prompts))
    prompted = _prompts(entry, request)
    descriptions = _read_descriptions(request.descriptions)
    for site in descriptions:
        if site not in (known := entry.sites(request.settings)):
            raise unknown("site", site, known, "in the descriptions")
    with batch_kept(request.model), WorkFolder(out) as folder:
        pictures = _pictures(entry, request, prompted)
        subjects = _subjects(targets, pictures.model, request, prompted, descriptions)
        if left := _left_to_judge(subjects, _facts(request, pictures), descriptions, out):
            from riebench.models.devices import types_as_loaded

            with types_as_loaded(pictures.model.device):
                _judge_all(left, pictures, _fit_prompts(entry, request), folder)
        from riebench.features.score_tables import write_score_tables

        return write_score_tables(out)


def _checked_entry(request: ScoreRequest) -> ModelEntry:
    """The entry of the model, once the options are checked (UserError)."""
    entry = entry_named(request.model) if isinstance(request.model, str) else request.model.entry
    entry.check_settings(request.settings)
    refuse_without_effect(
        request.settings,
        ("dino.", "lpips.squeeze", "masker."),
        "SAEs are judged without it; leave it out",
        but=("masker.blur_kernel", "masker.fallback"),
    )
    if not isinstance(request.model, str):
        request.model.refuse_other_settings(request.settings)
    for baseline in request.baselines:
        if baseline not in BASELINES:
            raise unknown("baseline", baseline, [*BASELINES, NO_BASELINE])
    if request.scores.steps > entry.most_steps:
        raise UserError(f"steps is {request.scores.steps}; expected 1 to {entry.most_steps}, the most of the sampler")
    return entry


class _Judgement(NamedTuple):
    """A subject whose scores are missing: the facts of its score file, and the descriptions of its features."""

    subject: Subject
    facts: dict[str, Any]
    descriptions: Mapping[int, str]


def _left_to_judge(
    subjects: Sequence[Subject], facts: Mapping[str, Any], descriptions: SiteDescriptions, out: Path
) -> list[_Judgement]:
    """The subjects of which the folder holds no scores with the same key."""
    left = []
    for subject in subjects:
        own = {} if subject.kind in BASELINES else descriptions.get(subject.block, {})
        full = {**facts, **_facts_of(subject, own)}
        # The configuration of a dictionary says nothing beside its weights; that of a baseline says how it is trained.
        left_out = ("name",) if subject.kind in BASELINES else ("name", "config")
        full["key"] = record_key(**{name: value for name, value in full.items() if name not in left_out})
        if (read_scores(score_path(out, subject.name, full["key"])) or {}).get("key") != full["key"]:
            left.append(_Judgement(subject, full, own))
    return left


def _judge_all(
    left: Sequence[_Judgement], pictures: SharedPictures, fit: Sequence[Prompted], folder: WorkFolder
) -> None:
    """Judge subjects and write their score files; a first Ctrl-C ends it after the current one."""
    from riebench.features.judge import Judge
    from riebench.features.subjects import train_frozen

    subjects = [judgement.subject for judgement in left]
    train_frozen(subjects, pictures.model, fit, pictures.settings.seed, tracked("fit"))
    judge = Judge(pictures, subjects, tracked("pictures"))

    def work(judgement: _Judgement) -> dict[str, Any]:
        started = time.perf_counter()
        scores = judge.score(judgement.subject, judgement.descriptions)
        return _written(scores) | {"code": code_version(), "seconds": round(time.perf_counter() - started, 1)}

    def keep(judgement: _Judgement, scores: dict[str, Any]) -> None:
        facts = judgement.facts
        write_scores(folder, score_path(folder.path, judgement.subject.name, facts["key"]).name, {**facts, **scores})
        advance()

    with progress_bar("dictionaries", len(left)) as advance:
        ending = work_off(InTurn(work), left, keep, "score file")
    if ending.left and ending.signal:
        raise KeyboardInterrupt if ending.signal is Signals.SIGINT else SystemExit(128 + ending.signal)


def _own(entry: ModelEntry, request: ScoreRequest) -> list[str]:
    saes = entry.saes(request.settings) if isinstance(request.model, str) else request.model.saes
    sites = [site for site in saes if request.site in (None, site)]
    if not sites:
        raise UserError(f"{entry.name} has no SAEs of its own here; name the folders of those to be judged")
    return sites


def _targets(sae: Any, entry: ModelEntry, request: ScoreRequest) -> list[LocatedDictionary]:
    """The dictionaries that an argument names."""
    if not isinstance(request.model, str) and isinstance(sae, str) and sae in request.model.saes:
        held, site = request.model.saes[sae], replace(request, site=sae)
        if not isinstance(held, Path):
            return [_checked_dictionary(sae, held, entry, site)]
        if held != entry.saes(request.settings).get(sae):
            return [_dictionary_in(str(held), entry, site)]
    if not isinstance(sae, (str, Path)):
        return [_checked_dictionary(type(sae).__name__, sae, entry, request)]
    name, folder = str(sae), Path(sae)
    if ":" in name and not folder.exists():
        return [_checked_dictionary(name, _imported_dictionary(name), entry, request)]
    folders = [str(sae) for sae in sae_folders(folder)] or [name]
    return [_dictionary_in(name, entry, request) for name in folders]


def _dictionary_in(sae: str, entry: ModelEntry, request: ScoreRequest) -> LocatedDictionary:
    located = locate_sae(sae, entry, request.settings)
    site = site_of(located, entry, request.settings, request.site)
    return LocatedDictionary(located.name, "sae", site, located.folder, read_config(located.folder) or {})


def _checked_dictionary(name: str, dictionary: Any, entry: ModelEntry, request: ScoreRequest) -> LocatedDictionary:
    site, sites = request.site, entry.sites(request.settings)
    if site is None:
        raise UserError(f"the site of {name} in {entry.name} is unknown; give it with --site, as --site mid.0")
    if site not in sites:
        raise unknown("site", site, sites)
    from riebench.models.sae_sites import check_fits
    from riebench.sae.given import as_sae

    check_fits(as_sae(dictionary, sites[site].width, name), site, sites)
    return LocatedDictionary(name, "dictionary", site, dictionary, {})


def _imported_dictionary(name: str) -> Any:
    loaded = load_object("dictionary", name)
    ready = hasattr(loaded, "encode") and not isinstance(loaded, type)
    with one_line_errors("dictionary", name):
        return loaded() if callable(loaded) and not ready else loaded


def _prompts(entry: ModelEntry, request: ScoreRequest) -> Sequence[Prompted]:
    assert request.prompts is not None
    count = request.count or (FROM_GRAMMAR if request.prompts == GRAMMAR else None)
    prompted = entry.read_prompts(request.prompts, count, "held-out", request.column)
    if len(prompted) < 4:
        raise UserError(f"{len(prompted)} prompts are too few to judge on; give 4 or more, best hundreds")
    world = _world_of(entry)
    if world is not None:
        for prompt, _ in prompted:
            world.shown(prompt)
    return prompted


def _fit_prompts(entry: ModelEntry, request: ScoreRequest) -> Sequence[Prompted]:
    """Prompts of the training split: ``fit`` of them, or fewer if the file holds fewer."""
    assert request.prompts is not None
    count = request.scores.fit if request.prompts == GRAMMAR else None
    prompted = entry.read_prompts(request.prompts, count, "train", request.column)
    return prompted[: request.scores.fit]


def _world_of(entry: ModelEntry) -> World | None:
    from riebench.instruments.loading import world_of

    return world_of(entry)


def _read_descriptions(path: Path | None) -> SiteDescriptions:
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        return {site: {int(i): str(text) for i, text in several.items()} for site, several in content.items()}
    except (OSError, ValueError, AttributeError) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise UserError(
            f'the descriptions {path} cannot be read ({reason}); expected JSON as {{"mid.0": {{"12": "a red heart"}}}}'
        ) from None


def _pictures(entry: ModelEntry, request: ScoreRequest, prompted: Sequence[Prompted]) -> SharedPictures:
    from riebench.features.held_out_pictures import SharedPictures
    from riebench.instruments.loading import assemble_scorers, mask_rules, model_instruments

    protocol = PROTOCOLS[PROTOCOL]
    masker = ("detector", "text-encoder", "segmenter")
    own = model_instruments(entry, request.settings, protocol, masker)
    model = entry.load(request.settings) if isinstance(request.model, str) else request.model
    model.batch = request.batch
    scorers = assemble_scorers(own)
    world = _world_of(entry) if model.own else None
    rules = mask_rules(entry, request.settings, protocol)
    return SharedPictures(model, scorers, world, rules, prompted, request.scores)


def _subjects(
    targets: Sequence[LocatedDictionary],
    model: Model,
    request: ScoreRequest,
    prompted: Sequence[Prompted],
    descriptions: SiteDescriptions,
) -> list[Subject]:
    """The dictionaries, loaded and checked, and their baselines."""
    from riebench.features.subjects import Subject, make_baselines
    from riebench.models.sae_sites import placed_sae

    subjects: list[Subject] = []
    for target in targets:
        placed = placed_sae(target.site, target.sae, model.sites, model.device)
        subjects.append(Subject(target.name, target.kind, target.site, {target.site: placed}, target.config))
        for number in descriptions.get(target.site, {}):
            if not 0 <= number < len(placed.W_dec):
                raise UserError(f"{target.name} has no feature {number} to describe; it has {len(placed.W_dec)}")
    return subjects + make_baselines(subjects, model, request.baselines, request.scores.seed, prompted)


def _facts(request: ScoreRequest, pictures: SharedPictures) -> dict[str, Any]:
    """The facts that all score files of a call share."""
    model, scorers = pictures.model, pictures.scorers
    measuring: dict[str, Any] = {"clip": scorers.clip, "lpips": scorers.lpips}
    return {
        "version": VERSION,
        "model": model.entry.name,
        "parts": {
            "model": model.fingerprint,
            **{name: f"{part.name}-{part.fingerprint}" for name, part in measuring.items()},
        },
        "conditions": {**model.conditions, "masks": asdict(pictures.rules), "truth": pictures.world is not None},
        "settings": asdict(request.scores),
        "prompts": {
            "location": request.prompts,
            "count": len(pictures.prompted),
            "hash": record_key(prompted=[list(one) for one in pictures.prompted]),
        },
    }


def _facts_of(subject: Subject, descriptions: Mapping[int, str]) -> dict[str, Any]:
    return {
        "name": subject.name,
        "kind": subject.kind,
        "block": subject.block,
        "sites": list(subject.parts),
        "features_count": sum(len(part.W_dec) for part in subject.parts.values()),
        "dictionary": subject.fingerprint(),
        "config": dict(subject.config),
        "descriptions": {str(number): text for number, text in descriptions.items()},
    }


def _written(scores: Scores) -> dict[str, Any]:
    """Scores as a score file keeps them: columns, six digits, null where undefined."""
    return {
        "summary": {name: _plain(estimate._asdict()) for name, estimate in scores.summary.items()},
        "steps": {name: [_plain(estimate._asdict()) for estimate in several] for name, several in scores.steps.items()},
        "coverage": _plain(scores.coverage),
        "features": {name: _plain(list(column)) for name, column in scores.features.items()},
        "switched": _plain(scores.switched),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return round(value, 6) + 0.0 if abs(value) < float("inf") else None
    return value
