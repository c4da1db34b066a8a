"""``riebench models``, ``blocks``, ``settings``, ``fetch``, ``doctor`` and ``standin``."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from riebench.cli.shared_options import Model, with_settings
from riebench.util.errors import UserError, unknown

if TYPE_CHECKING:
    from riebench.models.sites import Site


def models_command() -> None:
    """List models by name: pipeline, blocks and the sites in them, guidance, pictures, steps, and address on the hub.

    A folder of a pipeline of any of these classes is a model, too: --model DIR.

    Example: riebench models
    """
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Column, Table
    from rich.text import Text

    from riebench.models.diffusers_entry import DiffusersEntry
    from riebench.models.entries import MODELS, TRACED
    from riebench.weights import HubFiles

    names = (
        "model",
        "pipeline",
        "blocks",
        "sites in them",
        "guidance",
        "size",
        "steps",
        "start=",
        "tried on",
        "weights",
    )
    table = Table(*(Column(name, overflow="fold", no_wrap=name == "model") for name in names))
    for known in MODELS.listed():
        entry = known.entry
        if known.name == TRACED:
            continue
        if not isinstance(entry, DiffusersEntry):
            what = f"BROKEN: {known.error}" if entry is None else known.origin
            table.add_row(*map(Text, (known.name, what, *[""] * (len(names) - 2))))
            continue
        source = entry.parts[0].source if entry.parts else None
        where = source.repo if isinstance(source, HubFiles) else "in the package"
        start = "refused" if entry.no_start else "yes"
        tried = "trained weights" if entry.own_pipeline else "random weights"
        kinds = map(" ".join, entry.kinds_of_sites())
        facts = (*kinds, entry.guidance_text(), entry.size_text(), str(entry.steps))
        table.add_row(*map(Text, (known.name, entry.pipeline_class, *facts, start, tried, where)))
    console = Console()
    if not console.is_terminal:  # a line of a file, or one that is searched, holds the whole row
        unlimited = console.options.update(max_width=sys.maxsize)
        console = Console(width=Measurement.get(console, unlimited, table).maximum)
    console.print(table)
    print("A block's own name is a site, too: its update. Others are named as double.18/output, mid.0/attention.0")
    print("A pipeline of another class, its layout found by a dry trace: --model DIR --set model.family=traced")
    print("Sizes, positions and neurons of a model's blocks: riebench blocks --model NAME")


@with_settings
def blocks_command(
    model: Model = "mini",
    all: Annotated[bool, typer.Option("--all", help="Other sites, too: outputs, attention, MLPs, neurons.")] = False,
    *,
    settings: Mapping[str, Any],
) -> None:
    """List a model's blocks in the order in which they run: width, grid, neurons, and SAE, if any.

    Read from configurations alone, but for the SAEs of --set sae.folder, whose sites are all listed; without weights,
    those of the published model.

    Example: riebench blocks --model sdxl-turbo
    """
    from rich.console import Console
    from rich.table import Table

    from riebench.models.entries import entry_and_settings
    from riebench.models.sites import block_sites, default_blocks, neuron_sites

    entry, parsed = entry_and_settings(model, settings)
    sites, saes = entry.sites(parsed), entry.saes(parsed)
    default = default_blocks(entry.default_sites, sites)
    blocks = block_sites(sites)
    table = Table("block", "width", "grid", "layers x neurons", "SAE features (k)")
    for block in sites if all else [site for site in sites if site in saes or site in blocks]:
        height, width = sites[block].grid
        layers = [sites[site].width for site in neuron_sites(sites, block)]
        neurons = f"{len(layers)} x {layers[0]}" if layers else "–"
        features = "–"
        if block in saes:
            features = _features_of(saes[block], block, sites if parsed.sae.folder is not None else None)
        name = f"{block} *" if block in default else block
        grid = f"{height} x {width}" if height else "text"
        table.add_row(name, str(sites[block].width), grid, neurons, features)
    Console().print(table)
    print("* --block all")


def _features_of(sae: Path, site: str, sites: Mapping[str, Site] | None) -> str:
    """The number of features of an SAE with its k, or its kind where it has none.

    Args:
        sae: its folder.
        site: where it is used.
        sites: of the model, for an SAE of a user, whose weights are read; None if its configuration will do.
    """
    from riebench.sae.folders import feature_count, read_config

    if sites is None:
        return f"{feature_count(sae)} ({(read_config(sae) or {}).get('k', '?')})"
    from riebench.models.sae_sites import check_fits
    from riebench.sae.store import load_sae

    loaded = load_sae(sae)
    check_fits(loaded, site, sites)
    return f"{loaded.n_features} ({loaded.k or loaded.kind})"


def settings_command() -> None:
    """List the settings of the instruments, with their defaults: riebench run --set NAME=VALUE.

    Example: riebench settings
    """
    from rich.console import Console
    from rich.table import Table

    from riebench.settings.settings import choices, described

    table = Table("setting", "values", "default", "what it is")
    for name, field in described():
        if not isinstance(field.default, (int, float, str, bool, type(None))):
            continue
        default = "" if field.default is None else str(field.default)
        table.add_row(name, choices(field), default, field.description)
    Console().print(table, markup=False)


GSAM = 'SAM2_BUILD_CUDA=0 pip install --no-build-isolation "riebench[gsam]"'
INSTALL = {"groundingdino-py": GSAM, "sam2": GSAM}
Weights = Annotated[Path | None, typer.Option(help="Folder of the weights. Default: one in the user's cache.")]


def fetch_command(
    model: Annotated[str, typer.Argument(help="Name of a model, as sdxl-turbo.")],
    weights: Weights = None,
    part: Annotated[
        list[str] | None,
        typer.Option(help="Part by name; may be repeated. Default: all but those of single metrics."),
    ] = None,
) -> None:
    """Download the parts of a real model: at fixed revisions, hashes checked; complete files are not fetched again.

    Example: riebench fetch sdxl-turbo --weights /data/riebench
    """
    from riebench.models.entries import TRACED, entry_named
    from riebench.weights import SCORERS, default_root
    from riebench.weights.fetch import fetch

    parts = entry_named(model).parts
    if part:
        parts += SCORERS
    known = [p.name for p in parts]
    if not entry_named(model).parts:
        raise UserError(f"the weights of {model} come with its package; there is nothing to fetch")
    for name in part or []:
        if name not in known:
            raise unknown("part", name, known)
    root = weights or default_root()
    total = sum(p.size for p in parts if not part or p.name in part)
    print(f"{model}: {len(part or known)} parts, about {total / 1e9:.1f} GB, into {root}")
    for fetched, revision in fetch(parts, root, part or ()):
        print(f"{fetched.name:13} complete, {revision}", flush=True)
    named = f"DIR --set model.family={model}" if model == TRACED else model
    print(f"ready: riebench run --model {named}" + (f" --weights {weights}" if weights else ""))


def doctor_command(
    model: Model = "mini",
    weights: Weights = None,
) -> int:
    """Check packages, weights, device and memory. Exit code 1 if something is missing.

    Example: riebench doctor --model sdxl-turbo
    """
    from riebench.models.entries import entry_named
    from riebench.settings.settings import Settings
    from riebench.weights import SCORERS, HubFiles, default_root, find_part, find_parts, is_standin
    from riebench.weights.places import describe

    entry, root = entry_named(model), weights or default_root()
    missing = _packages(["torch", "diffusers", "transformers", "open_clip_torch", "lpips"], "pip install riebench")
    if not entry.parts:
        print("\nweights: in the package")
    else:
        extra = dict.fromkeys(p for part in entry.parts for p in part.packages if p in INSTALL)
        missing += _packages(list(extra), GSAM)
        print(f"\nweights of {model} under {root}" + (" (random stand-ins)" if is_standin(root) else ""))
        for placed in find_parts(entry.parts, Settings(weights=weights)):
            if placed.path is not None:
                print(f"  ok       {placed.part.name:13} {placed.path}")
            else:
                missing += 1
                where = f" --weights {weights}" if weights else ""
                print(f"  MISSING  {describe(placed, root, {})}")
                print(f"           get it: riebench fetch {model} --part {placed.part.name}{where}")
                if isinstance(placed.part.source, HubFiles) and placed.part.source.gated:
                    print(f"           before: {placed.part.source.access}")
        for scorer in (find_part(part, root) for part in SCORERS):
            if scorer.path is not None:
                print(f"  ok       {scorer.part.name:13} {scorer.path}")
            else:
                print(f"  -        {describe(scorer, root, {})}")
                print(f"           for single metrics alone: riebench fetch {model} --part {scorer.part.name}")
    _machine(root)
    print(f"\n{missing} missing" if missing else "\nall there")
    return 1 if missing else 0


def _packages(names: list[str], install: str) -> int:
    """Print the versions of packages and return the number of missing ones."""
    missing = 0
    for name in names:
        try:
            print(f"  ok       {name:17} {version(name)}")
        except PackageNotFoundError:
            missing += 1
            print(f"  MISSING  {name:17} get it: {install}")
    return missing


def _machine(root: Path) -> None:
    import psutil
    import torch

    print("\ndevices")
    memory = psutil.virtual_memory()
    print(f"  cpu      {psutil.cpu_count()} cores, {memory.available / 1e9:.0f} of {memory.total / 1e9:.0f} GB free")
    print(f"  threads  {torch.get_num_threads()}, OMP_WAIT_POLICY={os.environ['OMP_WAIT_POLICY']}")
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        name = torch.cuda.get_device_name(i)
        print(f"  cuda:{i}   {name}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free")
    if torch.backends.mps.is_available():
        print("  mps      Apple GPU, shares the memory above")
    existing = next(p for p in [root, *root.parents] if p.exists())
    print(f"  disk     {shutil.disk_usage(existing).free / 1e9:.0f} GB free at {existing}")


def standin_command(
    model: Annotated[str, typer.Argument(help="A model that 'riebench models' lists, but for mini's.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the weights; name it with --weights.")],
    size: Annotated[
        str, typer.Option(help="tiny, or true (sdxl: 17 GB on disk; flux: true widths, few layers, 8 GB).")
    ] = "tiny",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random weights.")] = 0,
) -> None:
    """Write random weights of a real model in the layouts that its loaders read, to try the whole path.

    Example: riebench standin sdxl-turbo /tmp/tiny && riebench run --model sdxl-turbo --weights /tmp/tiny ...
    """
    if size not in {"tiny", "true"}:
        raise UserError(f"--size is {size!r}; expected tiny or true")
    from riebench.standin.write import write_standin

    started = time.perf_counter()
    for part in write_standin(folder, model, "tiny" if size == "tiny" else "true", seed):
        logging.getLogger(__name__).info("writing %s", part)
    print(f"{folder}: random weights of {model}, {size}, written in {time.perf_counter() - started:.0f} s")
