"""Count the passes of ``riebench bench`` on each family at tiny size, and time it beside SDXL, in one table.

python scripts/bench_families.py --kind StableDiffusion3Pipeline --kind ZImagePipeline
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from gpu_checks.place import PAIRS
from gpu_checks.runs import halves

import riebench
from riebench.engine.bench import Bench, bench
from riebench.engine.request import resolve
from riebench.engine.run_options import RunOptions
from riebench.instruments.loading import assemble_scorers
from riebench.instruments.mini_instruments import MiniInstruments
from riebench.models import Model
from riebench.models.sites import block_sites, neuron_sites
from riebench.standin.pipeline import write_pipeline
from riebench.standin.saes import random_sae
from riebench.standin.tiny_pipelines import TINY, write_tiny_pipeline

SDXL = "StableDiffusionXLPipeline"
SIZE = {"SanaPipeline": 128}
"""Side of the pictures, pixels, where 64 are too few."""


def benched(model: Model, pairs: int, steps: int, few: bool = False) -> Bench:
    """The bench of a model at its last block, with a random SAE and mini's CLIP and LPIPS; of neurons if it has any.

    Args:
        model: the model.
        pairs: number of pairs.
        steps: of each run.
        few: whether one setting of each method is enough; otherwise those of ``riebench bench``.
    """
    site = block_sites(model.sites)[-1]
    width, generator = model.sites[site].width, torch.Generator().manual_seed(0)
    model.saes = {site: random_sae({"d_model": width, "n_dirs_local": 4 * width, "k": 8}, generator)}
    neurons = ["neurons"] if neuron_sites(model.sites, site) else []
    how: dict[str, Any] = {"method": ["steering", "sae", *neurons], **({"strength": 1} if few else {})}
    options = RunOptions(
        model=model,
        pairs=PAIRS[:pairs],
        block=site,
        **({"preset": "bench"} if neurons and not few else how),
        steps=steps,
        masks=halves,
        scorers=assemble_scorers(MiniInstruments()),
        keep_images=0,
    )
    request, chosen = resolve(options)
    return bench(request, chosen, handed_in=options.handed_in, flops=False)


def row(kind: str, result: Bench) -> str:
    """The row of a pipeline in the table."""
    missed = [f"{bar.name} {bar.value:g}, {bar.bar}" for bar in result.bars if "passes" in bar.name and not bar.met]
    passes = f"NOT at the floor: {', '.join(missed)}" if missed else "at the floor"
    ours = result.engine
    outside, each = ours.seconds - ours.counts.inside, result.pairs * result.settings
    times = f"{ours.seconds:.1f} | {result.plain.seconds:.1f} | {ours.outside:.1%} | {1000 * outside / each:.1f}"
    return f"| {kind.removesuffix('Pipeline')} | {passes} | {times} |"


def main() -> int:
    """Bench families; the exit code is 1 if passes are above the floor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", action="append", choices=TINY, help="class of a pipeline; may be repeated")
    parser.add_argument("--blocks", type=int, help="blocks in each list, an even number; as published unless given")
    parser.add_argument("--pairs", type=int, default=1, help="number of pairs, at most three")
    parser.add_argument("--steps", type=int, default=2, help="denoising steps")
    arguments = parser.parse_args()
    head = "| pipeline | passes | s, engine | s, plain loop | outside networks | ms outside, a record |"
    print(f"{head}\n| --- | --- | ---: | ---: | ---: | ---: |")
    at_floor = True
    for kind in [SDXL, *(arguments.kind or TINY)]:
        with tempfile.TemporaryDirectory() as folder:
            if kind == SDXL:
                write_pipeline(Path(folder) / "pipeline", "sdxl-turbo", "tiny", 0)
            else:
                write_tiny_pipeline(Path(folder) / "pipeline", kind, seed=1, blocks=arguments.blocks)
            model = riebench.load(Path(folder) / "pipeline", device="cpu", size=SIZE.get(kind, 64))
            line = row(kind, benched(model, arguments.pairs, arguments.steps))
        at_floor &= "NOT" not in line
        print(line, flush=True)
    return int(not at_floor)


if __name__ == "__main__":
    sys.exit(main())
