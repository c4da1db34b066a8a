"""A run: load, see what is left to do, work it off pair by pair, append the records."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from itertools import count as counted
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from riebench.engine.forecast import forecast, passes_of, timed_work
from riebench.engine.pair_task import LoadedRun, PairResult, PairTask
from riebench.engine.request import Request
from riebench.engine.resume import lacking, left_to_do, refuse_other_makers, refuse_other_request, refuse_other_runs
from riebench.engine.run_options import RunOptions
from riebench.engine.session import Session, made_with, writing_run_file
from riebench.instruments.loading import HandedIn
from riebench.methods.registry import find
from riebench.metrics import scorers_of
from riebench.models.entries import entry_named
from riebench.pairs import Pair
from riebench.records import Record, RunFolder, read_records, read_run
from riebench.records.folder import RECORDS, RUN
from riebench.util.errors import UserError
from riebench.util.processes import LONG
from riebench.util.progress import keep_timing, progress_bar
from riebench.util.work_folder import check_work_folder, work_off
from riebench.util.workers import Crew, Workers, hired
from riebench.weights import locate, scorer_file

if TYPE_CHECKING:
    from riebench.engine.pair_worker import PairWorker

logger = logging.getLogger(__name__)
PASS = 0.05
"""Seconds of a pass of a light model with its share of decoding and scoring, where none was timed on this machine."""


def carry_out(
    request: Request,
    pairs: Sequence[Pair],
    options: RunOptions,
    beside: bool = False,
    repeated: Path | None = None,
) -> Session:
    """Make the records of a request that its folder lacks, and append them there.

    Args:
        request: what to run.
        pairs: the chosen pairs.
        options: the folder (``out``), loaded parts, workers, and what to do with failures and earlier records.
        beside: whether a long run that names no number of workers goes on in further processes too. They know nothing
            of what a program has changed in this one.
        repeated: the folder of a run that is repeated.

    Raises:
        UserError: if the request cannot be run, or what it needs is not what it was in the repeated run, before
            anything is computed; or if the folder can no longer be written.
        KeyboardInterrupt: at a second Ctrl-C.
    """
    path, given = Path(options.out) if options.out else _new_folder(), options.handed_in
    _check_weights(request, given)
    check_work_folder(path, RUN)
    if not options.force:
        refuse_other_request(request.protocol, request.steps, path)
    kept = _first_of_each(pairs, request.keep_images)
    shares = (options.ray_address, options.gpus_per_worker, options.cpus_per_worker)
    beside = beside and options.workers is None
    workers = Workers(options.workers or 1, *shares, beside, beside and is_long(request, path))
    if (workers.gpus or workers.cpus) and workers.count == 1 and not workers.address:
        shared = "--gpus-per-worker and --cpus-per-worker are shares of several workers"
        raise UserError(f"{shared}; leave them out, or give --workers or --ray-address")
    if given.names and (workers.count > 1 or workers.address):
        raise UserError(f"{', '.join(given.names)} cannot be handed to other processes; leave out --workers")
    crew_of = hired(partial(_worker, request, given, path), workers, len(pairs), "pair", lambda task: task.pair.id)
    with crew_of as crew, RunFolder(path, options.force) as folder:
        before = folder.records
        searched = [record for record in before if record.at_lpips or request.at_lpips]
        earlier = {record.key for record in before if not record.made_by}
        loaded_run = crew.ask(lambda worker: worker.describe(pairs, searched, earlier))
        refuse_other_runs(loaded_run, before, path)
        if repeated is not None and not (before and repeated.resolve() == path.resolve()):
            _refuse_unlike(loaded_run, request, repeated)
        if before:
            before = _asked_for_now(folder, before, loaded_run)
        asked = {setting.key for task in loaded_run.tasks for setting in task.settings}
        if lack := lacking((record for record in before if record.key in asked), loaded_run.metrics):
            before = _completed(crew, folder, lack, loaded_run, request, given)
        tasks = left_to_do(loaded_run, before, kept, options.retry_failed)
        session = Session(path, len(tasks), statuses={r.key: r.status for r in before if r.key in asked})
        if before:
            left = sum(len(task.settings) for task in tasks)
            logger.info("%d records are in %s; %d are left to make", len(before), path, left)
        with writing_run_file(folder, loaded_run, request, options, session):
            _work(crew, tasks, folder, session, options)
    if session.pairs and given.model is None:  # nothing tells the weights of a loaded model
        passes = passes_of(request, 2 * session.pairs + session.written)
        keep_timing(timed_work(request), loaded_run.device, session.seconds, passes)
    return session


def is_long(request: Request, path: Path) -> bool:
    """Whether a run of a light model will take long, as far as can be told before anything is loaded."""
    plan, device = forecast(request), request.settings.model.device
    begun = (path / RECORDS).is_file()  # nobody knows what is left
    light = entry_named(request.model).light and device in ("auto", "cpu")
    return light and not begun and plan.seconds.get("cpu", PASS * plan.forwards) > LONG


def _refuse_unlike(loaded_run: LoadedRun, request: Request, repeated: Path) -> None:
    """Check that a run would make the records of a folder again.

    Raises:
        UserError: if its weights, code, pairs or metrics are not those of the records, or, as ``run.json`` has them, of
            the last session with the same request; or if nothing says what these were.
    """
    mend = f"so {repeated} cannot be repeated: put back what it was run with, or use 'riebench run'"
    asked, sessions = request.model_dump(mode="json"), read_run(repeated).get("sessions") or []
    then = next((session.get("made_with") for session in sessions[::-1] if session.get("request") == asked), None)
    file = repeated / RECORDS
    if file.is_file() and file.stat().st_size:
        refuse_other_runs(loaded_run, read_records(repeated), repeated, mend)
    elif not then or (request.images and "pictures" not in then):
        why = "holds no records, and its run.json does not say with which weights and code it was run"
        raise UserError(f"{repeated} {why}, so nothing tells whether a repetition is the same; use 'riebench run'")
    else:  # a run may have ended before its first record
        logger.warning("%s holds no records; its run.json tells that weights and code are the same", repeated)
    if then:
        now = json.loads(json.dumps(made_with(loaded_run, request), default=str))
        refuse_other_makers(then, now, [condition.method for condition in request.conditions], mend)


def _asked_for_now(folder: RunFolder, before: Sequence[Record], loaded_run: LoadedRun) -> list[Record]:
    """The records of a folder; those of strengths that a search had chosen, and that are asked for now, say so."""
    asked = {setting.key for task in loaded_run.tasks for setting in task.settings if setting.at_lpips is None}
    newly = {r.key: r.model_copy(update={"at_lpips": None}) for r in before if r.at_lpips and r.key in asked}
    if newly:
        folder.append(newly.values())
    return [newly.get(record.key, record) for record in before]


def _completed(
    crew: Crew[PairWorker],
    folder: RunFolder,
    lack: Sequence[Record],
    loaded_run: LoadedRun,
    request: Request,
    given: HandedIn,
) -> list[Record]:
    """The records of a folder, those that lack a metric completed as far as their pictures are kept there."""
    from riebench.engine.add_metrics import complete
    from riebench.instruments.loading import load_scorers

    if crew.local is not None:
        scorers, truth = crew.local.instruments.scorers, crew.local.instruments.truth
    else:
        scorers, truth = load_scorers(request.model, request.settings, request.protocol, request.metrics, given)
    pairs = {task.pair.id: task.pair for task in loaded_run.tasks}
    done, _ = complete(folder, lack, loaded_run.metrics, scorers, truth, pairs)
    names = sorted({name for record in lack for name in set(loaded_run.metrics) - record.metrics.keys()})
    again = len(lack) - len(done)
    message = "%d records lack %s: %d get it from kept pictures, %d are made again"
    logger.info(message, len(lack), ", ".join(names), len(done), again)
    by_key = {record.key: record for record in done}
    return [by_key.get(record.key, record) for record in folder.records]


def _worker(request: Request, given: HandedIn, folder: Path) -> PairWorker:
    """Called in the process that the worker works in: torch is imported there alone."""
    from riebench.engine.pair_worker import PairWorker

    return PairWorker(request, given, folder.resolve())


def _work(
    crew: Crew[PairWorker], tasks: Sequence[PairTask], folder: RunFolder, session: Session, options: RunOptions
) -> None:
    """Work the tasks off, until they are done or there is a reason to end."""
    console, max_failures = Console(stderr=True, quiet=options.quiet), options.max_failures
    started = time.perf_counter()

    def keep(task: PairTask, result: PairResult) -> str | None:
        # Before the records, which promise them.
        folder.keep_images({f"{task.pair.id}-{name}": image for name, image in result.images.items()})
        folder.append(result.records)
        session.count(result.records)
        advance(len(result.records))
        if max_failures is not None and session.failed_pairs >= max_failures:
            return f"ended after {session.failed_pairs} pairs with failures (--max-failures {max_failures})"
        return None

    settings = max((len(task.settings) for task in tasks), default=0)
    title = f"{len(tasks)} pairs x {settings} settings"
    with progress_bar(title, len(tasks), counted="records", console=console) as advance:
        ending = work_off(crew, tasks, keep, "pair")
    session.seconds = time.perf_counter() - started
    session.signal, session.ended = ending.signal, ending.reason or "finished"


def _first_of_each(pairs: Sequence[Pair], count: int) -> set[str]:
    """Ids of the first pairs of each category."""
    by_category: dict[int, list[str]] = {}
    for pair in pairs:
        by_category.setdefault(pair.editing_type_id, []).append(pair.id)
    return {name for names in by_category.values() for name in names[:count]}


def _check_weights(request: Request, given: HandedIn) -> None:
    """See that the weights are on this machine, before anything heavy is imported."""
    entry = given.model.entry if given.model else entry_named(request.model)
    for name in scorers_of(request.metrics) - (given.scorers.more.keys() if given.scorers else set()):
        scorer_file(name, entry.name, request.settings)
    if entry.parts:
        needs_sae = any(find(condition.method).needs_sae for condition in request.conditions)
        optional = () if needs_sae else ("sae",)
        locate(entry.name, entry.parts, request.settings, optional=optional, without=given.parts)


def _new_folder() -> Path:
    """A folder named for this second that does not exist yet."""
    name = datetime.now().strftime("%Y%m%d-%H%M%S")
    paths = (Path("runs") / (name if number == 1 else f"{name}-{number}") for number in counted(1))
    return next(path for path in paths if not path.exists())
