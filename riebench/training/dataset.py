"""A folder of collected values: its manifest, its shards, and whether they are whole. Needs no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from riebench.util.errors import UserError, unknown

MANIFEST, SHARDS = "manifest.json", "shard-*.safetensors"
HALF = 2
"""Bytes of a number in half precision."""
StoredType = Literal["float16", "bfloat16"]


class StoredSite(BaseModel):
    """The values of one site in a data set.

    Attributes:
        width: of each vector.
        grid: rows and columns of positions on the picture.
        positions: vectors taken from each step of each run.
    """

    width: int
    grid: tuple[int, int]
    positions: int


class Shard(BaseModel):
    """One file of vectors.

    Attributes:
        name: of the file.
        vectors: site to number of vectors.
        bytes: size of the file.
        sha256: of its content.
    """

    name: str
    vectors: dict[str, int]
    bytes: int
    sha256: str


class DatasetFacts(BaseModel):
    """All that decides the values of a data set; two folders with equal facts hold equal values.

    Attributes:
        model: its name.
        fingerprint: of its weights.
        conditions: settings that change what it generates.
        sites: by name.
        steps: denoising steps.
        location: of the prompts.
        prompts: their number.
        prompts_sha256: of prompts and seeds, in order.
        split: see :func:`riebench.prompts.read_prompts`.
        seeds: the first and the last.
        sampled: positions drawn from each step of each run, by the run's seed; None takes all.
        dtype: of the stored numbers.
        shard_prompts: prompts of each shard.
    """

    model: str
    fingerprint: str
    conditions: dict[str, str | float]
    sites: dict[str, StoredSite]
    steps: int
    location: str
    prompts: int
    prompts_sha256: str
    split: str
    seeds: tuple[int, int]
    sampled: int | None
    dtype: StoredType
    shard_prompts: int

    @property
    def shard_count(self) -> int:
        """How many shards a whole data set has."""
        return -(-self.prompts // self.shard_prompts)

    @property
    def key(self) -> str:
        """A hash of the facts; each shard carries it."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    def vectors(self, shard: int) -> dict[str, int]:
        """Site to number of vectors in a shard, by its number."""
        runs = min(self.shard_prompts, self.prompts - shard * self.shard_prompts)
        return {name: runs * self.steps * site.positions for name, site in self.sites.items()}


class Manifest(BaseModel):
    """The content of ``manifest.json``.

    Attributes:
        riebench_sae_data: version of the layout.
        facts: of the whole data set; ``asked`` in the file.
        shards: those that are finished, by their number.
    """

    model_config = ConfigDict(populate_by_name=True)

    riebench_sae_data: Literal[1] = 1
    facts: DatasetFacts = Field(alias="asked")
    shards: dict[int, Shard] = {}


@dataclass(frozen=True)
class Dataset:
    """A whole data set, its files checked by size.

    Attributes:
        folder: that holds it.
        facts: see :class:`DatasetFacts`.
        shards: in order.
    """

    folder: Path
    facts: DatasetFacts
    shards: Sequence[Shard]

    @property
    def fingerprint(self) -> str:
        """A hash of the facts and of the contents of all shards."""
        return hashlib.sha256("".join([self.facts.key, *(s.sha256 for s in self.shards)]).encode()).hexdigest()[:16]


def shard_name(number: int) -> str:
    """The name of a shard's file."""
    return f"shard-{number:06d}.safetensors"


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; None if it has none.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise UserError(f"{folder} is no folder; give one that 'riebench sae collect' has filled") from None
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise UserError(f"{folder / MANIFEST} is no manifest of 'riebench sae collect': {reason}") from None
    except OSError as error:
        raise UserError(f"{folder / MANIFEST} cannot be read: {error.strerror}") from None


def open_dataset(folder: Path, sites: Sequence[str] = ()) -> Dataset:
    """A data set that is whole: every shard has the size that the manifest says.

    Args:
        folder: that holds it.
        sites: those that are needed.

    Raises:
        UserError: if it is no data set, not finished, a shard is missing or torn, or it lacks a site.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder} holds no {MANIFEST}; give a folder that 'riebench sae collect' has filled")
    for site in sites:
        if site not in manifest.facts.sites:
            raise unknown("site", site, manifest.facts.sites)
    done, count = len(manifest.shards), manifest.facts.shard_count
    if done < count:
        raise UserError(f"{folder} holds {done} of {count} shards; the same 'riebench sae collect' command goes on")
    shards = [manifest.shards[number] for number in range(count)]
    for shard in shards:
        path = folder / shard.name
        size = path.stat().st_size if path.is_file() else 0
        if size != shard.bytes:
            wrong = f"has {size:,} of {shard.bytes:,} bytes" if path.exists() else "is missing"
            raise UserError(f"{path} {wrong}; the same 'riebench sae collect' command makes it again")
    return Dataset(folder, manifest.facts, shards)
