"""Time what a stranger does first, by two builds in turn: --help, a dry run, an error, a run, a report, the page.

Each round does every job once with every build, and says the machine's load. Medians are printed with their bars. The
page is timed with an empty cache, from the command to a picture, of this build alone: earlier ones took minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench_builds import ROOT, checked_out


class Job(NamedTuple):
    """A command, its bar in seconds, and how much of the old build's time it may take; None where there is no bar.

    With ``alone`` it is timed by this build alone, because earlier ones have no such command.
    """

    words: Sequence[str]
    most: float | None = None
    most_of_old: float | None = None
    code: int = 0
    alone: bool = False


JOBS = {
    "--version": Job(["--version"], most=0.5, alone=True),
    "--help": Job(["--help"], most=0.5),
    "dry run": Job(["run", "--method", "sae", "--block", "down.2.1", "--limit", "1", "--dry-run"], most=0.5),
    "error": Job(["run", "--method", "nonsense", "--block", "all"], most=0.5, code=2),
    "run of 9 pairs": Job(["run", "--method", "sae", "--block", "down.2.1", "--limit", "1", "--out", "{out}"], most=6),
    "report of 48,000 records": Job(["report", "results/mini", "--out", "{out}"], most_of_old=0.6),
}
PAGE, MOST_TO_PICTURE = "page and picture, empty cache", 10.0


def environment(tree: Path, cache: str | None = None) -> dict[str, str]:
    """A user's environment with a tree's package; ``cache`` is the folder of caches."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "RIEBENCH_"))}
    return plain | {"PYTHONPATH": str(tree)} | ({"XDG_CACHE_HOME": cache} if cache else {})


def seconds(tree: Path, job: Job) -> float:
    """How long a job takes as a process of ``python -m riebench`` in a tree, until its table is printed at the latest.

    Raises:
        SystemExit: if it ends with another code.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "riebench", *(word.format(out=f"{folder}/out") for word in job.words)]
        started = time.perf_counter()
        done = subprocess.run(command, check=False, cwd=tree, env=environment(tree), capture_output=True, text=True)
        if done.returncode != job.code:
            sys.exit(f"{' '.join(command)} in {tree} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        return time.perf_counter() - started


def seconds_to_picture(tree: Path) -> float:
    """How long it takes from ``riebench paint`` with an empty cache to the page and the first picture."""
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        words = [sys.executable, "-m", "riebench", "paint", "--port", "0"]
        process = subprocess.Popen(words, cwd=tree, env=environment(tree, cache), stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split("open ")[1].split()[0]
            urllib.request.urlopen(address).read()
            state = json.dumps({"model": "mini", "prompt": "a red heart in a meadow", "seed": 3, "steps": 1})
            headers = {"X-Client": "bench-first-1", "Content-Type": "application/json"}
            asked = urllib.request.Request(f"{address}api/picture", state.encode(), headers)
            assert urllib.request.urlopen(asked).read().startswith(b"\x89PNG")
            return time.perf_counter() - started
        finally:
            process.kill()
            process.wait()


def main() -> int:
    """Print the table; the exit code is 0 if every bar holds."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--old", help="the commit to compare with; without it only this build is timed")
    parser.add_argument("--runs", type=int, default=3, help="rounds")
    parser.add_argument("--job", action="append", choices=[*JOBS, PAGE], help="only this one; may be repeated")
    given = parser.parse_args()
    jobs = {name: job for name, job in JOBS.items() if given.job is None or name in given.job}
    page = given.job is None or PAGE in given.job
    if given.old:
        with checked_out(given.old) as tree:
            return report({"new": ROOT, "old": tree}, jobs, page, given.runs)
    return report({"new": ROOT}, jobs, page, given.runs)


def report(builds: dict[str, Path], jobs: dict[str, Job], page: bool, runs: int) -> int:
    """Time every job with every build in turn; print medians and ratios."""
    times: dict[tuple[str, str], list[float]] = {(name, build): [] for name in jobs for build in builds}
    pages: list[float] = []
    for _ in range(runs):
        for name, job in jobs.items():
            for build, tree in builds.items():
                if build == "new" or not job.alone:
                    times[name, build].append(seconds(tree, job))
        if page:
            pages.append(seconds_to_picture(ROOT))
        print(f"load average {os.getloadavg()[0]:.1f}", flush=True)
    failed = 0
    for name, job in jobs.items():
        new = median(times[name, "new"])
        line = f"{name:30} {new:6.2f} s"
        if job.most:
            line, failed = f"{line} (at most {job.most:g})", failed + (new > job.most)
        if times.get((name, "old")):
            old = median(times[name, "old"])
            line += f"; old {old:.2f} s, new / old {new / old:.2f}"
            if job.most_of_old:
                line, failed = f"{line} (at most {job.most_of_old:g})", failed + (new / old > job.most_of_old)
        print(line)
    if page:
        failed += median(pages) > MOST_TO_PICTURE
        print(f"{PAGE:30} {median(pages):6.2f} s (at most {MOST_TO_PICTURE:g})")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
