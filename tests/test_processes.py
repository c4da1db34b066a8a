"""Work beside this process: the order of results, faults, deaths, the end; and a run whose pairs are shared out."""

from __future__ import annotations

import os
from concurrent.futures import wait
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from threading import Event, get_ident
from typing import Any

import psutil
import pytest

from riebench.engine.pair_work import PairWork
from riebench.engine.pair_worker import PairWorker
from riebench.engine.request import resolve
from riebench.engine.run import carry_out, is_long
from riebench.engine.run_options import RunOptions
from riebench.models.mini import MINI
from riebench.records import read_records
from riebench.util import processes
from riebench.util.errors import UserError
from riebench.util.processes import HereAndBeside

WORKER = """
import os
import time
from riebench.util.errors import UserError

class Slow:
    def __init__(self, first, copies=True, fails=False, broken=False):
        if broken:
            raise UserError("it cannot be made")
        if fails and os.getpid() != first:
            raise UserError("no room")
        self.first, self.copies = first, copies

    def work(self, task):
        time.sleep(0.02)
        if os.getpid() != self.first:
            if task == "die":
                os._exit(3)
            if task == "fault":
                raise UserError("none can go on")
        return task, os.getpid()
"""


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Further processes start after the first task, one beside this process."""
    (tmp_path / "slow_worker.py").write_text(WORKER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(processes, "LONG", 0.0)
    monkeypatch.setattr(processes, "SMALL", float("inf"))  # this process holds what earlier tests have loaded
    monkeypatch.setattr(processes._Copies, "give", waiting_until_loaded(processes._Copies.give))
    monkeypatch.setattr("loky.cpu_count", lambda only_physical_cores: 2)


def crew(alone: bool = False, early: bool = False, **options: Any) -> HereAndBeside[Any]:
    make = partial(import_module("slow_worker").Slow, os.getpid(), **options)
    return HereAndBeside(make, alone=alone, early=early)


def in_two(tasks: list[Any]) -> tuple[list[Any], list[int]]:
    results = list(crew().run(tasks))
    return [result for _, (result, _) in results], [pid for _, (_, pid) in results]


def test_results_come_in_order_from_two_processes() -> None:
    tasks = list(range(40))
    done, pids = in_two(tasks)
    assert done == tasks
    assert len(set(pids)) == 2
    assert not [child for child in psutil.Process().children() if child.pid in pids]


@pytest.mark.parametrize("case", ["alone", "no copies", "short"])
def test_this_process_alone(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_Copies", None)  # a call would fail
    if case == "short":
        monkeypatch.setattr(processes, "LONG", 60.0)
    here = crew(alone=case == "alone", copies=case != "no copies")
    assert {pid for _, (_, pid) in here.run(range(3))} == {os.getpid()}


def test_copies_load_while_this_process_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LONG", 60.0)  # so that none would start later
    before = workers()
    here = crew(early=True)
    begun = workers() - before
    pids = {pid for _, (_, pid) in here.run(range(40))}
    assert len(pids) == 2
    assert pids - {os.getpid()} <= begun
    assert workers() == before


@pytest.mark.parametrize("case", ["not made", "no copies", "not used"])
def test_copies_end_where_they_are_of_no_use(case: str) -> None:
    before = workers()
    with suppress(UserError):
        crew(early=True, copies=case != "no copies", broken=case == "not made").close()
    assert workers() == before


def workers() -> set[int]:
    """The further processes, without the one that loky keeps for all of its pools."""
    return {child.pid for child in psutil.Process().children() if "LokyProcess" in " ".join(child.cmdline())}


@pytest.mark.parametrize(
    ("options", "long"),
    [
        ({}, True),
        ({"limit": 1}, False),
        ({"settings": {"device": "cuda"}}, False),
        ({"model": "sdxl-turbo", "pairs": MINI.pairs}, False),
    ],
)
def test_only_long_runs_of_light_models_start_processes_at_once(
    options: dict[str, Any], long: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("riebench.engine.run.LONG", 15.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # without a run that was timed
    request, _ = resolve(RunOptions(["steering"], "down.2.1", **options))
    assert is_long(request, tmp_path) == long
    (tmp_path / "records.jsonl").touch()
    assert not is_long(request, tmp_path)


def test_a_copy_that_dies_loses_no_task(caplog: pytest.LogCaptureFixture) -> None:
    tasks = [*range(20), *["die"] * 20, *range(20)]
    done, _ = in_two(tasks)
    assert done == tasks
    assert "this one goes on alone" in caplog.text


def test_copies_that_cannot_load_lose_no_task(caplog: pytest.LogCaptureFixture) -> None:
    assert [result for _, (result, _) in crew(fails=True).run(range(20))] == list(range(20))
    assert "this one goes on alone" in caplog.text


def test_a_fault_of_a_copy_ends_the_work_after_the_tasks_under_way() -> None:
    tasks = [*range(20), *["fault"] * 20, *range(20)]
    given: list[Any] = []
    results = ((task, given.append(task)) for task, _ in crew().run(tasks))
    with pytest.raises(UserError, match="none can go on"):
        list(results)
    assert given[:20] == tasks[:20]
    assert len(given) < len(tasks)


def test_stop_begins_no_further_task() -> None:
    here, tasks = crew(), list(range(60))
    given = []
    for task, (_, pid) in here.run(tasks):
        given.append(task)
        if pid != os.getpid():
            here.stop()
    assert given == tasks[: len(given)]
    assert len(given) < len(tasks)


def test_the_second_stage_of_a_task_is_beside_the_first_of_the_next() -> None:
    """Each first stage but the first one begins before the second stage of the task before may end."""
    begun = [Event() for _ in range(4)]

    class InStages:
        copies, overlaps = False, True

        def begin(self, task: int) -> Any:
            begun[task].set()
            return lambda: task if task == 2 or begun[task + 1].wait(30) else None

        def work(self, task: int) -> Any:
            raise AssertionError("its stages are done one after the other")

    here = HereAndBeside(InStages, alone=True)
    done: list[Any] = []
    for task, result in here.run(range(4)):
        done.append((task, result))
        if task == 1:
            here.stop()
    assert done == [(0, 0), (1, 1), (2, 2)]


def test_a_run_that_scores_beside_has_the_records_of_one_that_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, pairs = resolve(RunOptions(["steering", "sae"], "down.2.1", strength=1, category=[1, 6], limit=2))
    threads = set()
    result = PairWork.result

    def noting(self: PairWork) -> Any:
        threads.add(get_ident())
        if self.task.pair.id == pairs[1].id:
            raise RuntimeError("a fault of one pair")
        return result(self)

    monkeypatch.setattr(PairWork, "result", noting)
    for overlaps in (False, True):
        constant = property(lambda _, value=overlaps: value, lambda *_: None)
        monkeypatch.setattr(PairWorker, "overlaps", constant, raising=False)
        carry_out(request, pairs, RunOptions(out=tmp_path / str(overlaps), quiet=True, workers=1))
    in_turn, beside = read_records(tmp_path / "False"), read_records(tmp_path / "True")
    assert [(r.key, r.status, r.reason, r.metrics) for r in in_turn] == [
        (r.key, r.status, r.reason, r.metrics) for r in beside
    ]
    assert {r.status for r in beside} == {"ok", "failed"}
    assert len(threads) == 2  # this one, and the thread beside it


def test_a_run_in_two_processes_has_the_records_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request, pairs = resolve(RunOptions("steering", "down.2.1", strength=1, category=[1, 6], limit=4, keep_images=1))
    carry_out(request, pairs, RunOptions(out=tmp_path / "one", quiet=True, workers=1))
    taken: list[int] = []
    take = processes._Copies.take

    def counting(self: Any, *args: Any, **options: Any) -> None:
        before = len(args[2])
        take(self, *args, **options)
        taken.append(len(args[2]) - before)

    monkeypatch.setattr(processes._Copies, "take", counting)
    done = carry_out(request, pairs, RunOptions(out=tmp_path / "two", quiet=True), beside=True)
    assert (done.pairs, done.failed) == (8, 0)
    assert sum(taken) > 0
    one, two = read_records(tmp_path / "one"), read_records(tmp_path / "two")
    assert [(r.key, r.metrics) for r in one] == [(r.key, r.metrics) for r in two]
    names = [sorted(path.name for path in (tmp_path / run / "images").iterdir()) for run in ("one", "two")]
    assert names[0] == names[1]


def waiting_until_loaded(give: Any) -> Any:
    """As ``give``, but not before a copy has loaded, so that it gets work in a short run and beside other tests too."""

    def waiting(self: Any, *args: Any) -> None:
        wait([self._ready])
        give(self, *args)

    return waiting
