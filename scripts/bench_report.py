"""Time and peak memory of reading, tabulating and reporting many records, which are made from those of results/mini.

    python scripts/bench_report.py --records 100000 1000000

Each step runs in a process of its own. The bars are for a million records: 4 GB, and twelve times the time of a hundred
thousand.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
MINI = ROOT / "results" / "mini"
STEPS = ("load_records", "table", "report")
MOST_MEMORY, MOST_TIMES = 4e9, 12.0
"""Bytes of a step with ten times the records, and how often its time may be that of the fewer records."""


def lines(total: int) -> Iterator[bytes]:
    """The lines of a file of records: those of mini again and again, each time of other pairs with other seeds."""
    with gzip.open(MINI / "records.jsonl.gz") as file:
        own = [json.loads(line) for line in file]
    yield from (json.dumps(line).encode() for line in own if "hash" in line)
    records, left = [line for line in own if "hash" not in line], total
    for again in count():
        for record in records:
            if not left:
                return
            left -= 1
            key = hashlib.sha256(f"{again} {record['key']}".encode()).hexdigest()[:32]
            changed = {"key": key, "pair_id": f"{record['pair_id']}-{again}", "seed": record["seed"] + again}
            yield json.dumps(record | changed).encode()


def step(name: str, folder: Path) -> None:
    """Do a step, and print its seconds."""
    started = time.perf_counter()
    from riebench.cli import main
    from riebench.report.frame import load_records

    out = sys.stdout
    with open(os.devnull, "w") as sys.stdout:
        try:
            if name == "load_records":
                load_records(folder)
            elif name == "table":
                main(["table", str(folder)])
            else:
                main(["report", str(folder), "--out", str(folder.with_name("report"))])
        except SystemExit as left:
            if left.code:
                raise
    sys.stdout = out
    print(time.perf_counter() - started)


def measured(name: str, folder: Path) -> tuple[float, int]:
    """The seconds of a step in a process of its own, and the most bytes that it held with its further processes.

    They are looked at ten times a second. What the system keeps of ended processes is no measure: a further process
    counts with what the first one held when it started it.
    """
    words = [sys.executable, __file__, "--do", name, str(folder)]
    process = subprocess.Popen(words, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)
    most = 0
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            first = psutil.Process(process.pid)
            most = max(most, sum(each.memory_info().rss for each in (first, *first.children(recursive=True))))
        time.sleep(0.1)
    if process.returncode:
        sys.exit(f"{name} ended with {process.returncode}")
    assert process.stdout is not None
    return float(process.stdout.read().split()[-1]), most


def main() -> int:
    """Print the table; the exit code is 0 if the bars hold."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--records", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--step", action="append", choices=STEPS, help="only this one; may be repeated")
    given = parser.parse_args()
    taken: dict[str, list[float]] = {}
    failed = 0
    for total in given.records:
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work) / "run"
            folder.mkdir()
            with (folder / "records.jsonl").open("wb") as file:
                file.writelines(line + b"\n" for line in lines(total))
            for name in given.step or STEPS:
                seconds, peak = measured(name, folder)
                taken.setdefault(name, []).append(seconds)
                failed += peak > MOST_MEMORY
                load = os.getloadavg()[0]
                print(
                    f"{total:9,} records  {name:12}  {seconds:7.1f} s  {peak / 1e9:5.2f} GB  load {load:.1f}",
                    flush=True,
                )
    for name, seconds in taken.items():
        if len(seconds) > 1:
            times = seconds[-1] / seconds[0]
            failed += times > MOST_TIMES
            print(f"{name}: {times:.1f} times as long (at most {MOST_TIMES:g})")
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--do"]:
        step(sys.argv[2], Path(sys.argv[3]))
    else:
        sys.exit(main())
