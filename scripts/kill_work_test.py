"""Kill collecting, training and ablating at random moments, resume them, and compare with uninterrupted work.

The model is loaded once; each attempt is a fork of this process that is killed with SIGKILL after a random time. At the
end every file must be that of the attempt that was left alone, byte by byte.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import torch
from killing import attempt

import riebench
from riebench.ablation import ablation_report  # noqa: F401 - so that no attempt has to import it
from riebench.instruments.loading import assemble_scorers, model_instruments
from riebench.settings.protocols import PROTOCOLS
from riebench.settings.settings import Settings
from riebench.training.collect_values import collect
from riebench.training.train_saes import train
from riebench.training.training_log import FIGURE
from riebench.training.training_plan import KINDS

PROMPTS, SHARD = 60, 4
STEPS, EVERY = 60, 4


def main() -> int:
    """Print what was found; the exit code is 0 if nothing was lost, doubled or changed."""
    parser = argparse.ArgumentParser(description=" ".join(str(__doc__).split("\n\n")[0].split()))
    parser.add_argument(
        "names", nargs="+", choices=("collect", "train", "ablate"), help="train needs collect before it"
    )
    parser.add_argument("--kills", type=int, default=20, help="how often to kill each")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--work", type=Path, required=True, help="an empty folder")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a process with a pool of threads must not fork
    model = riebench.load("mini")
    moments = random.Random(arguments.seed)

    def collecting(folder: Path) -> None:
        collect(
            model,
            ["mid.0"],
            prompts="grammar",
            count=PROMPTS,
            shard_prompts=SHARD,
            positions=40,
            out=folder,
            quiet=True,
        )

    def training(folder: Path) -> None:
        train(
            arguments.work / "collect-alone",
            out=folder,
            **{"kind": KINDS, "k": (4,), "aux": (True, False), "batch": 128, "buffer": 600},
            **{"dead_after": 2000, "steps": STEPS},
            checkpoint_every=EVERY,
            log_every=3,
            quiet=True,
        )

    scorers = assemble_scorers(model_instruments(model.entry, Settings(), PROTOCOLS["riebench"]))

    def ablating(folder: Path) -> None:
        riebench.ablate(model, "default", prompts=6, scorers=scorers, keep_images=2, out=folder, quiet=True)

    faults = []
    works = {"collect": collecting, "train": training, "ablate": ablating}
    for name in arguments.names:
        work, kills, rounds = works[name], 0, 0
        attempt(work, arguments.work / f"{name}-alone", None)
        while kills < arguments.kills:
            folder = arguments.work / f"{name}-{rounds:03d}"
            while not attempt(work, folder, moments.uniform(0, 2) if kills < arguments.kills else None):
                kills += 1
            differences = differing(arguments.work / f"{name}-alone", folder)
            faults += [f"{folder.name}: {fault}" for fault in differences]
            rounds += 1
        print(f"{name}: {kills} kills, {rounds} rounds, {len(faults)} faults", flush=True)
    print(*faults, sep="\n")
    return 1 if faults else 0


def differing(alone: Path, folder: Path) -> list[str]:
    """Files that are missing, left over, or not the same."""
    contents = [
        {
            str(p.relative_to(root)): p.read_bytes()
            for p in root.rglob("*")
            if p.is_file() and p.name not in (".lock", ".writer.json", FIGURE)
        }
        for root in (alone, folder)
    ]
    return [name for name in sorted({*contents[0], *contents[1]}) if contents[0].get(name) != contents[1].get(name)]


if __name__ == "__main__":
    sys.exit(main())
