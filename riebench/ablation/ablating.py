"""Run an ablation, prompt by prompt. Needs no torch until the request is checked."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Any

from riebench.ablation.ablation_folder import (
    ABLATION,
    Ablation,
    AblationFolder,
    Zeroing,
    image_name,
    read_stored,
    refuse_others,
)
from riebench.ablation.ablation_request import ALL, AblationRequest, resolve_ablation
from riebench.models.arguments import batch_kept, whole
from riebench.util.errors import UserError
from riebench.util.progress import progress_bar
from riebench.util.work_folder import check_work_folder, full_disk, work_off
from riebench.util.workers import Crew, Workers, hired

if TYPE_CHECKING:
    import pandas as pd

    from riebench.ablation.ablation_worker import AblationWorker, PromptResult
    from riebench.metrics import Scorers
    from riebench.models.model import Model


@dataclass(frozen=True)
class Ablated:
    """The result of an ablation.

    Attributes:
        folder: that holds it.
        ablation: its facts.
        zeroings: the records in the folder; all of them, prompt by prompt, unless it was ended early.
        table: see :func:`riebench.ablation.effects.effects`; None if it was ended early.
        left: number of prompts whose records are missing.
        signal: that ended it early, if one did.
    """

    folder: Path
    ablation: Ablation
    zeroings: list[Zeroing]
    table: pd.DataFrame | None
    left: int = 0
    signal: Signals | None = None


def ablate(
    model: str | Path | Model = "mini",
    blocks: str | Iterable[str] = ALL,
    *,
    together: str | Iterable[str] = (),
    prompts: int | str | Path | None = None,
    count: int | None = None,
    column: str | None = None,
    steps: int | None = None,
    out: str | Path = "ablation",
    batch: int = 8,
    keep_images: int = 4,
    workers: int = 1,
    scorers: Scorers | None = None,
    settings: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> Ablated:
    """Zero the update of each block in turn, and measure how far the pictures change.

    Prompts that ``out`` holds already are not made again, and more of them may be asked for; the files are the same
    whatever the number of workers.

    Args:
        model: name, folder of a pipeline, or a model that :func:`riebench.load` loaded.
        blocks: blocks that are zeroed in turn: ``all`` of the model, its ``default`` ones, or names; several with
            commas between or as a list; ``mid.0+up.0.0`` is both at once.
        together: blocks of which every two are also zeroed at once; as ``blocks``.
        prompts: how many of the model's own, or a file (see :func:`riebench.prompts.read_prompts`); 20 of the
            model's own unless given, as many as in the paper.
        count: prompts taken from a file; all unless given.
        column: of a table, the column with the prompts.
        steps: denoising steps; the model's own unless given.
        out: folder.
        batch: rows in one forward pass at most.
        keep_images: prompts whose pictures are kept and shown on the sheet.
        workers: processes that generate, by Ray if more than one.
        scorers: CLIP and LPIPS in place of those that belong to the model's name.
        settings: of model and scorers by name, see ``riebench settings``; None leaves one as it is.
        quiet: whether to show no progress.

    Raises:
        UserError: if a name is unknown, weights are missing, or the folder is that of another ablation or cannot be
            written; before anything is computed, and before torch is imported unless the check needs weights.
    """
    request = resolve_ablation(
        model,
        blocks,
        together=together,
        prompts=prompts,
        count=count,
        column=column,
        steps=steps,
        batch=batch,
        keep_images=keep_images,
        scorers=scorers,
        settings=settings,
    )
    workers = whole("workers", workers, 1)
    if not isinstance(out, str | Path) or not str(out):
        raise UserError(f"out is {out!r}; expected a folder")
    if workers > 1 and (request.model or request.scorers):
        raise UserError("loaded models and scorers cannot be handed to other processes; leave out workers")
    folder = Path(out)
    check_work_folder(folder, ABLATION)
    before = read_stored(folder)
    if before is not None:
        refuse_others(before.ablation, request, folder)
    crew_of = hired(partial(_worker, request), Workers(workers), len(request.prompted), "prompt")
    with batch_kept(request.model), AblationFolder(folder) as work_folder, crew_of as crew:
        ablated = _work(crew, request, work_folder, quiet)
        return ablated if ablated.left else _finished(ablated, work_folder)


def _worker(request: AblationRequest) -> AblationWorker:
    """Called in the process that the worker works in: torch is imported there alone."""
    from riebench.ablation.ablation_worker import AblationWorker

    return AblationWorker(request)


def _work(crew: Crew[AblationWorker], request: AblationRequest, folder: AblationFolder, quiet: bool) -> Ablated:
    """Make the records of the prompts that the folder lacks."""
    ablation = crew.ask(lambda worker: worker.ablation)
    zeroings = folder.begin(ablation)
    finished_seeds = {zeroing.seed for zeroing in zeroings}
    left = [number for number, prompted in enumerate(request.prompted) if prompted.seed not in finished_seeds]

    def keep(number: int, result: PromptResult) -> None:
        for blocks, picture in result.pictures.items():  # before the records, which promise them
            folder.write(image_name(number, blocks), _png(picture))
        folder.append(result.zeroings)
        zeroings.extend(result.zeroings)
        advance()

    with progress_bar("prompts", len(left), quiet=quiet) as advance:
        ending = work_off(crew, left, keep, "prompt")
    return Ablated(folder.path, ablation, zeroings, None, ending.left, ending.signal if ending.left else None)


def _finished(ablated: Ablated, folder: AblationFolder) -> Ablated:
    """Put the records in the order of the prompts, and write table, figures and sheet."""
    from riebench.ablation.ablation_report import write_report

    order = {blocks: number for number, blocks in enumerate(ablated.ablation.sets)}
    zeroings = sorted(ablated.zeroings, key=lambda zeroing: (zeroing.seed, order[zeroing.blocks]))
    folder.rewrite(zeroings)
    with full_disk(ablated.folder):
        table = write_report(ablated.folder, ablated.ablation, zeroings)
    return Ablated(ablated.folder, ablated.ablation, zeroings, table)


def _png(picture: Any) -> bytes:
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(picture).save(data, "png")
    return data.getvalue()
