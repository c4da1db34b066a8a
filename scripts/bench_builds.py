"""Time one command of riebench as a whole process: by two builds in turn, on a quiet machine and beside a load.

Each round runs every build in every situation once, so that a slow minute of the machine strikes them alike. The load
is a number of endless processes, started here and ended before the next quiet time. Medians and ratios are printed,
and the exit code is 1 if a ratio is outside its bar.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def load(count: int) -> Iterator[None]:
    """Inside the ``with`` statement ``count`` processes compute without end."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextmanager
def checked_out(ref: str) -> Iterator[Path]:
    """The files of an earlier commit in a folder that is removed at the end.

    Raises:
        subprocess.CalledProcessError: if git does not know the commit.
    """
    with tempfile.TemporaryDirectory() as folder:
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", f"{folder}/tree", ref], check=True)
        try:
            # The methods of the same commit, as pyproject.toml names their package.
            (Path(folder) / "tree/riebench_baselines").symlink_to("baselines")
            yield Path(folder) / "tree"
        finally:
            subprocess.run([*git, "remove", "--force", f"{folder}/tree"], check=True)


def seconds(tree: Path, words: Sequence[str]) -> float:
    """How long a process of ``python -m riebench`` takes in a tree; ``{out}`` is a folder that does not exist yet.

    Raises:
        SystemExit: if the command fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "riebench", *(word.format(out=f"{folder}/out") for word in words)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}  # as a user's
        started = time.perf_counter()
        environment["PYTHONPATH"] = str(tree)
        done = subprocess.run(command, check=False, cwd=tree, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)} in {tree} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        return time.perf_counter() - started


def main() -> int:
    """Print the table; the exit code is 0 if every bar holds."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--old", help="the commit to compare with; without it only this build is timed")
    parser.add_argument("--load", type=int, default=0, help="endless processes beside; 0 times a quiet machine alone")
    parser.add_argument("--runs", type=int, default=2, help="rounds")
    parser.add_argument("--least-gain", type=float, default=1.0, help="of old / new, beside the load if there is one")
    parser.add_argument("--most-slowdown", type=float, default=float("inf"), help="new beside the load / new quiet")
    parser.add_argument("words", nargs="+", help="the command of riebench, after --; {out} is a new folder")
    given = parser.parse_args()
    if given.old:
        with checked_out(given.old) as tree:
            return report({"new": ROOT, "old": tree}, given)
    return report({"new": ROOT}, given)


def report(builds: dict[str, Path], given: argparse.Namespace) -> int:
    """Time every build in every situation in turn; print medians and ratios."""
    situations = (0, given.load) if given.load else (0,)
    times: dict[tuple[str, int], list[float]] = {(name, count): [] for name in builds for count in situations}
    for tree in builds.values():
        seconds(tree, given.words)  # the first run reads everything from the disk and is not counted
    print("build  endless processes  seconds  load average at the end")
    for _ in range(given.runs):
        for count in situations:
            for name, tree in builds.items():
                with load(count):
                    times[name, count].append(seconds(tree, given.words))
                print(f"{name:5}  {count:17}  {times[name, count][-1]:7.1f}  {os.getloadavg()[0]:.1f}", flush=True)
    medians = {key: median(values) for key, values in times.items()}
    for (name, count), value in medians.items():
        print(f"median, {name}, beside {count}: {value:.1f} s")
    failed = 0
    if given.load:
        slowdown = medians["new", given.load] / medians["new", 0]
        failed += slowdown > given.most_slowdown
        print(f"new beside the load / new quiet: {slowdown:.2f} (at most {given.most_slowdown:g})")
    if "old" in builds:
        gains = {count: medians["old", count] / medians["new", count] for count in situations}
        failed += gains[situations[-1]] < given.least_gain
        for count, gain in gains.items():
            bar = f" (at least {given.least_gain:g})" if count == situations[-1] else ""
            print(f"old / new beside {count}: {gain:.2f}{bar}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
