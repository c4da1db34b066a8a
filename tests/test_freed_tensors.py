"""Tensors are freed when they have served, since a GPU has no room for more: of pairs, of faults and of models."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor

import riebench
from riebench.engine.pair_task import PairResult
from riebench.engine.pair_worker import PairWorker
from riebench.engine.request import resolve
from riebench.engine.run_options import RunOptions
from riebench.instruments.loading import HandedIn, Instruments
from riebench.methods import Plan, method
from riebench.methods.registry import METHODS
from riebench.util.errors import PairError, without_frames

Held = list["weakref.ref[Tensor]"]


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """References to tensors of a pair, which do not keep them, in a test without collections of garbage."""
    monkeypatch.setattr(METHODS, "registered", dict(METHODS.registered))
    gc.disable()
    yield []
    gc.enable()


def worked(mini: Instruments, *methods: str, strength: float | list[float] = 1) -> PairResult:
    """One pair's records of some methods."""
    options = RunOptions(list(methods), "up.0.0", category="colour", limit=1, strength=strength, keep_images=0)
    request, pairs = resolve(options)
    worker = PairWorker(request, HandedIn(mini.model, scorers=mini.scorers))
    return worker.work(worker.describe(pairs).tasks[0])


def test_nothing_of_a_pair_stays(mini: Instruments, held: Held) -> None:
    @method("watching")
    class Watching:
        """Sees the values of the pair."""

        def plan(self, seen: Any) -> Plan:
            held.extend(map(weakref.ref, [*seen.base.values(), *seen.source.values(), *seen.base_masks.values()]))
            return Plan({"up.0.0": lambda values, step: values + 1})

    result = worked(mini, "watching", "sae", "steering", "caa", "paste")
    assert [record.status for record in result.records] == ["ok"] * 5
    assert len(held) > 2
    assert not [tensor for reference in held if (tensor := reference()) is not None]


@pytest.mark.parametrize("where", ["plan", "masks"])
def test_nothing_of_a_failed_pair_stays(
    mini: Instruments, held: Held, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> Any:
        large = torch.zeros(1000)
        held.append(weakref.ref(large))
        try:
            raise MemoryError("no room for a thousand numbers")
        except MemoryError as error:
            raise PairError("does not fit", "method") from error

    @method("failing")
    class Failing:
        """Holds a tensor when it fails."""

        plan = failing

    if where == "masks":
        monkeypatch.setattr("riebench.engine.pair_work.PairWork.observe", failing)
    [record] = worked(mini, "failing").records
    assert (record.status, len(held)) == ("failed", 1)
    assert "does not fit" in str(record.reason)
    assert held[0]() is None


def test_a_batch_that_failed_is_freed_before_its_pictures_are_made_one_by_one(mini: Instruments, held: Held) -> None:
    seen_by_change = SimpleNamespace(held=held, alive=[])  # a change may hold no list of its own that grows

    def change(values: Tensor, step: int) -> Tensor:
        seen_by_change.alive.extend(reference() is not None for reference in seen_by_change.held)
        if not seen_by_change.held:
            large = values.clone()
            seen_by_change.held.append(weakref.ref(large))
            raise ValueError("not the first time")
        return values

    @method("second")
    class Second:
        """Fails in the first batch."""

        def plan(self, seen: Any) -> Plan:
            return Plan({"up.0.0": change})

    result = worked(mini, "second", strength=[1, 2])
    assert [(record.status, record.reason) for record in result.records] == [("ok", None)] * 2
    assert (len(held), seen_by_change.alive) == (1, [False, False])


def test_the_errors_behind_an_error_lose_their_frames_too() -> None:
    def chained() -> Exception:
        try:
            try:
                raise ValueError("first")
            except ValueError as error:
                raise KeyError("second") from error
        except KeyError as error:
            return error

    error = without_frames(chained())
    assert (error.__traceback__, error.__cause__.__traceback__) == (None, None)  # type: ignore[union-attr]
    assert str(error.__cause__) == "first"


def test_a_model_that_nothing_uses_is_freed_before_another_is_opened(
    random_pipeline: StableDiffusionXLPipeline, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opening(*given: Any, **more: Any) -> Any:
        alive.append([reference() is not None for reference in held])
        return from_pretrained(*given, **more)

    alive: list[list[bool]] = []
    from_pretrained = DiffusionPipeline.from_pretrained
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", opening)
    random_pipeline.save_pretrained("pipeline")
    for _ in range(2):
        pipeline = riebench.load("pipeline").pipeline
        held.append(weakref.ref(pipeline.unet.conv_in.weight))
        del pipeline
    assert alive == [[], [False]]
