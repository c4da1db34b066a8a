"""A run: load, see what is left to do, work it off pair by pair, append the records."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import count as counted
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from riebench.engine.pair_task import LoadedRun, PairResult, PairTask
from riebench.engine.request import Request, resolve
from riebench.engine.resume import lacking, left_to_do, refuse_other_runs
from riebench.engine.session import Session, writing_run_file
from riebench.instruments.handed_in import HandedIn
from riebench.methods.registry import find
from riebench.metrics import scorers_of
from riebench.models.entries import entry_named
from riebench.models.model import Model
from riebench.pairs import Pair
from riebench.records import Record, RunFolder, read_records
from riebench.records.folder import RUN
from riebench.util.errors import UserError
from riebench.util.progress import keep_timing, progress_bar
from riebench.util.work_folder import check_work_folder, work_off
from riebench.util.workers import Crew, Workers, hired
from riebench.weights import locate, scorer_file

if TYPE_CHECKING:
    from riebench.engine.pair_worker import PairWorker
    from riebench.masks.user_masks import UserMasks
    from riebench.metrics import Scorers

logger = logging.getLogger(__name__)


def carry_out(
    request: Request,
    pairs: Sequence[Pair],
    out: Path | None = None,
    *,
    given: HandedIn | None = None,
    force: bool = False,
    quiet: bool = False,
    retry_failed: bool = False,
    max_failures: int | None = None,
    workers: Workers | None = None,
) -> Session:
    """Carry a request out. Records that the folder holds already are not made again.

    Args:
        request: what to run.
        pairs: the chosen pairs.
        out: folder; one named for the time unless given.
        given: loaded parts.
        force: whether to discard the records that the folder holds.
        quiet: whether to show no progress.
        retry_failed: whether to make failed records again.
        max_failures: end after so many pairs with a failure.
        workers: processes that work pairs off.

    Raises:
        UserError: if it cannot be run, before anything is computed; or if the folder cannot be written any more.
        KeyboardInterrupt: at a second Ctrl-C.
    """
    path, given = out or _new_folder(), given or HandedIn()
    _check_weights(request, given)
    check_work_folder(path, RUN)
    kept = _first_of_each(pairs, request.keep_images)
    workers = workers or Workers()
    if given.names and (workers.count > 1 or workers.address):
        raise UserError(f"{', '.join(given.names)} cannot be handed to other processes; leave out --workers")
    crew_of = hired(partial(_worker, request, given), workers, len(pairs), "pair", lambda task: task.pair.id)
    with crew_of as crew, RunFolder(path, force) as folder:
        before = folder.records
        searched = [record for record in before if record.at_lpips or request.at_lpips]
        loaded_run = crew.ask(lambda worker: worker.describe(pairs, searched))
        refuse_other_runs(loaded_run, before, path)
        if before:
            before = _asked_for_now(folder, before, loaded_run)
        asked = {setting.key for task in loaded_run.tasks for setting in task.settings}
        if lack := lacking((record for record in before if record.key in asked), loaded_run.metrics):
            before = _completed(crew, folder, lack, loaded_run, request, given)
        tasks = left_to_do(loaded_run, before, kept, retry_failed)
        session = Session(path, len(tasks), statuses={r.key: r.status for r in before if r.key in asked})
        if before:
            left = sum(len(task.settings) for task in tasks)
            logger.info("%d records are in %s; %d are left to make", len(before), path, left)
        with writing_run_file(folder, loaded_run, request, session):
            _work(crew, tasks, folder, session, max_failures, Console(stderr=True, quiet=quiet))
    rows = request.steps * sum(2 + len(task.settings) for task in tasks[: session.pairs])
    if rows:
        keep_timing(request.model, loaded_run.device, session.seconds, rows)
    return session


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


def _worker(request: Request, given: HandedIn) -> PairWorker:
    """Called in the process that the worker works in: torch is imported there alone."""
    from riebench.engine.pair_worker import PairWorker

    return PairWorker(request, given)


def _work(
    crew: Crew[PairWorker],
    tasks: Sequence[PairTask],
    folder: RunFolder,
    session: Session,
    max_failures: int | None,
    console: Console,
) -> None:
    """Work the tasks off, until they are done or there is a reason to end."""
    started = time.perf_counter()

    def keep(task: PairTask, result: PairResult) -> str | None:
        for name, image in result.images.items():  # before the records, which promise them
            folder.keep_image(f"{task.pair.id}-{name}", image)
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
    if request.metrics is not None:
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


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        session: folder, counts and time.
        records: one for each pair and setting that the folder holds.
    """

    session: Session
    records: list[Record]


def run(
    method: str | Sequence[str] | None = None,
    block: str | Sequence[str] = "all",
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
    on_steps: str | int | Sequence[str | int] | None = None,
    seed: int | None = None,
    category: str | int | Sequence[str | int] = (),
    ids: Sequence[str] = (),
    limit: int | None = None,
    settings: Mapping[str, Any] | None = None,
    masks: UserMasks | None = None,
    scorers: Scorers | None = None,
    out: str | Path | None = None,
    keep_images: int = 3,
    batch: int = 8,
    metrics: str | Sequence[str] | None = None,
    at_lpips: float | Sequence[float] | None = None,
    at_lpips_within: float | None = None,
    at_lpips_most: float | None = None,
    force: bool = False,
    retry_failed: bool = False,
    max_failures: int | None = None,
    workers: int = 1,
    ray_address: str | None = None,
    quiet: bool = False,
) -> RunResult:
    """Run methods over pairs; records that ``out`` holds already are not made again.

    Args:
        method: name or names, ``package.module:Class``, or ``all``; not with a preset.
        block: block or blocks, edited together; ``all`` for the model's default ones.
        model: name, or a model that :func:`riebench.load` loaded.
        pairs: a file, or pairs; the model's own unless given.
        strength: factors on the whole intervention; 0.25, 0.5, 1, 1.5 and 2 unless given.
        k: features (or neurons) moved in each direction, for methods that have the option.
        options: further options of the methods.
        preset: name of a published sweep, in place of method, k, strength and options.
        protocol: ``riebench`` or ``paper``; a preset brings its own.
        alone: whether each of the blocks is also edited alone.
        steps: denoising steps; the model's own unless given.
        on_steps: intervals of the steps in which the interventions are on, as ``0``, ``1-3`` or ``all``; each is run.
            All steps unless given.
        seed: of all runs; each pair's own unless given.
        category: numbers or names.
        ids: of pairs.
        limit: pairs of each category at most.
        settings: of model and instruments by name, see ``riebench settings``; None leaves one as it is.
        masks: regions of the pairs, see :data:`riebench.masks.user_masks.UserMasks`.
        scorers: CLIP and LPIPS.
        out: folder; one named for the time unless given.
        keep_images: pairs of each category whose pictures are kept.
        batch: rows in one forward pass at most.
        metrics: what is measured, by name or set, see :func:`riebench.metrics.chosen`; the protocol's unless given.
        at_lpips: values of LPIPS; on every pair the strength of every condition is searched at which the edited
            picture has each, see :class:`riebench.settings.lpips_search.SearchOptions`.
        at_lpips_within: share of such a value by which the picture's may differ; 0.05 unless given.
        at_lpips_most: the largest strength that is tried; 32 unless given.
        force: whether to discard the records that the folder holds.
        retry_failed: whether to make failed records again.
        max_failures: end after so many pairs with a failure.
        workers: processes that work pairs off, by Ray if more than one.
        ray_address: of a Ray cluster to use; ``auto`` for the one that this process is in.
        quiet: whether to show no progress.

    Raises:
        UserError: if it cannot be run, before anything is computed; or if the folder cannot be written any more.
        KeyboardInterrupt: at Ctrl-C (or SIGTERM) after the pair in flight, whose records are then in the folder.
    """
    handed = [name for name, value in (("masks", masks), ("scorers", scorers)) if value is not None]
    request, chosen = resolve(
        method,
        block,
        model=model,
        pairs=pairs,
        strength=strength,
        k=k,
        options=options,
        preset=preset,
        protocol=protocol,
        alone=alone,
        steps=steps,
        on_steps=on_steps,
        seed=seed,
        category=category,
        ids=ids,
        limit=limit,
        settings=settings,
        keep_images=keep_images,
        batch=batch,
        handed_in=handed,
        metrics=metrics,
        at_lpips=at_lpips,
        at_lpips_within=at_lpips_within,
        at_lpips_most=at_lpips_most,
    )
    session = carry_out(
        request,
        chosen,
        Path(out) if out is not None else None,
        given=HandedIn(None if isinstance(model, str) else model, masks, scorers),
        force=force,
        quiet=quiet,
        retry_failed=retry_failed,
        max_failures=max_failures,
        workers=Workers(workers, ray_address),
    )
    if session.signal is not None:
        raise KeyboardInterrupt
    return RunResult(session, read_records(session.folder))
