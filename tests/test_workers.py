"""Several workers: a real Ray cluster of two nodes on this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

import riebench
from riebench.ablation.ablation_request import resolve_ablation
from riebench.ablation.ablation_worker import AblationWorker
from riebench.engine.pair_worker import PairWorker
from riebench.engine.request import Request, resolve
from riebench.engine.run import carry_out
from riebench.engine.run_options import RunOptions
from riebench.instruments.loading import Instruments
from riebench.pairs import Pair
from riebench.records import read_records
from riebench.training.capture import resolve_capture
from riebench.training.shard_writer import ShardWriter
from riebench.util.errors import UserError
from riebench.util.workers import RayCrew, Workers, hired

ray = pytest.importorskip("ray", reason="the extra ray is not installed")
TWO = Workers(2, cpus=1, gpus=0)
BY_TWO = RunOptions(quiet=True, workers=2, cpus_per_worker=1, gpus_per_worker=0)
ROOT = Path(__file__).parents[1]
REQUEST, NINE = resolve(RunOptions(["steering", "none"], "down.2.1", strength=[1, 2], limit=1, keep_images=0))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with one processor each, by Ray's own utility."""
    from ray.cluster_utils import Cluster

    made = Cluster(
        initialize_head=True,
        connect=True,
        head_node_args={
            "num_cpus": 1,
            "num_gpus": 1,  # Ray shares out what it is told; nothing computes on it
            "include_dashboard": False,
            "_system_config": {"health_check_period_ms": 500, "health_check_failure_threshold": 4},
        },
    )
    made.add_node(num_cpus=1, num_gpus=1)
    made.wait_for_nodes()
    yield made
    ray.shutdown()
    made.shutdown()


def numbers(folder: Path) -> dict[str, Any]:
    return {r.key: (r.pair_id, r.status, r.reason, r.metrics) for r in read_records(folder)}


def test_the_same_records_from_one_two_and_four_workers_even_if_a_node_dies(cluster: Any, tmp_path: Path) -> None:
    carry_out(REQUEST, NINE, RunOptions(out=tmp_path / "one", quiet=True))
    alone = numbers(tmp_path / "one")
    assert len(alone) == 9 * 4

    for workers, cpus in ((2, 1), (4, 0.5)):  # all of one thread, as this process is
        folder = tmp_path / str(workers)
        options = RunOptions(out=folder, quiet=True, workers=workers, cpus_per_worker=cpus, gpus_per_worker=0)
        carry_out(REQUEST, NINE, options)
        assert numbers(folder) == alone

    # The second node is killed while pairs are under way.
    records = tmp_path / "killed" / "records.jsonl"
    doomed = next(node for node in cluster.list_all_nodes() if node is not cluster.head_node)

    def kill() -> None:
        while not (records.exists() and records.stat().st_size):
            time.sleep(0.02)
        cluster.remove_node(doomed, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    done = carry_out(REQUEST, NINE, replace(BY_TWO, out=tmp_path / "killed"))
    killer.join()
    assert (done.pairs, done.failed) == (9, 0)
    killed = numbers(tmp_path / "killed")
    assert killed == alone
    assert (tmp_path / "killed" / "records.jsonl").read_text().count('{"key":') == len(alone)
    cluster.add_node(num_cpus=1, num_gpus=1)
    cluster.wait_for_nodes()


def crew_of(request: Request, workers: Workers) -> RayCrew[PairWorker]:
    return RayCrew(partial(PairWorker, request), workers, "pair")


def one_and_six(method: str) -> tuple[Request, list[Pair]]:
    return resolve(RunOptions(method, "down.2.1", strength=1, category=[1, 6], limit=1, keep_images=0))


DEADLY = """
import os
from riebench.methods import Plan, method

@method("deadly")
class Deadly:
    def plan(self, seen):
        if seen.pair.editing_type_id == 6:
            os._exit(1)
        return Plan()
"""


def test_a_pair_that_kills_its_workers_is_a_failure(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "deadly_method.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(tmp_path)
    request, pairs = one_and_six("deadly_method:Deadly")
    done = carry_out(request, pairs, replace(BY_TWO, out=tmp_path / "out"))
    assert (done.pairs, done.failed) == (2, 1)
    (failed,) = [r for r in read_records(tmp_path / "out") if r.status == "failed"]
    assert failed.category == 6
    assert failed.where == "workers"
    assert "given to 3 workers and each of them died" in str(failed.reason)
    assert "it is given to another" in caplog.text


def test_any_work_survives_its_workers(cluster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Work without pairs: a task that kills one worker is done by another, one that kills all of them is given up."""

    class Fragile:
        def work(self, task: int) -> int:
            flag = tmp_path / str(task)
            if task == 2 or (task == 1 and not flag.exists()):
                flag.touch()
                os._exit(1)
            if task == 3:
                raise UserError("shard 3 is bad")
            return 10 * task

        def give_up(self, task: int, reason: str) -> int:
            assert reason == "the shard was given to 3 workers and each of them died"
            return -task

    with hired(Fragile, TWO, 9, "shard") as crew:
        assert crew.local is None
        assert crew.ask(lambda worker: worker.work(0)) == 0
        assert dict(crew.run([0, 1, 2, 4])) == {0: 0, 1: 10, 2: -2, 4: 40}
    assert "a worker died at the shard '1'" in caplog.text
    with hired(Fragile, TWO, 9, "shard") as crew:
        results = crew.run([3, 0])
        with pytest.raises(UserError, match=r"^shard 3 is bad$"):
            assert dict(results) == {}
        with pytest.raises(UserError, match=r"^shard 3 is bad$"):
            crew.ask(lambda worker: worker.work(3))
    with pytest.raises(UserError, match="workers is 0"), hired(Fragile, Workers(0), 9, "shard"):
        pass


def test_collecting_and_ablating_give_up_a_task(mini: Instruments) -> None:
    written = resolve_capture(mini.model, "mid.0", prompts="grammar", count=2)
    writer = ShardWriter(written, "float16", 1, Path("values"))
    with pytest.raises(UserError, match="shard 1 cannot be made: died"):
        writer.give_up(1, "died")
    ablation = resolve_ablation(mini.model, "mid.0,up.0.0", prompts=2, scorers=mini.scorers)
    result = AblationWorker(ablation).give_up(1, "died")
    assert [(z.seed, z.status, z.reason) for z in result.zeroings] == [
        (ablation.prompted[1].seed, "failed", "died")
    ] * 2


FICKLE = """
import os
from pathlib import Path
from riebench.methods import Plan, method

FLAG = Path(__file__).with_name("flag-{name}")
if FLAG.exists():
    {then}

@method("{name}")
class Fickle:
    def plan(self, seen):
        FLAG.touch()
        os._exit(1)
"""


@pytest.mark.parametrize(
    ("name", "then", "said"),
    [("dying", "os._exit(1)", "3 new workers died as they loaded"), ("faulty", "1 / 0", "a new worker cannot work")],
)
def test_workers_that_cannot_be_replaced_end_the_run(
    cluster: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    then: str,
    said: str,
) -> None:
    (tmp_path / f"{name}_method.py").write_text(FICKLE.format(name=name, then=then))
    monkeypatch.syspath_prepend(tmp_path)
    request, pairs = one_and_six(f"{name}_method:Fickle")
    with pytest.raises(UserError, match="all workers were lost and new ones cannot load"):
        carry_out(request, pairs, replace(BY_TWO, out=tmp_path / "out"))
    assert said in caplog.text


def test_a_fault_of_all_workers_is_said_once(cluster: Any, tmp_path: Path) -> None:
    lost = REQUEST.model_copy(update={"model": "no_such_module:entry"})
    with pytest.raises(UserError, match="the model 'no_such_module:entry' cannot be loaded"):
        crew_of(lost, TWO)
    with pytest.raises(UserError, match="3 workers with 1 CPU each need more than the 2"):
        crew_of(REQUEST, Workers(3, cpus=1, gpus=0))
    with pytest.raises(UserError, match="masks cannot be handed to other processes"):
        carry_out(REQUEST, NINE, replace(BY_TWO, out=tmp_path / "out", masks={}))


def test_gpus_are_shared_out(cluster: Any) -> None:
    class Idle:
        """A worker without models, which is pickled by value."""

    crew = RayCrew(Idle, Workers(2, cpus=1), "pair")
    found = [actor.__ray_call__.remote(lambda worker: os.environ["CUDA_VISIBLE_DEVICES"]) for actor in crew.actors]
    assert [len(ids.split(",")) for ids in ray.get(found)] == [1, 1]
    assert crew.share["num_gpus"] == 1
    assert ray.available_resources().get("GPU", 0) == 0
    crew.close()
    with pytest.raises(UserError, match="2 workers with 2 GPU each need more than the 2"):
        RayCrew(Idle, Workers(2, cpus=1, gpus=2), "pair")


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many workers each call hires."""
    hired: list[int] = []
    hire = RayCrew._hire_some

    def hiring(self: RayCrew, count: int) -> None:
        hired.append(count)
        hire(self, count)

    monkeypatch.setattr(RayCrew, "_hire_some", hiring)
    return hired


def test_no_more_workers_than_pairs(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hired = counted(monkeypatch)
    words: dict[str, Any] = {"strength": 1, "category": [1, 6], "limit": 1, "keep_images": 0, "quiet": True}
    result = riebench.run("none", "mid.0", workers=999, out=tmp_path / "many", **words)
    assert (sum(hired), result.session.pairs) == (2, 2)
    assert caplog.messages == ["999 workers were asked for; 2 are started, one for each pair"]
    # The pair that is left is worked off, and no other.
    lines = (tmp_path / "many" / "records.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "many" / "records.jsonl").write_text("".join(lines[:2]))  # a shared part and one record
    result = riebench.run("none", "mid.0", workers=2, out=tmp_path / "many", **words)
    assert (len(result.records), result.session.pairs) == (2, 1)


@pytest.mark.parametrize(("room", "fitting"), [(0.5, 1), (1.5, 2), (2.5, 3), (9, 4)])
def test_no_more_workers_than_memory_holds(
    cluster: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    room: float,
    fitting: int,
) -> None:
    """The memory of the first worker is that of each; as many more are hired as fit into what it leaves free."""
    hired: list[int] = []
    monkeypatch.setattr(RayCrew, "_hire_some", lambda self, count: hired.append(count))
    monkeypatch.setattr(RayCrew, "bytes_of_each", lambda self: 10**9)
    memory = psutil.virtual_memory()._replace(available=int(room * 10**9))
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    crew_of(REQUEST, Workers(4, cpus=0.5, gpus=0)).close()
    assert sum(hired) == fitting
    said = f"4 workers were asked for; {fitting} fit into memory (1.0 GB each)"
    assert caplog.messages == ([] if fitting == 4 else [said])
    # Of the memory of other machines nothing is known here.
    hired.clear()
    crew_of(REQUEST, Workers(4, "auto", cpus=0.5, gpus=0)).close()
    assert sum(hired) == 4


def test_a_worker_knows_its_memory(cluster: Any) -> None:
    class Large:
        """A worker that holds 300 MB."""

        def __init__(self) -> None:
            self.held = b"1" * 300_000_000

    crew = RayCrew(Large, Workers(1, "auto", cpus=1, gpus=0), "pair")
    assert crew.bytes_of_each() > 300e6
    crew.close()


def test_an_address_where_nobody_listens_is_refused_at_once(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    words = ["run", "--method", "none", "--block", "mid.0", "--limit", "1", "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "riebench", *words, "--ray-address", address]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert done.returncode == 2
    assert f"the Ray cluster '{address}' cannot be reached: " in done.stderr
    assert "Connection refused" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_workers_ray_is_not_imported(tmp_path: Path) -> None:
    code = "import sys, json, riebench.engine.run; print(json.dumps('ray' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) is False
