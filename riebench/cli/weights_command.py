"""``riebench fetch`` and ``riebench doctor``."""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from riebench.cli.shared_options import Model
from riebench.util.errors import UserError, unknown

GSAM = 'SAM2_BUILD_CUDA=0 pip install --no-build-isolation "riebench[gsam]"'
INSTALL = {"groundingdino-py": GSAM, "sam2": GSAM}
Weights = Annotated[Path | None, typer.Option(help="Folder of the weights; one in the user's cache unless given.")]


def fetch_command(
    model: Annotated[str, typer.Argument(help="Name of a model, as sdxl-turbo.")],
    weights: Weights = None,
    part: Annotated[
        list[str] | None,
        typer.Option(help="Part by name; may be given again; all unless given, but what single metrics need."),
    ] = None,
) -> None:
    """Download the parts of a real model: at fixed revisions, hashes checked; complete files are not fetched again.

    Example: riebench fetch sdxl-turbo --weights /data/riebench
    """
    from riebench.models.entries import entry_named
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
    for found, revision in fetch(parts, root, part or ()):
        print(f"{found.name:13} complete, {revision}", flush=True)
    print(f"ready: riebench run --model {model}" + (f" --weights {weights}" if weights else ""))


def doctor_command(
    model: Model = "mini",
    weights: Weights = None,
) -> int:
    """Say what is there and what is missing: packages, weights, device, memory. Exit code 1 if something is missing.

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
        for found in find_parts(entry.parts, Settings(weights=weights)):
            if found.path is not None:
                print(f"  ok       {found.part.name:13} {found.path}")
            else:
                missing += 1
                where = f" --weights {weights}" if weights else ""
                print(f"  MISSING  {describe(found, root, {})}")
                print(f"           get it: riebench fetch {model} --part {found.part.name}{where}")
                if isinstance(found.part.source, HubFiles) and found.part.source.gated:
                    print(f"           before: {found.part.source.access}")
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
    """Print versions; gives the number of packages that are missing."""
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
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        name = torch.cuda.get_device_name(i)
        print(f"  cuda:{i}   {name}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free")
    if torch.backends.mps.is_available():
        print("  mps      Apple GPU, shares the memory above")
    there = next(p for p in [root, *root.parents] if p.exists())
    print(f"  disk     {shutil.disk_usage(there).free / 1e9:.0f} GB free at {there}")
