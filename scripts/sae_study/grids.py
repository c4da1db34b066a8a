"""What the study trains, and the commands that train, judge and benchmark it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from riebench.models.sdxl import FOUR

STRESSED = ("down.2.1", "up.0.0")
"""The sites where SAEs are also trained so that features die."""
BUDGET = "0.02"
"""LPIPS at which RIEBench's scores are read: the same for all, and one that most pairs reach with every SAE."""
DYING = ("--lr", "0.01", "--auxk", "256", "--dead-after", "50000")


@dataclass(frozen=True)
class Size:
    """How much is done.

    Attributes:
        prompts: whose values are collected.
        steps: of each training.
        seeds: of each SAE.
        judged: held-out pictures that SAEs are judged on.
        switched: features that are switched at random, and as many of the best.
        pairs: of each category in the benchmark.
    """

    prompts: int = 3000
    steps: int = 1000
    seeds: tuple[int, ...] = (0, 1, 2)
    judged: int = 400
    switched: int = 8
    pairs: int = 5


SMALL = Size(prompts=100, steps=20, seeds=(0, 1), judged=20, switched=2, pairs=1)
"""To try the script out."""


def collect(work: Path, size: Size) -> list[list[str]]:
    """The values of the four sites."""
    return [["sae", "collect", "--prompts", "grammar", "--count", str(size.prompts), "--out", str(work / "values")]]


def train(work: Path, size: Size) -> list[list[str]]:
    """Of each site the grid, the same with frozen decoders, and a grid in which features die."""
    seeds = ("--seeds", ",".join(map(str, size.seeds)))
    grids = {
        "grid": (*seeds, "--k", "5,10,20", "--expansion", "4,8", "--aux", "on,off"),
        "frozen": ("--k", "5,10,20", "--expansion", "4,8", "--aux", "off", "--decoder", "frozen"),
        "stress": (*seeds, "--k", "10", "--expansion", "16", "--aux", "on,off", *DYING),
    }
    common = ("--batch", "1024", "--steps", str(size.steps))
    return [
        ["sae", "train", str(work / "values"), "--site", site, "--out", str(work / name / site), *common, *words]
        for name, words in grids.items()
        for site in FOUR
        if name != "stress" or site in STRESSED
    ]


def judge(work: Path, size: Size) -> list[list[str]]:
    """Every SAE of a site, with the baselines, on the same pictures."""
    few = str(size.switched)
    options = ["--count", str(size.judged), "--features", few, "--best", few]
    options += [word for name in ("random", "neurons", "channels") for word in ("--baseline", name)]
    commands = []
    for site in FOUR:
        saes = [
            str(work / name / site) for name in ("grid", "frozen", "stress") if name != "stress" or site in STRESSED
        ]
        commands.append(["sae", "score", *saes, "--out", str(work / "scores" / site), *options])
    return commands


def steps(work: Path, size: Size) -> list[list[str]]:
    """Mini's own SAEs, which were trained on one step, in runs of four; a frozen decoder beside each."""
    few = ["--features", "1", "--best", "0", "--pictures", "1", "--downstream", "1"]
    options = ["--steps", "4", "--count", str(size.judged // 4), "--baseline", "frozen-decoder"]
    return [["sae", "score", *FOUR, *options, *few, "--out", str(work / "steps")]]


def benchmark(work: Path, size: Size) -> list[list[str]]:
    """RIEBench with the SAEs of one configuration at all four sites together."""
    commands = []
    for name, folder in sets_of_saes(work).items():
        words = ["--method", "sae", "--block", "all", "--strength", "0.5,1,2,4", "--limit", str(size.pairs)]
        out = ["--keep-images", "0", "--out", str(work / "bench" / name)]
        commands.append(["run", *words, "--set", f"sae.folder={folder}", *out])
    return commands


def report(work: Path) -> list[list[str]]:
    """The leaderboard of each run of the benchmark."""
    runs = [work / "bench" / name for name in sets_of_saes(work)]
    plain = ["--budget", BUDGET, "--rank-at", BUDGET, "--no-figures", "--no-page"]
    return [["report", str(run), "--out", str(work / "boards" / run.name), *plain] for run in runs]


def sets_of_saes(work: Path) -> dict[str, Path]:
    """Configuration to a folder that holds its SAE of each site alone, as ``sae.folder`` wants it."""
    folders: dict[str, Path] = {}
    for config in sorted(work.glob("*/*/*/config.json")):
        facts = json.loads(config.read_text())
        if config.parents[2].name not in ("grid", "frozen"):
            continue
        name = config.parent.name.removeprefix(f"{facts['site']}_")
        link = work / "sets" / name / facts["site"]
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(config.parent.resolve(), target_is_directory=True)
        folders[name] = link.parent
    return folders
