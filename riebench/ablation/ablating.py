"""Carry an ablation out, prompt by prompt. Needs no torch until all that can be wrong has been looked at."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Any

from riebench.ablation.ablation_folder import (
    Ablation,
    Stored,
    Zeroing,
    append_zeroings,
    image_path,
    read_stored,
    refuse_others,
    whole_prompts,
    write_stored,
    write_zeroings,
)
from riebench.ablation.ablation_request import ALL, AblationRequest, resolve_ablation
from riebench.records import only_writer
from riebench.records.code import code_version
from riebench.util.errors import UserError
from riebench.util.files import write_whole
from riebench.util.local_crew import Crew, local_crew
from riebench.util.progress import Track, stopping, tracked

if TYPE_CHECKING:
    import pandas as pd

    from riebench.ablation.ablation_worker import AblationWorker, PromptResult
    from riebench.metrics import Scorers
    from riebench.models.model import Model


@dataclass(frozen=True)
class Ablated:
    """What became of an ablation.

    Attributes:
        folder: that holds it.
        asked: what it is of.
        zeroings: the records that are there now; all of them, prompt by prompt, unless it was ended early.
        table: see :func:`riebench.ablation.effects.effects`; None if it was ended early.
        left: prompts that are missing.
        signal: that ended it early, if one did.
    """

    folder: Path
    asked: Ablation
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
    """Zero the update of each block in turn, and see how far the pictures change.

    Prompts that ``out`` holds already are not made again, and more of them may be asked for; the files are the same
    whatever the number of workers.

    Args:
        model: name, folder of a pipeline, or a model that :func:`riebench.load` loaded.
        blocks: what is zeroed in turn: ``all`` blocks of the model, its ``default`` ones, or names; several with
            commas between or as a list; ``mid.0+up.0.0`` is both at once.
        together: blocks of which every two are zeroed at once, too; as ``blocks``.
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
        UserError: if something asked for is unknown, weights are missing, or the folder is that of another ablation or
            cannot be written; before anything is computed, and before torch is imported where no weights are needed
            to find it.
    """
    if workers < 1:
        raise UserError(f"workers is {workers}; expected 1 or more")
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
    if workers > 1 and (request.model or request.scorers):
        raise UserError("loaded models and scorers cannot be handed to other processes; leave out workers")
    folder = Path(out)
    before = read_stored(folder)
    if before is not None:
        refuse_others(before.asked, request, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        crew = local_crew(partial(_worker, request), min(workers, len(request.prompted)))
        with only_writer(folder), crew as hired:
            done = _work(hired, request, folder, iter if quiet else tracked("prompts"))
            return done if done.left else _finished(done)
    except OSError as error:
        raise UserError(
            f"the folder {folder} cannot be written ({error.strerror or error}); give another --out"
        ) from None


def _worker(request: AblationRequest) -> AblationWorker:
    """Made in the process that it works in; here no torch is needed if others do."""
    from riebench.ablation.ablation_worker import AblationWorker

    return AblationWorker(request)


def _work(crew: Crew[Ablation, PromptResult], request: AblationRequest, folder: Path, track: Track) -> Ablated:
    """Make what is missing."""
    before = read_stored(folder)
    if before is not None and before.asked.but_the_prompts() != crew.asked.but_the_prompts():
        what = "weights" if before.asked.parts != crew.asked.parts else "settings"
        raise UserError(f"{folder} holds an ablation made with other {what}; give another --out")
    write_stored(folder, Stored(asked=crew.asked, code=before.code if before else code_version()))
    zeroings = whole_prompts(folder, crew.asked)
    done = {one.seed for one in zeroings}
    left = [number for number, one in enumerate(request.prompted) if one.seed not in done]
    count = 0
    with stopping("prompt") as ask:
        results = crew.run(left)
        for _ in track(range(len(left))):
            number, result = next(results)
            for blocks, picture in result.pictures.items():  # before the records, which promise them
                write_whole(image_path(folder, number, blocks), _png(picture))
            append_zeroings(folder, result.zeroings)
            zeroings += result.zeroings
            count += 1
            if ask:
                break
    missing = len(left) - count
    if missing:
        _say(f"ended by {ask[0].name}; {missing} prompts are left, the same command goes on")
    return Ablated(folder, crew.asked, zeroings, None, missing, ask[0] if missing else None)


def _finished(done: Ablated) -> Ablated:
    """Put the records in order, whoever made them first, and write table, figures and sheet."""
    from riebench.ablation.ablation_report import write_report

    place = {blocks: number for number, blocks in enumerate(done.asked.sets)}
    ordered = sorted(done.zeroings, key=lambda one: (one.seed, place[one.blocks]))
    write_zeroings(done.folder, ordered)
    return Ablated(done.folder, done.asked, ordered, write_report(done.folder, done.asked, ordered))


def _png(picture: Any) -> bytes:
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(picture).save(data, "png")
    return data.getvalue()


def _say(text: str) -> None:
    print(f"riebench: {text}", file=sys.stderr, flush=True)
