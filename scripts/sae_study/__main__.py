"""The SAE study on mini, from values to tables; see ``scripts/study_sae``."""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path

import grids
from commands import run_all
from drawings import draw_all
from kinds import SMALL as FEW_KINDS
from kinds import Size as SizeOfKinds
from kinds import study_kinds
from scored import compact, read_benchmark, read_frame
from switched_sheet import draw_sheet
from tables import write_all


def main() -> None:
    """Run what is missing, then write tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="values, SAEs, scores, runs")
    parser.add_argument("--out", type=Path, required=True, help="tables and figures")
    parser.add_argument("--small", action="store_true", help="a few of everything, to try the script out")
    parser.add_argument("--draw", action="store_true", help="only tables and figures, of what is there")
    parser.add_argument("--part", choices=("grid", "kinds"), help="only this part")
    parser.add_argument("--pairs", type=int, help="pairs of each category that the kinds edit")
    parser.add_argument("--site", action="append", help="where kinds are trained, in place of four; may be repeated")
    arguments = parser.parse_args()
    if arguments.part != "kinds":
        study_grid(arguments)
    if arguments.part != "grid":
        size = FEW_KINDS if arguments.small else SizeOfKinds()
        size = replace(size, pairs=arguments.pairs or size.pairs, sites=tuple(arguments.site or size.sites))
        study_kinds(arguments.work, arguments.out, size, arguments.draw)


def study_grid(arguments: argparse.Namespace) -> None:
    """The grid of TopK SAEs, steps, and the benchmark with each configuration."""
    work, out, size = arguments.work, arguments.out, grids.SMALL if arguments.small else grids.Size()
    work.mkdir(parents=True, exist_ok=True)
    stages = {
        "collect": grids.collect,
        "train": grids.train,
        "judge": grids.judge,
        "steps": grids.steps,
        "benchmark": grids.benchmark,
        "report": lambda work, size: grids.report(work),
    }
    for name, commands in () if arguments.draw else stages.items():
        seconds = run_all(name, commands(work, size), work / "log.txt")
        print(f"{name}: {seconds:.0f} s", flush=True)
    (out / "figures").mkdir(parents=True, exist_ok=True)
    frame, files = read_frame(work)
    write_all(frame, read_benchmark(work), out)
    draw_all(frame, files, work, out / "figures")
    shutil.copy(work / "steps" / "by-step.csv", out / "by-step.csv")
    shutil.copy(work / "steps" / "by-step.png", out / "figures" / "by-step.png")
    draw_sheet(files, work, out / "figures" / "switched-on.png")
    with gzip.GzipFile(out / "scores.jsonl.gz", "wb", mtime=0) as file:
        file.writelines(json.dumps(compact(facts)).encode() + b"\n" for facts in files)


if __name__ == "__main__":
    main()
