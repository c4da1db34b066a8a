"""The benchmark as a plain loop: for every pair and setting everything anew, one picture at a time.

It does what the published code does: a base run, a source run and an edited run for each setting, masks each time,
each prompt encoded when it is used, one picture in CLIP and LPIPS at a time. It is here to be compared with: for its
time, and for its numbers, which must be the engine's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from riebench.engine.counting import put_in
from riebench.engine.pair_work import PairWorker
from riebench.engine.tasks import Task, Wanted
from riebench.instruments.loading import Instruments
from riebench.metrics import Scores


def plain_setting(worker: PairWorker, task: Task, wanted: Wanted) -> Scores:
    """Metrics of one setting on one pair, with nothing shared.

    Raises:
        Exception: if the pair fails; nothing is turned into a record here.
    """
    with nothing_kept(worker.instruments):
        alone = task._replace(wanted=(wanted,))
        runs = worker.observe(alone)
        (outcome,) = worker.edit(alone, runs)
        if outcome.error is not None:
            raise outcome.error
        (record,) = worker.score(alone, runs, [outcome])
        return record.metrics


@contextmanager
def nothing_kept(instruments: Instruments) -> Iterator[None]:
    """Encode each prompt whenever it is used, replay nothing, and score one picture at a time."""
    model, clip = instruments.model, instruments.scorers.clip
    with ExitStack() as stack:
        stack.enter_context(model.keeping_nothing())
        put_in(stack, clip, "text", clip._text)
        for owner in (model, clip, instruments.scorers.lpips):
            put_in(stack, owner, "batch", 1)
        yield
