"""The study of concepts, from the choice of sites to tables and figures; see ``scripts/study_concepts``."""

from __future__ import annotations

import argparse
import gzip
import shutil
import time
from dataclasses import replace
from pathlib import Path

from figures import draw_all
from stages import QUARTER, SMALL, Size, Study
from tables import write_all

SIZES = ("pairs", "single", "kinds", "curve", "edits")
"""Numbers that an option sets."""


def main() -> None:
    """Run what is missing, then write tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--work", type=Path, required=True, help="pairs, SAEs, runs")
    parser.add_argument("--out", type=Path, required=True, help="tables and figures")
    parser.add_argument("--workers", type=int, default=2)
    for name in SIZES:
        parser.add_argument(f"--{name}", type=int, help=f"of each category, in place of {getattr(Size(), name)}")
    parser.add_argument("--only", action="append", help="a stage; may be repeated")
    parser.add_argument("--small", action="store_true", help="a few of everything, to try the script out")
    parser.add_argument("--draw", action="store_true", help="only tables and figures, of what is there")
    given = parser.parse_args()
    work, out = given.work, given.out
    size = SMALL if given.small else Size() if given.model == "mini" else QUARTER
    own = {name: getattr(given, name) for name in SIZES if getattr(given, name)}
    size = replace(size, **own)
    work.mkdir(parents=True, exist_ok=True)
    todo = {} if given.draw else Study(given.model, work, size, given.workers).stages()
    for name, stage in todo.items():
        if not given.only or name in given.only:
            started = time.perf_counter()
            stage()
            _say(work, name, started)
    (out / "figures").mkdir(parents=True, exist_ok=True)
    if not given.draw:
        keep(work, out)
    write_all(given.model, work, out)
    draw_all(given.model, work, out / "figures")


def keep(work: Path, out: Path) -> None:
    """Copy what tables and figures are made of, so that ``--draw --work OUT`` makes them again."""
    for records in sorted(work.glob("*/records.jsonl")):
        name, text = records.parent.name, (records.parent / "run.json").read_text()
        for place, shown in ((str(work.resolve()), work.name), (str(out.resolve()), out.name), (f"{Path.cwd()}/", "")):
            text = text.replace(place, shown)
        (out / name).mkdir(exist_ok=True)
        (out / name / "run.json").write_text(text)
        with gzip.GzipFile(out / name / "records.jsonl.gz", "wb", mtime=0) as file:
            file.write(records.read_bytes())
    for file in [*work.glob("*.json"), *work.glob("*.csv")]:
        shutil.copy(file, out / file.name)


def _say(work: Path, name: str, started: float) -> None:
    line = f"{name}: {time.perf_counter() - started:.0f} s"
    print(line, flush=True)
    with (work / "seconds.txt").open("a") as file:
        file.write(line + "\n")


if __name__ == "__main__":
    main()
