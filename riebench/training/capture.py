"""The values that are captured from a model: the request, checked before any weights are read."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from riebench.instruments.handed_in import check_loaded
from riebench.models.arguments import whole, words
from riebench.models.entries import INSTRUMENTS, entry_and_settings
from riebench.models.model import ModelEntry
from riebench.models.sites import Site, default_blocks, refuse_text
from riebench.prompts import FIRST_SEEDS, GRAMMAR, Prompted, Split
from riebench.settings.settings import Settings, refuse_without_effect
from riebench.training.dataset import HALF
from riebench.util.errors import UserError, unknown
from riebench.weights import locate

if TYPE_CHECKING:
    from riebench.models.model import Model

NOT_NEEDED = ("detector", "text-encoder", "segmenter", "clip", "lpips")
"""Weights of a model that generation does without."""
ALL = "all"


@dataclass(frozen=True)
class Capture:
    """A request for values: the model, its runs, sites and positions.

    Attributes:
        entry: the model.
        settings: of the model.
        sites: by name, in the order in which they run.
        prompted: prompts and seeds of the runs.
        location: of the prompts.
        split: of the prompts.
        steps: denoising steps.
        sampled: positions drawn from each step of each run; None takes all.
        batch: rows in one forward pass at most.
        model: a loaded model that takes the place of the entry's own.
    """

    entry: ModelEntry
    settings: Settings
    sites: Mapping[str, Site]
    prompted: Sequence[Prompted]
    location: str
    split: Split
    steps: int
    sampled: int | None
    batch: int
    model: Model | None = None

    def positions(self, site: str) -> int:
        """The number of positions taken from each step of a run at a site."""
        positions = self.sites[site].positions
        return positions if self.sampled is None else min(positions, self.sampled)

    @property
    def run_bytes(self) -> int:
        """Bytes of the values of one run in half precision."""
        return self.steps * sum(self.positions(name) * site.width * HALF for name, site in self.sites.items())

    def drawn(self, site: str, seed: int, step: int) -> NDArray[np.int64] | None:
        """The positions taken from a step of the run with a seed, sorted; None for all of them."""
        positions = self.sites[site].positions
        if self.positions(site) == positions:
            return None
        rng = np.random.default_rng([seed, step, crc32(site.encode())])
        return np.sort(rng.choice(positions, self.positions(site), replace=False))

    def load(self) -> Model:
        """The model with its weights.

        Raises:
            UserError: if weights are missing or do not fit.
        """
        model = self.model or self.entry.load(self.settings)
        model.batch = self.batch
        return model


def resolve_capture(
    model: str | Path | Model = "mini",
    site: str | Iterable[str] = ALL,
    *,
    prompts: str | Path,
    count: int | None = None,
    split: Split = "train",
    column: str | None = None,
    steps: int = 1,
    positions: int | None = None,
    batch: int = 8,
    settings: Mapping[str, Any] | None = None,
) -> Capture:
    """The checked request.

    Args:
        model: name, folder of a pipeline, or a model that :func:`riebench.load` loaded.
        site: site or sites; ``all`` for the model's default ones.
        prompts: see :func:`riebench.prompts.read_prompts`, as are ``count``, ``split`` and ``column``.
        steps: denoising steps.
        positions: drawn from each step of each run; all unless given.
        batch: rows in one forward pass at most.
        settings: of the model by name, see ``riebench settings``; None leaves one as it is.

    Raises:
        UserError: if the model, a site or a setting is unknown, weights are missing, the prompts cannot be read, or
            one is not of the world that the model draws.
    """
    check_loaded("model", str(model) if isinstance(model, Path) else model)
    if isinstance(model, (str, Path)):
        entry, parsed = entry_and_settings(model, {} if settings is None else settings)
        refuse_without_effect(parsed, (*INSTRUMENTS, "sae."), "values are collected without it; leave it out")
        known, loaded = entry.sites(parsed), None
    else:
        if settings:
            raise UserError("settings are for a model given by its name; this model is loaded already")
        entry, parsed, known, loaded = model.entry, Settings(), model.sites, model
    if split not in list(FIRST_SEEDS):
        raise unknown("split", split, FIRST_SEEDS)
    default = default_blocks(entry.default_sites, known)
    chosen = [name for word in words("site", site) for name in (default if word == ALL else (word,))]
    for name in chosen:
        if name not in known:
            raise unknown("site", name, known)
    refuse_text(chosen, known, "a data set, whose size is known before,")
    steps, batch = whole("steps", steps, 1, entry.most_steps), whole("batch", batch, 1)
    positions = None if positions is None else whole("positions", positions, 1)
    count = None if count is None else whole("count", count, 1)
    if not isinstance(prompts, str | Path) or not str(prompts):
        raise UserError(f"prompts is {prompts!r}; expected a file, or {GRAMMAR!r}")
    prompted = entry.read_prompts(str(prompts), count, split, column, own=loaded is None or loaded.own)
    if loaded is None and entry.parts:
        locate(entry.name, entry.parts, parsed, optional=("sae",), without=NOT_NEEDED)
    sites = {name: known[name] for name in known if name in chosen}
    return Capture(entry, parsed, sites, prompted, str(prompts), split, steps, positions, batch, loaded)


def refuse_full_disk(folder: Path, needed: int, less: str) -> int:
    """The number of free bytes on the disk of a folder.

    Args:
        folder: that is written to; may be missing.
        needed: number of bytes.
        less: what to do to need fewer, for the message.

    Raises:
        UserError: if fewer are free than ``needed``.
    """
    above = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(above).free
    if needed > free:
        raise UserError(
            f"{size_text(needed)} are needed in {folder}, {size_text(free)} are free; {less}, or give another --out"
        )
    return free


def size_text(count: int) -> str:
    """A number of bytes with its unit, as 1.5 GB."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"
