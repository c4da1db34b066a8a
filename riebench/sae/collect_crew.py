"""Processes that write shards, by Ray; the driver alone writes the manifest."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from riebench.sae.capture import Capture
from riebench.sae.dataset import Shard, StoredType
from riebench.util.errors import UserError

if TYPE_CHECKING:
    from riebench.sae.shard_writer import ShardWriter


class _Collector:
    """What runs in an actor's process."""

    def __init__(self, capture: Capture, dtype: StoredType, shard_prompts: int, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.writer: ShardWriter | None = None
        self.given = capture, dtype, shard_prompts

    def asked(self) -> Any:
        """What is collected, or why it cannot be."""
        from riebench.sae.shard_writer import ShardWriter

        try:
            self.writer = ShardWriter(*self.given)
        except UserError as error:
            return str(error)
        return self.writer.asked

    def write(self, number: int, folder: Path) -> Shard | str:
        """Write one shard, or say why it cannot be written."""
        assert self.writer is not None
        try:
            return self.writer.write(number, folder)
        except UserError as error:
            return str(error)


class CollectCrew:
    """Workers on this machine that write shards.

    Args:
        capture: what is taken.
        dtype: of the stored numbers.
        shard_prompts: prompts of each shard.
        workers: how many; cores and GPUs are split evenly.

    Raises:
        UserError: if Ray is not installed, or a worker cannot load the model.
    """

    def __init__(self, capture: Capture, dtype: StoredType, shard_prompts: int, workers: int) -> None:
        if capture.model is not None:
            raise UserError("a loaded model cannot be handed to other processes; leave out workers")
        try:
            import ray
        except ImportError:
            raise UserError("workers need Ray; install it with: pip install 'riebench[ray]'") from None
        self.ray = ray
        self.started = not ray.is_initialized()
        if self.started:
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            ray.init(address="local", log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        there = ray.cluster_resources()
        cpus, gpus = (there.get(name, 0.0) / workers for name in ("CPU", "GPU"))
        path = os.pathsep.join(dict.fromkeys([os.getcwd(), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]))
        hired: Any = ray.remote(_Collector)
        remote = hired.options(num_cpus=cpus, num_gpus=gpus, runtime_env={"env_vars": {"PYTHONPATH": path}})
        threads = max(1, int(cpus))
        self.actors: list[Any] = [remote.remote(capture, dtype, shard_prompts, threads) for _ in range(workers)]
        self.asked = next(self._checked(self._get([actor.asked.remote() for actor in self.actors])))

    def write(self, numbers: Sequence[int], folder: Path) -> Iterator[tuple[int, Shard]]:
        """Write shards by their numbers, in the order in which they are done.

        Raises:
            UserError: if one cannot be written or a worker died; what the others had under way is finished first.
        """
        waiting, idle = list(reversed(numbers)), list(self.actors)
        flying: dict[Any, tuple[Any, int]] = {}
        fault: UserError | None = None
        while flying or (waiting and fault is None):
            while idle and waiting and fault is None:
                actor, number = idle.pop(), waiting.pop()
                flying[actor.write.remote(number, folder.absolute())] = actor, number
            if not flying:
                break
            [done], _ = self.ray.wait(list(flying), num_returns=1)
            actor, number = flying.pop(done)
            try:
                [shard] = self._checked(self._get([done]))
            except UserError as error:
                fault = fault or error
                continue
            idle.append(actor)
            yield number, shard
        if fault is not None:
            raise fault

    def _get(self, calls: Sequence[Any]) -> list[Any]:
        try:
            found: list[Any] = self.ray.get(list(calls))
        except self.ray.exceptions.RayError as error:
            said = str(error).strip().splitlines()[-1]
            raise UserError(f"a worker died ({said}); the same command goes on") from None
        return found

    def _checked(self, results: Sequence[Any]) -> Iterator[Any]:
        for result in results:
            if isinstance(result, str):
                raise UserError(result)
        yield from results

    def close(self) -> None:
        """Let the workers go, and Ray if it was started here."""
        for actor in self.actors:
            self.ray.kill(actor)
        if self.started:
            self.ray.shutdown()
