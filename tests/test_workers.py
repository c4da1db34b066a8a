"""Several workers: a real Ray cluster of two nodes on this machine."""

from __future__ import annotations

import faulthandler
import json
import os
import pkgutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

import riebench
from riebench.ablation.ablation_folder import read_zeroings
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
from riebench.training.collect_values import collect
from riebench.training.dataset import shard_name
from riebench.training.shard_writer import ShardWriter
from riebench.util.errors import UserError
from riebench.util.workers import RayCrew, Workers, _Actor, hired

ray = pytest.importorskip("ray", reason="the extra ray is not installed")
TWO = Workers(2, cpus=1, gpus=0)
BY_TWO = RunOptions(quiet=True, workers=2, cpus_per_worker=1, gpus_per_worker=0)
ROOT = Path(__file__).parents[1]
REQUEST, NINE = resolve(RunOptions(["steering", "none"], "down.2.1", strength=[1, 2], limit=1, keep_images=0))


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """Two nodes with one processor each, by Ray's own utility."""
    from ray.cluster_utils import Cluster

    made = Cluster(
        initialize_head=True,
        connect=True,
        head_node_args={
            "num_cpus": 1,
            "num_gpus": 1,  # Ray shares out what it is told; nothing computes on it
            "include_dashboard": False,
            "_system_config": {
                "health_check_period_ms": 500,
                "health_check_failure_threshold": 4,
                "prestart_worker_first_driver": False,  # processes that nobody uses
            },
        },
    )
    made.add_node(num_cpus=1, num_gpus=1)
    made.wait_for_nodes()
    yield made
    ray.shutdown()
    made.shutdown()
    # Ray takes away the handlers that say where a process crashed.
    faulthandler.disable()
    faulthandler.enable(sys.__stderr__ or sys.stderr)


def pictures(folder: Path) -> dict[str, Any]:
    """The bytes of each file; of the hashes the lines, whose order is that in which pairs were done."""
    files = {path.name: path.read_bytes() for path in (folder / "images").iterdir()}
    return {name: sorted(held.splitlines()) if name.endswith(".jsonl") else held for name, held in files.items()}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def numbers(folder: Path) -> dict[str, Any]:
    return {r.key: (r.pair_id, r.status, r.reason, r.metrics) for r in read_records(folder)}


@pytest.fixture(scope="module")
def idle() -> list[Any]:
    """Workers of earlier tests that wait for work; they have imported all that a worker needs."""
    return []


@pytest.fixture
def cluster(nodes: Any, idle: list[Any]) -> Any:
    """The two nodes without workers."""
    while idle:
        ray.kill(idle.pop())
    return nodes


@pytest.fixture
def standing(nodes: Any, idle: list[Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The two nodes; crews take over the processes of earlier tests and give them back in place of ending them."""
    hire_another = RayCrew._hire

    def hire(self: RayCrew) -> Any:
        if not idle:
            return hire_another(self)
        here, make, threads, actor = os.getcwd(), self.make, self.threads, idle.pop()

        def begin(worker: _Actor) -> None:
            os.chdir(here)
            sys.path.insert(0, here)
            worker.__init__(make, threads)  # type: ignore[misc]

        actor.__ray_call__.remote(begin)
        return actor

    def give_back(self: RayCrew) -> None:
        calls = {actor.ready.remote(): actor for actor in self.actors}
        ready, late = ray.wait(list(calls), num_returns=len(calls), timeout=3)
        for call in late:
            ray.kill(calls[call])
        for call in ready:
            with suppress(ray.exceptions.RayActorError):
                ray.get(call)
                idle.append(calls[call])

    monkeypatch.setattr(RayCrew, "_hire", hire)
    monkeypatch.setattr(RayCrew, "close", give_back)
    return nodes


def test_the_same_records_from_one_and_from_four_workers_even_if_a_node_dies(
    standing: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The second node, with two of the four workers, is killed while pairs are under way."""
    carry_out(REQUEST, NINE, RunOptions(out=tmp_path / "one", quiet=True))
    alone = numbers(tmp_path / "one")
    assert len(alone) == 9 * 4

    records = tmp_path / "killed" / "records.jsonl"
    doomed = next(node for node in standing.list_all_nodes() if node is not standing.head_node)

    def kill() -> None:
        while not (records.exists() and records.read_bytes().count(b'{"key":') > 4):
            time.sleep(0.02)
        standing.remove_node(doomed, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    by_four = replace(BY_TWO, workers=4, cpus_per_worker=0.5)  # all of one thread, as this process is
    done = carry_out(REQUEST, NINE, replace(by_four, out=tmp_path / "killed"))
    killer.join()
    assert (done.pairs, done.failed) == (9, 0)
    assert numbers(tmp_path / "killed") == alone
    assert records.read_text().count('{"key":') == len(alone)
    assert "it is given to another" in caplog.text
    standing.add_node(num_cpus=1, num_gpus=1)
    standing.wait_for_nodes()


def test_two_workers_make_the_records_of_one(standing: Any) -> None:
    words: dict[str, Any] = {"limit": 1, "category": [1, 6, 8], "strength": [1, 2], "keep_images": 1, "quiet": True}
    for workers in (1, 2):
        riebench.run(["steering", "none"], "down.2.1", out=f"w{workers}", workers=workers, **words)
    alone = numbers(Path("w1"))
    assert len(alone) == 3 * 4
    assert numbers(Path("w2")) == alone
    assert pictures(Path("w1")) == pictures(Path("w2"))


METRIC = """
from riebench.metrics import metric

@metric("shared_by_workers", "mean step between neighbours", needs=())
def shared_by_workers(seen):
    return [float(abs(p[1:] - p[:-1].astype(float)).mean()) for p in seen.pictures]
"""


def test_two_workers_measure_a_users_metric_as_one(standing: Any) -> None:
    Path("folder").mkdir()
    Path("folder/worker_file.py").write_text(METRIC)
    words: dict[str, Any] = {"limit": 2, "category": "colour", "strength": 1, "keep_images": 0, "quiet": True}
    metrics = ["default", "folder/worker_file:shared_by_workers"]
    one, two = (
        {
            record.key: (record.metrics, record.measured_by)
            for record in riebench.run(
                "steering", "mid.0", metrics=metrics, out=f"w{workers}", workers=workers, **words
            ).records
        }
        for workers in (1, 2)
    )
    assert one == two
    assert all("shared_by_workers" in metrics for metrics, _ in one.values())


def test_two_workers_search_as_one(standing: Any) -> None:
    """With the records of one pair they come to the same records; nothing is made twice."""
    words: dict[str, Any] = {"limit": 1, "category": [1, 6, 8], "strength": 1, "keep_images": 0, "quiet": True}
    search = partial(riebench.run, ["steering", "neurons"], "mid.0", at_lpips=[0.02, 0.06], **words)
    alone = search(out="w1").records
    kept = [record for record in alone if record.pair_id == alone[0].pair_id]
    Path("w2").mkdir()
    Path("w2/records.jsonl").write_text("".join(f"{record.model_dump_json()}\n" for record in kept))
    done = search(out="w2", workers=2)
    assert {one.key: one.metrics for one in done.records} == {one.key: one.metrics for one in alone}
    assert done.session.written == len(alone) - len(kept)


def test_two_workers_make_the_ablation_of_one(standing: Any) -> None:
    for workers in (1, 2):
        riebench.ablate("mini", "mid.0", together="default", prompts=3, out=f"w{workers}", workers=workers, quiet=True)
    assert contents(Path("w1")) == contents(Path("w2"))
    assert len(read_zeroings(Path("w1"))) == 3 * 7


def test_two_workers_collect_the_values_of_one(standing: Any) -> None:
    for workers in (1, 2):
        collect(
            "mini", "mid.0", prompts="grammar", count=4, shard_prompts=2, out=f"w{workers}", workers=workers, quiet=True
        )
    for number in range(2):
        assert Path("w1", shard_name(number)).read_bytes() == Path("w2", shard_name(number)).read_bytes()
    assert Path("w1/manifest.json").read_bytes() == Path("w2/manifest.json").read_bytes()


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
    standing: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
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
    standing: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "deadly_method.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("riebench.util.workers.TRIES", 1)  # the next test needs three; here each loads mini
    request, pairs = one_and_six("deadly_method:Deadly")
    done = carry_out(request, pairs, replace(BY_TWO, out=tmp_path / "out"))
    assert (done.pairs, done.failed) == (2, 1)
    (failed,) = [r for r in read_records(tmp_path / "out") if r.status == "failed"]
    assert failed.category == 6
    assert failed.where == "workers"
    assert "given to 1 workers and each of them died" in str(failed.reason)
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
        with pytest.raises(UserError, match=r"^shard 3 is bad$"):
            crew.ask(lambda worker: worker.work(3))
        assert dict(crew.run([0, 1, 2, 4])) == {0: 0, 1: 10, 2: -2, 4: 40}
        assert "a worker died at the shard '1'" in caplog.text
        results = crew.run([3, 0])
        with pytest.raises(UserError, match=r"^shard 3 is bad$"):
            assert dict(results) == {}
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

FLAG = Path(__file__).with_name("flag")
if FLAG.exists():
    1 / 0

@method("fickle")
class Fickle:
    def plan(self, seen):
        FLAG.touch()
        os._exit(1)
"""
LOST = "all workers were lost and new ones cannot load"


def test_a_worker_that_cannot_be_replaced_ends_the_run(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "fickle_method.py").write_text(FICKLE)
    monkeypatch.syspath_prepend(tmp_path)
    request, pairs = resolve(RunOptions("fickle_method:Fickle", "down.2.1", strength=1, limit=1, keep_images=0))
    by_one = replace(BY_TWO, workers=1, ray_address=cluster.address)
    with pytest.raises(UserError, match=LOST):
        carry_out(request, pairs, replace(by_one, out=tmp_path / "out"))
    assert "a new worker cannot work" in caplog.text


def test_workers_that_die_as_they_load_are_not_hired_for_ever(
    cluster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flag = tmp_path / "flag"

    class Dying:
        """A worker without models, which is pickled by value."""

        def __init__(self) -> None:
            if flag.exists():
                os._exit(1)

        def work(self, task: int) -> int:
            flag.touch()
            os._exit(1)

    crew = RayCrew(Dying, Workers(1, "auto", cpus=1, gpus=0), "shard")
    with pytest.raises(UserError, match=LOST):
        list(crew.run([0, 1]))
    crew.close()
    assert "3 new workers died as they loaded" in caplog.text


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


def test_a_worker_imports_from_where_this_program_does(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a script does that lies in another folder than the current one, beside the module of its method."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "beside_the_script.py").write_text("VALUE = 7\n")
    monkeypatch.syspath_prepend(folder)
    crew = RayCrew(dict, Workers(1, "auto", cpus=1, gpus=0), "pair")
    assert crew.ask(lambda _: pkgutil.resolve_name("beside_the_script:VALUE")) == 7
    assert crew.ask(lambda _: "torch" in sys.modules) is False  # a worker imports what it needs
    crew.close()


def test_a_worker_has_as_many_threads_as_cores(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    share_out = RayCrew._share_out

    def for_three_cores(self: RayCrew) -> None:
        share_out(self)
        self.threads = 3

    monkeypatch.setattr(RayCrew, "_share_out", for_three_cores)
    crew: Any = RayCrew(partial(pkgutil.resolve_name, "torch"), Workers(1, "auto", cpus=1, gpus=0), "pair")
    assert crew.ask(lambda torch: torch.get_num_threads()) == 3
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
