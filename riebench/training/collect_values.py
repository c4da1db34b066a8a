"""Collect values into a folder, shard by shard. Needs no torch until the request is checked."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Any, get_args

from riebench.models.arguments import batch_kept, whole
from riebench.prompts import prompts_hash
from riebench.training.capture import Capture, refuse_full_disk, resolve_capture, size_text
from riebench.training.dataset import (
    MANIFEST,
    SHARDS,
    DatasetFacts,
    Manifest,
    Shard,
    StoredType,
    read_manifest,
    shard_name,
)
from riebench.util.errors import UserError, unknown
from riebench.util.files import file_hash
from riebench.util.progress import progress_bar
from riebench.util.work_folder import WorkFolder, check_work_folder, work_off
from riebench.util.workers import Crew, Workers, hired

if TYPE_CHECKING:
    from riebench.models.model import Model
    from riebench.prompts import Split
    from riebench.training.shard_writer import ShardWriter

log = logging.getLogger(__name__)
SHARD_PROMPTS, SHARD_BYTES = 100, 256 << 20
"""A shard has so many prompts, or fewer where their values are larger."""
FEWER = "take fewer prompts (--count), sites or positions (--positions)"


@dataclass(frozen=True)
class Collected:
    """A folder after collecting.

    Attributes:
        folder: that holds the values.
        facts: of the whole data set.
        before: number of shards that the folder held at the start.
        shards: number of shards that it holds now.
        signal: that ended it early, if one did.
    """

    folder: Path
    facts: DatasetFacts
    before: int
    shards: int
    signal: Signals | None = None


def collect(
    model: str | Path | Model = "mini",
    site: str | Sequence[str] = "all",
    *,
    prompts: str | Path,
    out: str | Path,
    count: int | None = None,
    split: Split = "train",
    column: str | None = None,
    steps: int = 1,
    positions: int | None = None,
    batch: int = 8,
    store: StoredType = "float16",
    shard_prompts: int | None = None,
    workers: int = 1,
    settings: dict[str, Any] | None = None,
    quiet: bool = False,
) -> Collected:
    """Collect the values of a model at single positions into sharded safetensors files with a manifest.

    Shards that ``out`` holds already are not made again; the files are the same whatever the number of workers.

    Args:
        model: see :func:`riebench.training.capture.resolve_capture`, as are ``site``, ``prompts``, ``count``,
            ``split``, ``column``, ``steps``, ``positions``, ``batch`` and ``settings``.
        out: folder.
        store: type of the stored numbers, ``float16`` or ``bfloat16``.
        shard_prompts: prompts of each shard; 100 unless given, or as many as make 256 MiB.
        workers: processes that generate, by Ray if more than one.
        quiet: whether to show no progress.

    Raises:
        UserError: if a name is unknown, the folder holds other values, or the disk is too small, before
            anything is computed; or if a value is not finite or the disk is full.
    """
    if store not in get_args(StoredType):
        raise unknown("type", store, get_args(StoredType))
    workers = whole("workers", workers, 1)
    shard_prompts = None if shard_prompts is None else whole("shard_prompts", shard_prompts, 1)
    if not isinstance(out, str | Path) or not str(out):
        raise UserError(f"out is {out!r}; expected a folder")
    if workers > 1 and not isinstance(model, (str, Path)):
        raise UserError("a loaded model cannot be handed to other processes; leave out workers")
    capture = resolve_capture(
        model,
        site,
        prompts=prompts,
        count=count,
        split=split,
        column=column,
        steps=steps,
        positions=positions,
        batch=batch,
        settings=settings,
    )
    each = shard_prompts or max(1, min(SHARD_PROMPTS, SHARD_BYTES // capture.run_bytes))
    folder = Path(out)
    check_work_folder(folder, MANIFEST)
    before = _manifest_of_shards(folder)
    if before is not None:
        _refuse_others(before.facts, capture, store, shard_prompts, folder)
        each = before.facts.shard_prompts
    stored = sum(shard.bytes for shard in before.shards.values()) if before else 0
    free = refuse_full_disk(folder, len(capture.prompted) * capture.run_bytes - stored, FEWER)
    vectors = {name: len(capture.prompted) * steps * capture.positions(name) for name in capture.sites}
    if not quiet:
        several = ", ".join(f"{name} {number:,}" for name, number in vectors.items())
        total = size_text(len(capture.prompted) * capture.run_bytes)
        log.info("vectors: %s; %s on disk, %s are free", several, total, size_text(free))
    make = partial(_shard_writer, capture, store, each, folder.absolute())
    shards = -(-len(capture.prompted) // each)
    crew_of = hired(make, Workers(workers), shards, "shard")
    with batch_kept(capture.model), WorkFolder(folder, MANIFEST) as work_folder, crew_of as crew:
        return _collect(crew, work_folder, quiet)


def _collect(crew: Crew[ShardWriter], folder: WorkFolder, quiet: bool) -> Collected:
    """Write the shards that are missing or torn."""
    facts = crew.ask(lambda writer: writer.facts)
    manifest = _manifest_of_shards(folder.path) or Manifest(facts=facts)
    if manifest.facts != facts:
        raise UserError(
            f"{folder.path} holds values of {manifest.facts.fingerprint}, this model is {facts.fingerprint}; "
            "give another --out"
            if manifest.facts.fingerprint != facts.fingerprint
            else f"{folder.path} holds values made with other settings of the model; give another --out"
        )
    before = len(manifest.shards)
    for number in range(facts.shard_count):
        if number not in manifest.shards and (shard := _adopted(folder.path, facts, number)):
            manifest.shards[number] = shard
        elif number in manifest.shards and not _whole(folder.path, manifest.shards[number]):
            del manifest.shards[number]
    _write(manifest, folder)
    left = [number for number in range(facts.shard_count) if number not in manifest.shards]

    def keep(number: int, shard: Shard) -> None:
        manifest.shards[number] = shard
        _write(manifest, folder)
        advance()

    with progress_bar("shards", len(left), quiet=quiet) as advance:
        ending = work_off(crew, left, keep, "shard")
    return Collected(folder.path, facts, before, len(manifest.shards), ending.signal if ending.left else None)


def _manifest_of_shards(folder: Path) -> Manifest | None:
    """The manifest of a folder; None if there is no shard that it could be of, so that another may be begun."""
    manifest = read_manifest(folder)
    return manifest if manifest is None or manifest.shards or any(folder.glob(SHARDS)) else None


def _write(manifest: Manifest, folder: WorkFolder) -> None:
    shards = dict(sorted(manifest.shards.items()))
    text = manifest.model_copy(update={"shards": shards}).model_dump_json(indent=1, by_alias=True)
    folder.write(MANIFEST, text.encode())


def _whole(folder: Path, shard: Shard) -> bool:
    path = folder / shard.name
    return path.is_file() and path.stat().st_size == shard.bytes


def _adopted(folder: Path, facts: DatasetFacts, number: int) -> Shard | None:
    """A whole shard of the same collection whose entry in the manifest was lost with the process."""
    from safetensors import SafetensorError, safe_open

    path = folder / shard_name(number)
    try:
        with safe_open(path, framework="np") as file:
            if (file.metadata() or {}).get("collection") != facts.key:
                return None
    except (OSError, SafetensorError):
        return None
    return Shard(name=path.name, vectors=facts.vectors(number), bytes=path.stat().st_size, sha256=file_hash(path))


def _shard_writer(capture: Capture, store: StoredType, shard_prompts: int, folder: Path) -> ShardWriter:
    """Made in the process that it writes in; here no torch is needed if others write."""
    from riebench.training.shard_writer import ShardWriter

    return ShardWriter(capture, store, shard_prompts, folder)


def _refuse_others(
    before: DatasetFacts, capture: Capture, store: StoredType, shard_prompts: int | None, folder: Path
) -> None:
    """Refuse a folder of other values, as far as that is known without weights (UserError)."""
    pairs: dict[str, tuple[Any, Any]] = {
        "model": (before.model, capture.entry.name),
        "sites": (list(before.sites), list(capture.sites)),
        "steps": (before.steps, capture.steps),
        "positions": (before.sampled, capture.sampled),
        "split": (before.split, capture.split),
        "number of prompts": (before.prompts, len(capture.prompted)),
        "prompts": (before.prompts_sha256[:8], prompts_hash(capture.prompted)[:8]),
        "type": (before.dtype, store),
        "prompts of a shard": (before.shard_prompts, shard_prompts or before.shard_prompts),
    }
    for name, (has, expected) in pairs.items():
        if has != expected:
            raise UserError(f"{folder} holds values of other {name}: {has}, not {expected}; give another --out")
