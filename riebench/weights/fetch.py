"""Download the parts of a model at fixed revisions, and check every file against the published hashes."""

from __future__ import annotations

import io
import json
import logging
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from riebench.util.errors import UserError
from riebench.util.files import file_hash, write_whole
from riebench.weights.parts import Download, HubFiles, Part

log = logging.getLogger(__name__)
LEDGER = "fetched.json"
FREE_SPACE = 1.05  # required free space, as a multiple of the size of the files
EVERY = 20.0  # seconds between lines of progress if stderr is not a terminal


def fetch(parts: Sequence[Part], root: Path, only: Collection[str] = ()) -> Iterator[tuple[Part, str]]:
    """Download missing parts; yields each part with its revision when it is complete.

    Complete files are not downloaded again; an incomplete file starts from its beginning. Progress goes to the log.

    Args:
        parts: of a model.
        root: the weights folder; it is created if it is missing.
        only: names of parts; empty for all.

    Raises:
        UserError: if the folder cannot be written, a source cannot be reached, the disk is too small, or the hash of
            a file is not the published one.
    """
    for part in parts:
        if only and part.name not in only:
            continue
        folder, source = root / part.folder, part.source
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder} cannot be made: {error.strerror}; name another --weights") from None
        known = read_ledger(root).get(part.name, {})
        if isinstance(source, HubFiles):
            # A branch moves on; the commit of the first fetch is the one that is completed.
            first = known.get("revision") if source.revision == "main" else None
            revision = _from_hub(source, first or source.revision, folder)
            noted = {"repo": source.repo, "revision": revision}
        else:
            revision = _from_address(source, folder / source.name)
            noted = {"url": source.url, "revision": revision}
        ledger = read_ledger(root) | {part.name: noted}  # read anew: downloads take long, and others may note theirs
        write_whole(root / LEDGER, (json.dumps(ledger, indent=2) + "\n").encode())
        yield part, revision


def read_ledger(root: Path) -> dict[str, Any]:
    """The parts that :func:`fetch` has downloaded into a weights folder: name to address and revision."""
    try:
        ledger: dict[str, Any] = json.loads((root / LEDGER).read_text())
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError:
        raise UserError(f"{root / LEDGER} is damaged; remove it, complete files are not fetched again") from None
    return ledger


def _from_hub(source: HubFiles, revision: str, folder: Path) -> str:
    """Download files of a repository into a folder; returns the commit.

    The hub's client checks sizes only, so the hashes are compared afterwards.
    """
    from huggingface_hub import HfApi, snapshot_download

    address = source.address
    bars = None if sys.stderr.isatty() else ProgressLines
    download: Callable[..., Any] = partial(
        snapshot_download,
        source.repo,
        allow_patterns=list(source.patterns),
        local_dir=folder,
        tqdm_class=bars,
    )
    with _one_line(source):
        files = download(revision=revision, dry_run=True)
    if not files:
        raise UserError(f"{address} has none of {', '.join(source.patterns[:3])} at {revision}")
    commit = str(files[0].commit_hash)
    need = sum(file.file_size or 0 for file in files if file.will_download)
    _check_room(folder, need)
    log.info("%s: %d files, %.1f GB to download", source.repo, len(files), need / 1e9)
    with _one_line(source):
        download(revision=commit)
        checked = HfApi().verify_repo_checksums(source.repo, revision=commit, local_dir=folder)
    names = {file.filename for file in files}
    if missing := names.intersection(checked.missing_paths):
        raise UserError(f"{address} ended without {min(missing)}; give the same command again")
    for wrong in checked.mismatches:
        if wrong["path"] in names:
            _put_aside(folder / wrong["path"], wrong["actual"], wrong["expected"])
    for name, published in source.sha256:
        if (actual := file_hash(folder / name)) != published:
            _put_aside(folder / name, actual, published)
    return commit


@contextmanager
def _one_line(source: HubFiles) -> Iterator[None]:
    """Turn every error of the hub's client into a :class:`UserError`: its errors come from several libraries."""
    from huggingface_hub.errors import RepositoryNotFoundError  # GatedRepoError is one of them

    try:
        yield
    except Exception as error:  # noqa: BLE001
        cause = error.__cause__ or error
        if isinstance(cause, RepositoryNotFoundError):
            raise UserError(f"the hub refuses {source.repo}: {source.access}; then fetch again") from None
        lines = str(cause).strip().splitlines() or [type(cause).__name__]
        raise UserError(f"{source.address} cannot be fetched: {lines[0]}; the same command continues") from None


def _check_room(folder: Path, need: int) -> None:
    free = shutil.disk_usage(folder).free
    if need * FREE_SPACE > free:
        raise UserError(
            f"{folder} has {free / 1e9:.1f} GB free, {need / 1e9:.1f} GB are needed; name another --weights"
        )


def _put_aside(path: Path, actual: str, expected: str) -> None:
    """Rename a file whose hash is wrong, so that it is neither used nor lost.

    Raises:
        UserError: always; it names both hashes and the new name.
    """
    aside = path.with_name(path.name + ".damaged")
    path.replace(aside)
    raise UserError(f"{path.name} has the hash {actual[:16]}, expected {expected[:16]}; it is now {aside}")


def _from_address(source: Download, target: Path) -> str:
    """Download one file from an address; returns its SHA-256."""
    from torch.hub import download_url_to_file

    if not target.is_file():
        try:
            download_url_to_file(source.url, str(target), hash_prefix=source.sha256)
        except (OSError, RuntimeError) as error:  # RuntimeError: its hash is wrong
            raise UserError(f"{source.url} cannot be fetched: {error}; give the same command again") from None
    actual = file_hash(target)
    if not actual.startswith(source.sha256):
        _put_aside(target, actual, source.sha256)
    return actual


class ProgressLines(tqdm):
    """Progress of the hub's client for a log: a line every 20 seconds instead of a bar that is redrawn."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.shown_at = time.monotonic()
        super().__init__(*args, **{**kwargs, "file": io.StringIO()})  # discards control characters

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Log the state if the latest line is old enough."""
        if msg is None and time.monotonic() - self.shown_at >= EVERY:
            self.shown_at = time.monotonic()
            log.info("%s", self)
