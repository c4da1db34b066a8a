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
from pathlib import Path
from typing import Any

import pytest

from riebench.engine import RunSpec, Workers, carry_out
from riebench.engine.crew import gather
from riebench.engine.instruments import Given
from riebench.engine.ray_crew import RayCrew
from riebench.util.errors import UserError
from riebench.mini.model import PAIRS
from riebench.pairs import load_pairs, select
from riebench.records import read_records
from riebench.spec.sweeps import Sweep

ray = pytest.importorskip("ray", reason="the extra ray is not installed")
TWO = Workers(2, cpus=1, gpus=0)
SPEC = RunSpec([Sweep(["steering", "none"], [1.0, 2.0])], ["down.2.1"])


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
    pairs = select(load_pairs(PAIRS), limit=2)
    carry_out(SPEC, pairs, tmp_path / "one", 0, quiet=True)
    alone = numbers(tmp_path / "one")
    assert len(alone) == 18 * 4

    for workers in (TWO, Workers(4, cpus=0.5, gpus=0)):  # all of one thread, as this process is
        folder = tmp_path / str(workers.count)
        carry_out(SPEC, pairs, folder, 0, quiet=True, workers=workers)
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
    done = carry_out(SPEC, pairs, tmp_path / "killed", 0, quiet=True, workers=TWO)
    killer.join()
    assert (done.pairs, done.failed) == (18, 0)
    killed = numbers(tmp_path / "killed")
    assert killed == alone
    assert len((tmp_path / "killed" / "records.jsonl").read_text().splitlines()) == len(alone)
    cluster.add_node(num_cpus=1, num_gpus=1)
    cluster.wait_for_nodes()


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
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "deadly_method.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(tmp_path)
    pairs = select(load_pairs(PAIRS), categories=[1, 6], limit=1)
    spec = RunSpec([Sweep(["deadly_method:Deadly"], [1.0])], ["down.2.1"])
    done = carry_out(spec, pairs, tmp_path / "out", 0, quiet=True, workers=TWO)
    assert (done.pairs, done.failed) == (2, 1)
    (failed,) = [r for r in read_records(tmp_path / "out") if r.status == "failed"]
    assert failed.category == 6
    assert failed.where == "workers"
    assert "given to 3 workers and each of them died" in str(failed.reason)
    assert "it is given to another" in capsys.readouterr().err


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
    capsys: pytest.CaptureFixture[str],
    name: str,
    then: str,
    said: str,
) -> None:
    (tmp_path / f"{name}_method.py").write_text(FICKLE.format(name=name, then=then))
    monkeypatch.syspath_prepend(tmp_path)
    pairs = select(load_pairs(PAIRS), categories=[1, 6], limit=1)
    spec = RunSpec([Sweep([f"{name}_method:Fickle"], [1.0])], ["down.2.1"])
    with pytest.raises(UserError, match="all workers were lost and new ones cannot load"):
        carry_out(spec, pairs, tmp_path / "out", 0, quiet=True, workers=TWO)
    assert said in capsys.readouterr().err


def test_a_fault_of_all_workers_is_said_once(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="k is 100000"):
        gather(RunSpec([Sweep(["sae"], [1.0], [100_000])], ["mid.0"]), None, TWO)
    with pytest.raises(UserError, match="3 workers with 1 CPU each need more than the 2"):
        gather(SPEC, None, Workers(3, cpus=1, gpus=0))
    with pytest.raises(UserError, match="masks cannot be handed to other processes"):
        gather(SPEC, Given(masks={}), TWO)


def test_gpus_are_shared_out(cluster: Any) -> None:
    crew = gather(SPEC, None, Workers(2, cpus=1))
    assert isinstance(crew, RayCrew)
    seen = [actor.__ray_call__.remote(lambda worker: os.environ["CUDA_VISIBLE_DEVICES"]) for actor in crew.actors]
    assert [len(ids.split(",")) for ids in ray.get(seen)] == [1, 1]
    assert crew.share["num_gpus"] == 1
    assert ray.available_resources().get("GPU", 0) == 0
    crew.close()
    with pytest.raises(UserError, match="2 workers with 2 GPU each need more than the 2"):
        gather(SPEC, None, Workers(2, cpus=1, gpus=2))


def test_an_address_where_nobody_listens_is_refused_at_once(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    words = ["run", "--method", "none", "--block", "mid.0", "--limit", "1", "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "riebench", *words, "--ray-address", address]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert f"the Ray cluster '{address}' cannot be reached: " in done.stderr
    assert "Connection refused" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_workers_ray_is_not_imported(tmp_path: Path) -> None:
    code = "import sys, json, riebench.engine, riebench.api; print(json.dumps('ray' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) is False
