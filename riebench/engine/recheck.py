"""Recompute what can be recomputed of a contributed run: metrics of its kept pictures, and some records made anew."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from riebench.engine.kept_pictures import KeptPictures, kept_pictures, pixels
from riebench.engine.request import Request, requests_of
from riebench.instruments.loading import load_scorers
from riebench.metrics import METRICS, Scores, score_images
from riebench.models.entries import entry_named, pair_file_named
from riebench.pairs import load_pairs
from riebench.records import Record, read_records
from riebench.records.folder import records_file
from riebench.records.image_hashes import IMAGES, image_hashes, is_changed
from riebench.util.errors import PairError, UserError

T = TypeVar("T")
MOST = 60
"""Records at most that are recomputed from pictures, spread over all of them."""
ANEW_PAIRS, ANEW_SETTINGS = 3, 4
"""Pairs that are made again, and settings of each, on models whose weights come with the package."""
TOLERANCE = 2e-3
"""What another machine or version may move a metric by, of its size or at all."""


@dataclass
class Rechecked:
    """What was recomputed, as lines for the user, and the problems."""

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def recheck(folder: Path) -> Rechecked:
    """Recompute a sample of the records of a run folder; what cannot be recomputed is said with the reason.

    Raises:
        UserError: if the records cannot be read.
    """
    records = read_records(records_file(folder))
    checked = Rechecked()
    if changed := _changed_pictures(folder):
        checked.problems.append(f"{len(changed)} pictures are not those that the run wrote (first: {changed[0]})")
    try:
        requests = requests_of(folder)
        checked.lines.append(_share_of_pairs(requests[-1], records))
    except UserError as error:
        checked.lines.append(f"not recomputed: {error}")
        return checked
    scored = [record for record in records if record.status == "ok"]
    for what, recomputed in (("their pictures", _from_pictures), ("their prompts", _anew)):
        try:
            pairs = recomputed(folder, requests, scored)
        except (UserError, PairError) as error:
            checked.lines.append(f"not recomputed from {what}: {str(error).splitlines()[0]}")
            continue
        checked.lines.append(f"{len(pairs)} of {len(scored)} records recomputed from {what}")
        checked.problems += [f"{problem}, recomputed from {what}" for problem in _differences(pairs)]
    return checked


def _share_of_pairs(request: Request, records: Sequence[Record]) -> str:
    """How many of the pairs of the request's file have records."""
    count = len({record.pair_id for record in records})
    file = pair_file_named(request.pair_file) if request.pair_file else entry_named(request.model).pairs
    if file is None or not file.is_file():
        return f"{count} of an unknown number of pairs: {file or 'their file'} is not here"
    return f"{count} of the {len(load_pairs(file))} pairs of {file.name}"


def _changed_pictures(folder: Path) -> list[str]:
    """The names of the kept pictures that are known to be others than the run wrote."""
    hashes = image_hashes(folder)
    present = [folder / IMAGES / name for name in sorted(hashes) if (folder / IMAGES / name).is_file()]
    return [path.name for path in present if is_changed(path, hashes)]


def _from_pictures(folder: Path, requests: Sequence[Request], scored: Sequence[Record]) -> list[tuple[Record, Scores]]:
    """Records with the metrics of their kept pictures.

    Raises:
        UserError: if no picture is kept, or scorers are missing or others.
    """
    request = requests[-1]
    with_picture = [r for r in scored if (folder / IMAGES / f"{r.pair_id}-{r.key}.png").is_file()]
    kept, _ = kept_pictures(folder, _spread(with_picture, MOST))
    if not kept:
        raise UserError("the folder keeps none")
    scorers, truth = load_scorers(request.model, request.settings, request.protocol, request.metrics)
    for name, part in (("clip", scorers.clip), ("lpips", scorers.lpips)):
        if (recorded := kept[0].records[0].parts.get(name)) != f"{part.name}-{part.fingerprint}":
            raise UserError(f"they were scored by the {name} {recorded}, which is not here")
    pairs = {pair.id: pair for pair in request.pairs()} if truth and not request.handed_in else {}

    def scores_of(of_pair: KeptPictures) -> list[Scores]:
        first = of_pair.records[0]
        judge = truth(pairs[first.pair_id], first.seed) if truth and first.pair_id in pairs else None
        reference = of_pair.reference()._replace(truth=judge)
        return score_images(scorers, reference, [pixels(path) for path in of_pair.pictures], request.metrics)

    return [pair for of_pair in kept for pair in zip(of_pair.records, scores_of(of_pair), strict=True)]


def _anew(folder: Path, requests: Sequence[Request], scored: Sequence[Record]) -> list[tuple[Record, Scores]]:
    """Records with the metrics of pictures that are made again; without the truth, which a rounding may flip.

    Raises:
        UserError: if the model's weights do not come with the package, or the run cannot be repeated from its folder.
    """
    generating = [request for request in requests if not request.images]
    if not generating:
        raise UserError("they have none")
    if entry_named(generating[-1].model).parts:
        raise UserError(f"pictures of {generating[-1].model} are not made for a check")
    from riebench.engine.pair_worker import PairWorker

    request = generating[-1]
    conditions = [condition for earlier in generating for condition in earlier.conditions]
    distinct = tuple(c for number, c in enumerate(conditions) if c not in conditions[:number])
    worker = PairWorker(request.model_copy(update={"conditions": distinct}))
    by_key = {record.key: record for record in scored}
    made: list[tuple[Record, Scores]] = []
    recorded = {record.pair_id for record in scored}
    for pair in _spread([pair for pair in request.pairs() if pair.id in recorded], ANEW_PAIRS):
        task = worker.recorder.task(pair, [record for record in scored if record.pair_id == pair.id])
        settings = _spread([setting for setting in task.settings if setting.key in by_key], ANEW_SETTINGS)
        for record in worker.work(task._replace(settings=tuple(settings), searches=())).records:
            if record.status != "ok":
                raise PairError(f"pair {pair.id!r} fails here: {record.reason}", "engine")
            sure = {name for name in record.metrics if name not in METRICS or not METRICS[name].drawn_world}
            made.append((by_key[record.key], {name: record.metrics[name] for name in sure}))
    if not made:
        raise UserError("the code here gives them other keys; the version that made them can recompute them")
    return made


def _spread(values: Sequence[T], most: int) -> list[T]:
    """At most so many of some values, spread over them."""
    return list(values[:: max(1, math.ceil(len(values) / most))])


def _differences(pairs: Iterable[tuple[Record, Scores]]) -> list[str]:
    """A problem for each metric that was recomputed otherwise."""
    differ: dict[str, list[str]] = {}
    for record, scores in pairs:
        for name, now in scores.items():
            then = record.metrics.get(name, now)
            if (then is None) != (now is None) or not math.isclose(
                then or 0, now or 0, rel_tol=TOLERANCE, abs_tol=TOLERANCE
            ):
                differ.setdefault(name, []).append(f"{record.key}, {then} for {now}")
    return [f"{len(lines)} records have another {name} (first: {lines[0]})" for name, lines in differ.items()]
