"""Compare each family with its pipeline's own call on tiny random weights, and write what holds as a table."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import diffusers

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import family_proofs as proofs  # noqa: E402

from riebench.instruments.loading import assemble_scorers  # noqa: E402
from riebench.instruments.mini_instruments import MiniInstruments  # noqa: E402
from riebench.models.diffusers_entry import DiffusersEntry  # noqa: E402
from riebench.models.entries import FAMILIES, entry_named  # noqa: E402
from riebench.models.sites import NEURONS, block_sites  # noqa: E402
from riebench.models.tokens import TokenEntry  # noqa: E402
from riebench.standin.flux_pipeline import FLUX_SHAPES, write_flux  # noqa: E402
from riebench.standin.tiny_pipelines import write_tiny_model  # noqa: E402

README = ROOT / "riebench" / "models" / "README.md"
BEGIN, END = "<!-- families -->\n", "<!-- end of families -->"
STEPS = (1, 2, 4)
CHECKS: dict[str, Callable[[Any, str, int], Any]] = {
    "picture": proofs.check_picture,
    "passes": proofs.check_passes,
    "values": proofs.check_values,
    "edits": lambda model, kind, steps: proofs.check_edits(model, kind),
    "other sites": lambda model, kind, steps: proofs.check_inner(model, kind),
    "text": proofs.check_text,
    "cells": proofs.check_cells,
    "strength 0": proofs.check_strength_zero,
    "batches": proofs.check_batches,
    "replay": proofs.check_replay,
}
"""Name of a proof in the table to the proof."""
FOLDER_CHECKS: dict[str, Callable[[Any, str, int, Path], Any]] = {
    "bench": proofs.check_bench,
    "sizes": lambda model, kind, steps, folder: proofs.check_sizes(model, kind, folder),
    "guidance": proofs.check_guidance,
    "trace": lambda model, kind, steps, folder: proofs.check_trace(model, kind),
    "hidden": proofs.check_hidden,
    "subtract": lambda model, kind, steps, folder: proofs.check_subtract(model, kind, folder),
    "methods": lambda model, kind, steps, folder: proofs.check_methods(
        model, kind, steps, assemble_scorers(MiniInstruments()), folder.parent / f"run-{steps}"
    ),
}
"""The proofs that load the model anew from its folder, or write a run beside it."""
ONCE = {"edits", "other sites", "sizes", "subtract", "trace", "bench"}
"""The proofs that have a number of steps of their own, and the one that takes as long as all others."""
U_NET_CHECKS: dict[str, Callable[[Any, str, int], Any]] = {
    **{name: CHECKS[name] for name in ("picture", "passes", "strength 0", "batches", "replay")},
    "values and edits": proofs.check_u_net_sites,
}
"""The proofs of a U-Net."""


def proven(entry: DiffusersEntry, folder: Path, numbers: list[int], blocks: int) -> dict[str, str]:
    """Check to ``holds``, or to the reason why it fails.

    Args:
        entry: of the model.
        folder: for the random weights.
        numbers: of steps, with each of which the checks are made.
        blocks: number of blocks in each list.
    """
    kind = entry.pipeline_class
    if kind == "FluxPipeline":
        shape = replace(FLUX_SHAPES["tiny"], double=blocks, single=blocks)
        write_flux(folder, shape, seed=1, guided=entry.guidance_kind == "embedded")
    else:
        write_tiny_model(folder, entry, seed=1, blocks=blocks)
    model = proofs.load(folder, kind, entry.name)
    of_folder = {name: in_folder(check, folder) for name, check in FOLDER_CHECKS.items()}
    checks = CHECKS | of_folder if isinstance(entry, TokenEntry) else U_NET_CHECKS | {"bench": of_folder["bench"]}
    steps = [number for number in numbers if number >= entry.least_steps]
    results = {
        name: outcome(partial(checked, check, model, steps[:1] if name in ONCE else steps))
        for name, check in checks.items()
    }
    results["start="] = outcome(partial(proofs.check_start, model, kind))
    return results


def in_folder(check: Callable[..., Any], folder: Path) -> Callable[[Any, str, int], Any]:
    """A proof that is given the model's folder, as the others are called."""
    return lambda model, kind, steps: check(model, kind, steps, folder)


def checked(check: Callable[[Any, str, int], Any], model: Any, numbers: list[int]) -> None:
    """Make a proof with each number of steps."""
    for steps in numbers:
        check(model, model.entry.pipeline_class, steps)


def outcome(proof: Callable[[], Any]) -> str:
    """``holds``, ``refused`` if the proof returns a reason, or why it fails."""
    try:
        return "refused" if proof() else "holds"
    except Exception as error:  # noqa: BLE001 - a proof may fail in any way
        traceback.print_exc()
        return f"FAILS ({type(error).__name__})"


def shape_of(entry: DiffusersEntry) -> list[str]:
    """The blocks, widths, weights and bytes of a published model, as cells of the table."""
    sites = entry.sites_for(entry.published, None)
    kinds = Counter(site.partition(".")[0] for site in block_sites(sites))
    widths = {shape.width: "" for site, shape in sites.items() if site in block_sites(sites)}
    widths |= {shape.width: "" for site, shape in sites.items() if NEURONS in site}
    own, every = entry.denoiser_parameters / 1e9, entry.pipeline_parameters / 1e9
    return [
        ", ".join(f"{count} {kind}" for kind, count in kinds.items()),
        ", ".join(map(str, widths)),
        f"{own:.1f}, {every:.1f}",
        f"{2 * every:.0f}, {4 * every:.0f}",
    ]


def main() -> int:
    """Check all families, or one; the exit code is 1 if a proof fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", nargs="+", help="classes of pipelines; all unless given")
    parser.add_argument("--write", action="store_true", help="put the rows into the table in riebench/models/README.md")
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS), help="numbers of steps")
    parser.add_argument("--blocks", type=int, default=4, help="blocks of each kind, an even number")
    arguments = parser.parse_args()
    entries = [entry_named(name) for name in ("flux-schnell", *FAMILIES)]
    chosen = [
        e
        for e in entries
        if isinstance(e, DiffusersEntry) and e.pipeline_class in (arguments.kind or {e.pipeline_class})
    ]
    head = [
        f"diffusers {diffusers.__version__}, float32 on a CPU; steps: {', '.join(map(str, arguments.steps))}; "
        f"blocks of each kind: {arguments.blocks}; proofs: {', '.join((*CHECKS, *FOLDER_CHECKS))}; "
        f"of U-Nets: {', '.join((*U_NET_CHECKS, 'bench'))}. Blocks, widths and weights are of the published model; all "
        "weights are those of the denoiser, the text encoders and the autoencoder.",
        "",
        "| model | pipeline | blocks | width, neurons | weights: denoiser, all, 10^9 | GB of all, 16 and 32 bits "
        "| guidance | proofs that hold | start= |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    rows: dict[str, str] = {}
    failed = False
    for entry in chosen:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            results = proven(entry, Path(folder) / "pipeline", arguments.steps, arguments.blocks)
        shape = shape_of(entry)
        first = [f"`{entry.name}`", entry.pipeline_class.removesuffix("Pipeline"), *shape, entry.guidance_text()]
        start, failing = results.pop("start="), [name for name, result in results.items() if result != "holds"]
        failed |= bool(failing)
        cells = [*first, f"all but {', '.join(failing)}" if failing else f"all {len(results)}", start]
        rows[cells[0]] = f"| {' | '.join(cells)} |"
        print(f"{rows[cells[0]]}  {time.perf_counter() - started:.0f} s", flush=True)
        if arguments.write:
            write_table(head, rows, [f"`{each.name}`" for each in entries])
    return int(failed)


def write_table(head: list[str], rows: dict[str, str], names: list[str]) -> None:
    """Put rows into the table of the README; others stay if they are of the same diffusers and proofs.

    Args:
        head: the lines before the rows.
        rows: model to its row.
        names: of all models, in the order of the table.
    """
    before, _, rest = README.read_text().partition(BEGIN)
    table, _, after = rest.partition(END)
    of_this = head[0] in table
    known = {line.split(" ")[1]: line for line in table.splitlines() if of_this and line.startswith("| `")} | rows
    lines = [*head, *(known[name] for name in names if name in known)]
    README.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + after)


if __name__ == "__main__":
    sys.exit(main())
