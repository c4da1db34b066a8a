"""Generate pictures, take the values at sites, and write a shard of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from riebench.models.model import Model
from riebench.models.sites import Run
from riebench.prompts import Prompted, prompts_hash
from riebench.training.capture import Capture
from riebench.training.dataset import DatasetFacts, Shard, StoredSite, StoredType, shard_name
from riebench.util.errors import PairError, UserError
from riebench.util.files import write_whole
from riebench.util.work_folder import full_disk

TYPES: dict[StoredType, torch.dtype] = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class ShardWriter:
    """The worker of a collection: holds the model and writes shards.

    Args:
        capture: the request.
        dtype: of the stored numbers.
        shard_prompts: prompts of each shard.
        folder: for the shards.

    Attributes:
        facts: of the whole data set.

    Raises:
        UserError: if the model cannot be loaded.
    """

    copies = False

    def __init__(self, capture: Capture, dtype: StoredType, shard_prompts: int, folder: Path) -> None:
        self.capture, self.folder = capture, folder
        self.model = capture.load()
        self.facts = DatasetFacts(
            model=capture.entry.name,
            fingerprint=self.model.fingerprint,
            conditions=dict(self.model.conditions),
            sites={
                name: StoredSite(width=site.width, grid=site.grid, positions=capture.positions(name))
                for name, site in capture.sites.items()
            },
            steps=capture.steps,
            location=capture.location,
            prompts=len(capture.prompted),
            prompts_sha256=prompts_hash(capture.prompted),
            split=capture.split,
            seeds=(capture.prompted[0].seed, capture.prompted[-1].seed),
            sampled=capture.sampled,
            dtype=dtype,
            shard_prompts=shard_prompts,
        )

    def give_up(self, number: int, reason: str) -> Shard:
        """Raise a UserError: a data set lacks no shard."""
        raise UserError(f"shard {number} cannot be made: {reason}")

    def work(self, number: int) -> Shard:
        """Write a shard by its number.

        Raises:
            UserError: if a value is not finite in half precision, a prompt is too long, or the disk is full.
        """
        start = number * self.facts.shard_prompts
        part = self.capture.prompted[start : start + self.facts.shard_prompts]
        vectors = half_vectors(self.model, self.capture, part, TYPES[self.facts.dtype])
        data = save(vectors, {"collection": self.facts.key})
        path = self.folder / shard_name(number)
        with full_disk(path):
            write_whole(path, data)
        counts = {site: len(rows) for site, rows in vectors.items()}
        return Shard(name=path.name, vectors=counts, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def half_vectors(
    model: Model, capture: Capture, prompted: Sequence[Prompted], dtype: torch.dtype = torch.float16
) -> dict[str, Tensor]:
    """Site to the vectors ``[runs * steps * positions, width]`` of runs, in their order, on the CPU.

    Raises:
        UserError: if a value is not finite in half precision, or a prompt cannot be generated from.
    """
    taken: dict[str, list[Tensor]] = {site: [] for site in capture.sites}
    try:
        for (prompt, seed), run in zip(
            prompted, model.runs(prompted, capture.steps, capture.sites.keys()), strict=True
        ):
            for site, rows in _rows_of(run, seed, capture):
                half = rows.to(dtype).cpu()
                if not bool(half.isfinite().all()):
                    raise UserError(
                        f"the values at {site} of the prompt {prompt[:40]!r} (seed {seed}) are not finite in {dtype}; "
                        "leave the prompt out, load the model with --dtype float32, or collect with --store bfloat16 "
                        "(into another --out if this one holds shards)"
                    )
                taken[site].append(half)
    except PairError as error:
        raise UserError(f"values cannot be collected: {error}") from None
    return {site: torch.cat(rows) for site, rows in taken.items()}


def _rows_of(run: Run, seed: int, capture: Capture) -> Iterator[tuple[str, Tensor]]:
    """Each site with the vectors that are taken of a run."""
    values: Mapping[str, Tensor] = run.values
    for site in capture.sites:
        for step, rows in enumerate(values[site]):
            drawn = capture.drawn(site, seed, step)
            yield site, rows if drawn is None else rows[torch.from_numpy(drawn).to(rows.device)]
