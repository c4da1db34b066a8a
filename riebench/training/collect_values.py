"""Collect values into a folder, shard by shard. Needs no torch until all that can be wrong has been looked at."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Any, get_args

from riebench.prompts import prompts_hash
from riebench.records import only_writer
from riebench.training.capture import Capture, refuse_full_disk, resolve_capture, size_text
from riebench.training.dataset import MANIFEST, Collection, Manifest, Shard, StoredType, read_manifest, shard_name
from riebench.util.errors import UserError, unknown
from riebench.util.files import file_hash, remove_torn, write_whole
from riebench.util.local_crew import Crew, local_crew
from riebench.util.progress import Track, stopping, tracked

if TYPE_CHECKING:
    from riebench.models.model import Model
    from riebench.prompts import Split
    from riebench.training.shard_writer import ShardWriter

SHARD_PROMPTS, SHARD_BYTES = 100, 256 << 20
"""A shard has so many prompts, or fewer where their values are larger."""


@dataclass(frozen=True)
class Collected:
    """What became of collecting.

    Attributes:
        folder: that holds the values.
        asked: what the folder is for.
        before: shards that were there already.
        shards: shards that are there now.
        signal: that ended it early, if one did.
    """

    folder: Path
    asked: Collection
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
        UserError: if something asked for is unknown, the folder holds other values, or the disk is too small, before
            anything is computed; or if a value is not finite or the disk is full.
    """
    if store not in get_args(StoredType):
        raise unknown("type", store, get_args(StoredType))
    if workers < 1:
        raise UserError(f"workers is {workers}; expected 1 or more")
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
    before = read_manifest(folder)
    if before is not None:
        _refuse_others(before.asked, capture, store, shard_prompts, folder)
        each = before.asked.shard_prompts
    there = sum(shard.bytes for shard in before.shards.values()) if before else 0
    free = refuse_full_disk(folder, len(capture.prompted) * capture.run_bytes - there)
    vectors = {name: len(capture.prompted) * steps * capture.positions(name) for name in capture.sites}
    if not quiet:
        several = ", ".join(f"{name} {number:,}" for name, number in vectors.items())
        total = size_text(len(capture.prompted) * capture.run_bytes)
        _say(f"vectors: {several}; {total} on disk, {size_text(free)} are free")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        make = partial(_shard_writer, capture, store, each, folder.absolute())
        with only_writer(folder), local_crew(make, workers) as crew:
            return _collect(crew, folder, tracked("shards") if not quiet else iter)
    except OSError as error:
        raise UserError(
            f"the folder {folder} cannot be written ({error.strerror or error}); give another --out"
        ) from None


def _collect(crew: Crew[Collection, Shard], folder: Path, track: Track) -> Collected:
    manifest = read_manifest(folder) or Manifest(asked=crew.asked)
    if manifest.asked != crew.asked:
        raise UserError(
            f"{folder} holds values of {manifest.asked.fingerprint}, this model is {crew.asked.fingerprint}"
            if manifest.asked.fingerprint != crew.asked.fingerprint
            else f"{folder} holds values made with other settings of the model; give another --out"
        )
    for name in (MANIFEST, "shard-*"):
        remove_torn(folder, name)
    before = len(manifest.shards)
    for number in range(crew.asked.shard_count):
        if number not in manifest.shards and (shard := _adopted(folder, crew.asked, number)):
            manifest.shards[number] = shard
        elif number in manifest.shards and not _whole(folder, manifest.shards[number]):
            del manifest.shards[number]
    _write(manifest, folder)
    left = [number for number in range(crew.asked.shard_count) if number not in manifest.shards]
    with stopping("shard") as ask:
        results = crew.run(left)
        for _ in track(range(len(left))):
            number, shard = next(results)
            manifest.shards[number] = shard
            _write(manifest, folder)
            if ask:
                break
        done = len(manifest.shards)
        ended = ask[0] if ask and done < crew.asked.shard_count else None
    if ended is not None:
        _say(f"ended by {ended.name}; {crew.asked.shard_count - done} shards are left, the same command goes on")
    return Collected(folder, crew.asked, before, done, ended)


def _write(manifest: Manifest, folder: Path) -> None:
    shards = dict(sorted(manifest.shards.items()))
    write_whole(folder / MANIFEST, manifest.model_copy(update={"shards": shards}).model_dump_json(indent=1).encode())


def _whole(folder: Path, shard: Shard) -> bool:
    path = folder / shard.name
    return path.is_file() and path.stat().st_size == shard.bytes


def _adopted(folder: Path, asked: Collection, number: int) -> Shard | None:
    """A whole shard of the same collection whose entry in the manifest was lost with the process."""
    from safetensors import SafetensorError, safe_open

    path = folder / shard_name(number)
    try:
        with safe_open(path, framework="np") as file:
            if (file.metadata() or {}).get("collection") != asked.key:
                return None
    except (OSError, SafetensorError):
        return None
    return Shard(name=path.name, vectors=asked.vectors(number), bytes=path.stat().st_size, sha256=file_hash(path))


def _shard_writer(capture: Capture, store: StoredType, shard_prompts: int, folder: Path) -> ShardWriter:
    """Made in the process that it writes in; here no torch is needed if others write."""
    from riebench.training.shard_writer import ShardWriter

    return ShardWriter(capture, store, shard_prompts, folder)


def _refuse_others(
    there: Collection, capture: Capture, store: StoredType, shard_prompts: int | None, folder: Path
) -> None:
    """Refuse a folder of other values, as far as that is known without weights (UserError)."""
    pairs: dict[str, tuple[Any, Any]] = {
        "model": (there.model, capture.entry.name),
        "sites": (list(there.sites), list(capture.sites)),
        "steps": (there.steps, capture.steps),
        "positions": (there.sampled, capture.sampled),
        "split": (there.split, capture.split),
        "number of prompts": (there.prompts, len(capture.prompted)),
        "prompts": (there.prompts_sha256[:8], prompts_hash(capture.prompted)[:8]),
        "type": (there.dtype, store),
        "prompts of a shard": (there.shard_prompts, shard_prompts or there.shard_prompts),
    }
    for name, (has, wanted) in pairs.items():
        if has != wanted:
            raise UserError(f"{folder} holds values of other {name}: {has}, not {wanted}; give another --out")


def _say(text: str) -> None:
    print(f"riebench: {text}", file=sys.stderr, flush=True)
