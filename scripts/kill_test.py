"""Kill a run again and again at random moments, resume it each time, and compare with an uninterrupted run.

The model is loaded once; each attempt is a fork of this process that carries the run out in a folder and is killed
with SIGKILL after a random time. What a killed attempt had written must be there for the next one, and the records at
the end must be those of the run that was left alone: the same keys in the same order, with equal metrics, none twice,
and with the pictures that were to be kept.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import torch
from killing import attempt

from riebench.engine import pair_worker
from riebench.engine.request import resolve
from riebench.engine.run import carry_out
from riebench.engine.run_options import RunOptions
from riebench.records import Record, read_records
from riebench.util.errors import UserError

REQUEST, PAIRS = resolve(
    RunOptions(["steering", "none"], "down.2.1", strength=[0.5, 1, 2], category=(1, 6, 8), limit=2, keep_images=1)
)


def main() -> int:
    """Print what was found; the exit code is 0 if nothing was lost, doubled or changed."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="how often to kill")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--work", type=Path, required=True, help="an empty folder for the runs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a process with a pool of threads must not fork
    loaded = pair_worker.load_instruments(REQUEST.model, REQUEST.settings, REQUEST.protocol)
    pair_worker.load_instruments = lambda *_, **__: loaded
    attempt(carry_out_in, arguments.work / "unbroken", None)
    expected = read_records(arguments.work / "unbroken")
    moments, kills, round_, faults = random.Random(arguments.seed), 0, 0, []
    while kills < arguments.kills:
        folder = arguments.work / f"broken-{round_:03d}"
        seen: list[Record] = []
        while True:
            ended = attempt(carry_out_in, folder, moments.uniform(0, 1.5) if kills < arguments.kills else None)
            kills += not ended
            now = records(folder)
            faults += [f"{folder.name}: {r.pair_id} was lost after kill {kills}" for r in seen if r not in now]
            seen = now
            if ended:
                break
        faults += [f"{folder.name}: {fault}" for fault in differences(expected, folder)]
        round_ += 1
    print(f"{kills} kills, {round_} runs of {len(expected)} records, {len(faults)} faults", *faults, sep="\n")
    return 1 if faults else 0


def carry_out_in(folder: Path) -> None:
    """Carry the run out in a folder."""
    carry_out(REQUEST, PAIRS, RunOptions(out=folder, quiet=True))


def records(folder: Path) -> list[Record]:
    """The records of a folder; empty if it has none."""
    try:
        return read_records(folder)
    except UserError:
        return []


def differences(expected: list[Record], folder: Path) -> list[str]:
    """What is wrong with the records of a folder."""
    records, lines = read_records(folder), (folder / "records.jsonl").read_bytes().count(b'{"key":')
    faults = []
    if lines != len(records):
        faults.append(f"{lines} lines for {len(records)} records")
    if [r.key for r in records] != [r.key for r in expected]:
        faults.append(f"{len(records)} records, expected {len(expected)}, or in another order")
    metrics = {r.key: r.metrics for r in expected}
    faults += [f"{r.pair_id} has other metrics" for r in records if r.metrics != metrics.get(r.key)]
    unbroken = folder.with_name("unbroken") / "images"
    images = {path.name: path.read_bytes() for path in (folder / "images").glob("*.png")}
    if images != {path.name: path.read_bytes() for path in unbroken.glob("*.png")}:
        faults.append("other pictures")
    return faults


if __name__ == "__main__":
    sys.exit(main())
