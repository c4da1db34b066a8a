"""Train every part of mini, stage by stage; a stage that was broken off goes on from its checkpoint.

python scripts/train_mini.py vae --work ~/mini-work
"""

from __future__ import annotations

import argparse
from pathlib import Path

from training import data, export, flux, loop, masker, perception, saes, unet, vae

STAGES = {
    "vae": (vae.stage, 2600),
    "unet": (unet.stage, 2900),
    "balance": (unet.balance_stage, 500),
    "masker": (masker.stage, 600),
    "presence": (masker.presence_stage, 400),
    "clip": (perception.clip_stage, 4400),
    "trunk": (perception.trunk_stage, 700),
    "saes": (saes.stage, 3000),
    "flux": (flux.stage, 2800),
    "flux-saes": (saes.flux_stage, 3000),
}


def main() -> None:
    """Read the arguments and run one stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=[*STAGES, "export"], help="in this order; export comes before SAEs")
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for data and checkpoints, outside the repository"
    )
    parser.add_argument("--procs", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--steps", type=int, help="length of the schedule")
    parser.add_argument("--scenes", type=int, default=48_000, help="training scenes to draw")
    args = parser.parse_args()
    if args.stage == "export":
        export.export_all(args.work)
        return
    data.prepare(args.work, args.scenes)
    stage, steps = STAGES[args.stage]
    loop.launch(stage, args.procs, args.work, args.steps or steps)


if __name__ == "__main__":
    main()
