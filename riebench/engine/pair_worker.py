"""The worker of a run: it loads the models once and works pairs off, one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from riebench.engine.learnt_files import LearntFiles
from riebench.engine.pair_task import LoadedRun, PairResult, PairTask
from riebench.engine.pair_work import PairWork
from riebench.engine.recorder import Recorder
from riebench.engine.request import Request
from riebench.engine.sae_check import check_method_takes
from riebench.instruments.loading import HandedIn, load_instruments
from riebench.metrics import metrics_of
from riebench.models.devices import fitting_threads, second_stream, types_as_loaded
from riebench.pairs import Pair
from riebench.records import Record
from riebench.util.errors import PairError, without_frames
from riebench.util.trace import TRACE


class PairWorker:
    """Works pairs off.

    Args:
        request: what to run.
        handed_in: loaded parts that are used instead of the model's own.
        folder: of the run, which keeps what methods learn; None keeps it in memory alone.

    Attributes:
        instruments: model, masks and scorers.
        recorder: makes settings and records.
        kept_for_all: what methods keep from pair to pair.
        trace: times the stages of the work; None if nothing is timed.
        copies: whether copies may work beside this worker: the model is on the CPU, no loaded part was handed in, and
            nothing is timed.
        overlaps: whether a pair is scored in a thread, while the next pair's pictures are generated.

    Raises:
        UserError: if something cannot be loaded.
    """

    def __init__(self, request: Request, handed_in: HandedIn | None = None, folder: Path | None = None) -> None:
        self.request, self.trace = request, TRACE.get()
        with self.trace.stage("load models") if self.trace else nullcontext():
            self.instruments = load_instruments(
                request.model,
                request.settings,
                request.protocol,
                metrics=request.metrics,
                batch=request.batch,
                handed_in=handed_in,
            )
        self.recorder = Recorder(request, self.instruments)
        self.kept_for_all: dict[Hashable, Any] = {}
        self.learnt = LearntFiles(folder, self.recorder, self.instruments.model.device)
        loaded_here = handed_in is None or not handed_in.names
        self.copies = self.instruments.model.device.type == "cpu" and loaded_here and self.trace is None
        for condition, method in zip(request.conditions, self.recorder.methods, strict=True):
            for site in condition.sites if method.entry.needs_sae else ():
                sae = self.instruments.model.sae(site)  # a broken SAE ends the run before the first pair
                check_method_takes(method.entry, site, sae)
        self.stamp = self.instruments.model.stamp()
        # A search needs the metrics of a pair before the pair is done; on a CPU the cores have no time to spare.
        self.overlaps = self.instruments.model.device.type == "cuda" and not request.at_lpips and self.trace is None

    def describe(
        self, pairs: Sequence[Pair], before: Sequence[Record] = (), earlier: Collection[str] = ()
    ) -> LoadedRun:
        """The run with a task for each pair.

        Args:
            pairs: of the run.
            before: records that a search goes on from.
            earlier: see :attr:`Recorder.earlier`.
        """
        instruments, request = self.instruments, self.request
        self.recorder.earlier = earlier
        by_pair: dict[str, list[Record]] = {}
        for record in before:
            by_pair.setdefault(record.pair_id, []).append(record)
        return LoadedRun(
            tasks=[self.recorder.task(pair, by_pair.get(pair.id, ())) for pair in pairs],
            shared={
                "arms": [
                    {
                        "method": method.name,
                        "options": condition.options,
                        "blocks": list(condition.sites),
                        "strengths": list(condition.strengths),
                        "on_steps": [interval and list(interval) for interval in condition.on_steps],
                    }
                    for condition, method in zip(request.conditions, self.recorder.methods, strict=True)
                ],
                "steps": request.steps,
                "model": request.model,
                "protocol": request.protocol,
                "parts": instruments.parts,
                "conditions": dict(instruments.conditions),
                "metric_names": {"clip": instruments.scorers.clip.name, "lpips": instruments.scorers.lpips.name},
            },
            locations=dict(instruments.locations),
            device=str(instruments.model.device),
            metrics=[metric.name for metric in metrics_of(request.metrics, instruments.truth is not None)],
            measured_by=dict(instruments.measured_by),
            made_by=[method.made_by for method in self.recorder.methods],
            search=request.at_lpips,
        )

    def work(self, task: PairTask) -> PairResult:
        """The result of a task. A fault of the pair is a failed record with the reason."""
        return self.begin(task)()

    def begin(self, task: PairTask) -> Callable[[], PairResult]:
        """Generate the pictures of a task; the result scores them and gives what :meth:`work` gives."""
        if task.code != self.recorder.code:
            other = "this worker has other code or weights than the run began with; end the run, and give it again"
            return partial(self.give_up, task, other)
        started = time.perf_counter()
        work = PairWork(task, self.recorder, self.instruments, self.kept_for_all, self.learnt, self.trace)
        fault: Exception | None = None
        try:
            model = self.instruments.model
            with model.unwatched(), fitting_threads(model.small), types_as_loaded(model.device):
                work.generate()
            self._check_unchanged()
        except Exception as error:  # noqa: BLE001 - any fault of a pair is a record, never a lost run
            fault = without_frames(error)
        return partial(self._scored, work, fault, time.perf_counter() - started)

    def _scored(self, work: PairWork, fault: Exception | None, seconds: float) -> PairResult:
        """The result of a pair whose pictures took some seconds, or of its fault."""
        started = time.perf_counter()
        if fault is None:
            try:
                model = self.instruments.model
                with second_stream(model.device), fitting_threads(model.small), types_as_loaded(model.device):
                    result = work.result()
            except Exception as error:  # noqa: BLE001 - as above
                fault = without_frames(error)
        if fault is not None:
            result = PairResult(self.recorder.failures(work.task, fault, work.stage))
        share = round((seconds + time.perf_counter() - started) / max(1, len(result.records)), 4)
        return PairResult([record.model_copy(update={"seconds": share}) for record in result.records], result.images)

    def _check_unchanged(self) -> None:
        """Fail a pair whose model or SAEs are not those that the run's records name.

        Raises:
            PairError: if the pipeline, its weights or an SAE's files have changed since the run began.
        """
        if self.instruments.model.stamp() != self.stamp:
            changed = (
                "the model's pipeline, its weights or the files of an SAE changed during this pair's work or before it"
            )
            raise PairError(f"{changed}; leave them alone while a run goes on, and start it again", "model")

    def give_up(self, task: PairTask, reason: str) -> PairResult:
        """The failed records of a pair whose workers died."""
        return PairResult(self.recorder.failures(task, RuntimeError(reason), where="workers"))
