"""Actors of a Ray cluster: each holds the models once and takes pairs; the driver alone writes records."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from riebench.engine.pair_task import LoadedRun, PairResult, PairTask
from riebench.engine.pair_worker import PairWorker
from riebench.engine.request import Request
from riebench.engine.session import Workers
from riebench.pairs import Pair
from riebench.records import Record
from riebench.util.errors import UserError

logger = logging.getLogger(__name__)
TRIES = 3
"""Worker deaths after which a pair is recorded as failed; deaths in a row while loading after which none is hired."""
PATIENCE = 300.0
"""Seconds that a run without any worker waits for a new one."""
QUIET = 60.0
"""Seconds after which a run reports that it waits for its workers."""
KNOCKING = 10.0
"""Seconds in which a cluster's address must answer."""


class _Worker:
    """What runs in an actor's process."""

    def __init__(self, request: Request, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.worker: PairWorker | None = None
        self.fault = ""
        try:
            self.worker = PairWorker(request)
        except UserError as error:
            self.fault = str(error)

    def ready(self) -> str:
        """Why this worker cannot work; empty if it can."""
        return self.fault

    def describe(self, pairs: Sequence[Pair], before: Sequence[Record] = ()) -> LoadedRun:
        """The run as this worker knows it."""
        assert self.worker is not None
        return self.worker.describe(pairs, before)

    def work(self, task: PairTask) -> PairResult:
        """Work one task off."""
        assert self.worker is not None
        return self.worker.work(task)

    def give_up(self, task: PairTask, reason: str) -> PairResult:
        """The records of a pair that cost too many workers."""
        assert self.worker is not None
        return self.worker.give_up(task, reason)


@dataclass
class _Flying:
    """A call that is under way: a task, or (without one) a new worker that is loading."""

    actor: Any
    task: PairTask | None
    giving_up: bool = False


class RayCrew:
    """Workers on this machine or on a cluster.

    Args:
        request: what to run.
        workers: how many, and what each gets.

    Raises:
        UserError: if Ray is not installed, the cluster cannot be reached or is too small, or a worker cannot load.
    """

    def __init__(self, request: Request, workers: Workers) -> None:
        try:
            import ray
        except ImportError:
            raise UserError("workers need Ray; install it with: pip install 'riebench[ray]'") from None
        self.ray = ray
        self.ending = False  # to be set where no further task is to be begun
        self.request = request
        self.workers = workers
        self.started = not ray.is_initialized()
        if self.started:
            self._connect()
        self._share_out()
        self.lost: dict[str, int] = {}
        self.died_loading = 0
        self.actors: list[Any] = []
        self._hire_all()

    def _connect(self) -> None:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            _knock(self.workers.address)
            self.ray.init(
                address=self.workers.address or "local",  # None would join a cluster that somebody runs here
                log_to_driver=False,
                logging_level=logging.ERROR,
                include_dashboard=False if self.workers.address is None else None,
            )
        except (OSError, OverflowError, ValueError, RuntimeError) as error:
            said = str(error).strip().splitlines()[0]
            raise UserError(f"the Ray cluster {self.workers.address!r} cannot be reached: {said}") from None

    def _share_out(self) -> None:
        """Decide what each worker gets, and see that the cluster has it."""
        there, count = self.ray.cluster_resources(), self.workers.count
        gpus, cpus = self.workers.gpus, self.workers.cpus
        if gpus is None:
            whole = there.get("GPU", 0.0) / count
            gpus = float(int(whole)) if whole >= 1 else whole
        if cpus is None:
            whole = there.get("CPU", 1.0) / count
            cpus = float(int(whole)) if whole >= 1 else whole
        for name, each in (("CPU", cpus), ("GPU", gpus)):
            if each * count > there.get(name, 0.0) + 1e-6:
                has = there.get(name, 0.0)
                raise UserError(f"{count} workers with {each:g} {name} each need more than the {has:g} that there are")
        self.share = {"num_cpus": cpus, "num_gpus": gpus}
        self.threads = max(1, int(cpus))

    def _hire(self) -> Any:
        # Methods that lie where one stands are found in the workers, too.
        path = os.pathsep.join(dict.fromkeys([os.getcwd(), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]))
        remote = self.ray.remote(_Worker).options(**self.share, runtime_env={"env_vars": {"PYTHONPATH": path}})
        return remote.remote(self.request, self.threads)

    def _hire_all(self) -> None:
        """Hire one worker, and as many more as fit: the memory of the first is that of each."""
        self._hire_some(1)
        count = self.workers.count
        if count > 1 and self.workers.address is None:
            each = self.describe(()).bytes
            fitting = 1 + int(psutil.virtual_memory().available // each)
            if fitting < count:
                said = f"{count} workers were asked for; {fitting} fit into memory ({each / 1e9:.1f} GB each)"
                logger.warning(said)
                count = fitting
        self._hire_some(count - 1)

    def _hire_some(self, count: int) -> None:
        hired = [self._hire() for _ in range(count)]
        calls = [actor.ready.remote() for actor in hired]
        ready, missing = self.ray.wait(calls, num_returns=len(calls), timeout=QUIET) if calls else ([], [])
        if missing:  # others may use the cluster; it waits until they are done
            said = (
                f"{len(ready)} of {len(calls)} workers are ready; waiting for the cluster to have room for the others"
            )
            logger.info("%s (Ctrl-C ends it)", said)
        try:
            faults = self.ray.get(calls)
        except self.ray.exceptions.RayError as error:
            self.close()
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"the models do not fit into the workers: {reason}; use fewer --workers") from None
        if any(faults):
            self.close()
            raise UserError(next(fault for fault in faults if fault))  # once, however many say it
        self.actors += hired

    def describe(self, pairs: Sequence[Pair], before: Sequence[Record] = ()) -> LoadedRun:
        """The run as the first worker knows it."""
        found: LoadedRun = self.ray.get(self.actors[0].describe.remote(list(pairs), list(before)))
        return found

    def run(self, tasks: Sequence[PairTask]) -> Iterator[tuple[PairTask, PairResult]]:
        """Work tasks off, in the order in which they are done; what is under way at the end is finished."""
        waiting, idle = deque(tasks), list(self.actors)
        flying: dict[Any, _Flying] = {}
        while True:
            while idle and waiting and not self.ending:
                self._begin(idle.pop(), waiting.popleft(), flying)
            busy = any(f.task is not None for f in flying.values())
            if not busy and (not waiting or self.ending):
                return
            if not flying:
                raise UserError("all workers were lost and new ones cannot load; the same command goes on")
            done, _ = self.ray.wait(list(flying), num_returns=1, timeout=None if busy else PATIENCE)
            if not done:
                raise UserError(
                    f"all workers were lost and none came back in {PATIENCE:.0f} s; the same command goes on"
                )
            now = flying.pop(done[0])
            try:
                result = self.ray.get(done[0])
            except self.ray.exceptions.RayActorError as error:
                self._lose(now, str(error).strip().splitlines()[0], waiting, flying)
                continue
            if now.task is None and result:  # a worker that came late and cannot load
                logger.warning("a new worker cannot work: %s", result)
                continue
            idle.append(now.actor)
            if now.task is None:
                self.died_loading = 0
            else:
                yield now.task, result

    def _begin(self, actor: Any, task: PairTask, flying: dict[Any, _Flying]) -> None:
        lost = self.lost.get(task.pair.id, 0)
        if lost >= TRIES:
            reason = f"the pair was given to {lost} workers and each of them died"
            flying[actor.give_up.remote(task, reason)] = _Flying(actor, task, giving_up=True)
        else:
            flying[actor.work.remote(task)] = _Flying(actor, task)

    def _lose(self, now: _Flying, said: str, waiting: deque[PairTask], flying: dict[Any, _Flying]) -> None:
        """A worker died: its pair goes to another, and a new worker takes its place once there is room for it.

        Workers that die as they load, one after the other, are not replaced.
        """
        if now.task is not None:
            self.lost[now.task.pair.id] = self.lost.get(now.task.pair.id, 0) + (not now.giving_up)
            waiting.appendleft(now.task)
            logger.warning("a worker died at the pair %r (%s); it is given to another", now.task.pair.id, said)
        else:
            self.died_loading += 1
            if self.died_loading >= TRIES:
                logger.warning("%d new workers died as they loaded (%s); no more are hired", TRIES, said)
                return
        actor = self._hire()
        self.actors.append(actor)
        flying[actor.ready.remote()] = _Flying(actor, None)

    def close(self) -> None:
        """Let the workers go, and the cluster if it was started here."""
        for actor in self.actors:
            self.ray.kill(actor)
        if self.started:
            self.ray.shutdown()


def _knock(address: str | None) -> None:
    """See that somebody listens at ``host:port``: Ray itself would try for minutes.

    Raises:
        OSError: if nobody does.
    """
    at = re.fullmatch(r"(?:ray://)?([^/]+):(\d{1,5})", address or "")
    if at is not None:
        socket.create_connection((at[1].strip("[]"), int(at[2])), timeout=KNOCKING).close()
