"""Where training takes its vectors from: shards, or the generating model itself. Both give portions of all sites."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from riebench.training.capture import Capture
from riebench.training.dataset import Dataset, Shard
from riebench.training.shard_writer import half_vectors
from riebench.training.training_grid import SAESettings
from riebench.util.errors import UserError
from riebench.util.files import file_hash


@dataclass(frozen=True)
class Place:
    """How far training has come in a stream of vectors; the next batch is read from here.

    Attributes:
        round: passes over the stream that are done.
        portion: of this pass, by its number.
        batch: of this portion, by its number.
    """

    round: int = 0
    portion: int = 0
    batch: int = 0


class Vectors(Protocol):
    """Vectors in units (shards, or prompts) that are read one after the other."""

    ahead: bool
    """Whether the next portion is read while the one before it is trained on."""

    def units(self) -> Sequence[Mapping[str, int]]:
        """Site to number of vectors, of each unit."""

    def read(self, units: Sequence[int]) -> dict[str, Tensor]:
        """Site to the vectors ``[vectors, width]`` of some units, in half precision on the CPU."""


class StoredVectors:
    """The shards of a data set; each is checked against its hash when it is read first.

    Args:
        data: the data set.
        sites: those that are read.
    """

    ahead = True

    def __init__(self, data: Dataset, sites: Sequence[str]) -> None:
        self.data = data
        self.sites = sites
        self._checked: set[int] = set()

    def units(self) -> Sequence[Mapping[str, int]]:
        """See :class:`Vectors`."""
        return [{site: shard.vectors[site] for site in self.sites} for shard in self.data.shards]

    def read(self, units: Sequence[int]) -> dict[str, Tensor]:
        """See :class:`Vectors`.

        Raises:
            UserError: if a shard is damaged or holds numbers that are not finite.
        """
        parts = [self._read(number, self.data.shards[number]) for number in units]
        return {site: torch.cat([part[site] for part in parts]) for site in self.sites}

    def _read(self, number: int, shard: Shard) -> dict[str, Tensor]:
        path = self.data.folder / shard.name
        hint = "remove it and give the same 'riebench sae collect' command again"
        try:
            if number not in self._checked and file_hash(path) != shard.sha256:
                raise UserError(f"{path} is damaged (its content is not what was written); {hint}")
            with safe_open(path, framework="pt") as file:
                found = {site: file.get_tensor(site) for site in self.sites}
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} cannot be read ({error}); {hint}") from None
        self._checked.add(number)
        for site, rows in found.items():
            if not bool(rows.isfinite().all()):
                raise UserError(f"{path} holds values at {site} that are not finite; {hint}")
        return found


class GeneratedVectors:
    """Runs of a model, generated when they are needed and again in each pass; nothing is written.

    Args:
        capture: what is taken.

    Raises:
        UserError: if the model cannot be loaded.
    """

    ahead = False  # generating and training would take each other's processor

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.model = capture.load()

    def units(self) -> Sequence[Mapping[str, int]]:
        """See :class:`Vectors`."""
        each = {site: self.capture.steps * self.capture.positions(site) for site in self.capture.sites}
        return [each] * len(self.capture.prompted)

    def read(self, units: Sequence[int]) -> dict[str, Tensor]:
        """See :class:`Vectors`.

        Raises:
            UserError: if a value is not finite.
        """
        return half_vectors(self.model, self.capture, [self.capture.prompted[number] for number in units])


class Portions:
    """A stream in portions of about ``settings.buffer`` vectors; each is shuffled whole.

    The order of units and of vectors follows from the seed and the pass alone, so training goes on anywhere. What is
    left of a portion after its last whole batch, less than a batch, is not used in that pass.

    Args:
        stream: where the vectors come from.
        settings: batch, buffer and seed.

    Raises:
        UserError: if all vectors are fewer than a batch.
    """

    def __init__(self, stream: Vectors, settings: SAESettings) -> None:
        self.stream = stream
        self.settings = settings
        self.sizes = stream.units()
        fewest = min(sum(unit[site] for unit in self.sizes) for site in self.sizes[0])
        if fewest < settings.batch:
            raise UserError(
                f"there are {fewest} vectors, a batch takes {settings.batch}; collect more, or lower --batch"
            )

    def order(self, round_: int) -> list[list[int]]:
        """The portions of a pass as lists of units."""
        generator = torch.Generator().manual_seed(self._seed(round_, 0))
        portions: list[list[int]] = [[]]
        held = 0
        for unit in torch.randperm(len(self.sizes), generator=generator).tolist():
            if held >= max(self.settings.buffer, self.settings.batch):
                portions.append([])
                held = 0
            portions[-1].append(unit)
            held += min(self.sizes[unit].values())
        if held < self.settings.batch and len(portions) > 1:
            portions[-2:] = [portions[-2] + portions[-1]]
        return portions

    def batches_in_round(self, round_: int = 0) -> int:
        """Batches that one pass gives each site."""
        return sum(self._batches(portion) for portion in self.order(round_))

    def batches(self, place: Place) -> Iterator[tuple[Place, dict[str, Tensor]]]:
        """Batches without end: the place after each, and site to vectors ``[batch, width]`` in half precision."""
        numbered = self._from(place)
        position, units = next(numbered)
        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(self.stream.read, units) if self.stream.ahead else None
            while True:
                vectors = coming.result() if coming else self.stream.read(units)
                now, count = position, self._batches(units)
                position, units = next(numbered)
                coming = reader.submit(self.stream.read, units) if self.stream.ahead else None
                orders = {site: self._shuffled(now, len(rows)) for site, rows in vectors.items()}
                for batch in range(now.batch, count):
                    part = slice(batch * self.settings.batch, (batch + 1) * self.settings.batch)
                    after = Place(now.round, now.portion, batch + 1)
                    yield after, {site: rows[orders[site][part]] for site, rows in vectors.items()}

    def sample(self, count: int) -> dict[str, Tensor]:
        """Site to ``count`` vectors, or all there are, from the first units of the first pass."""
        chosen: list[int] = []
        for unit in (unit for portion in self.order(0) for unit in portion):
            chosen.append(unit)
            if sum(min(self.sizes[u].values()) for u in chosen) >= count:
                break
        return {site: rows[:count].float() for site, rows in self.stream.read(chosen).items()}

    def _from(self, place: Place) -> Iterator[tuple[Place, list[int]]]:
        """Portions without end, the first from within."""
        while True:
            order = self.order(place.round)
            for number in range(place.portion, len(order)):
                yield Place(place.round, number, place.batch), order[number]
                place = Place(place.round, number)
            place = Place(place.round + 1)

    def _batches(self, units: Sequence[int]) -> int:
        """Whole batches that a portion gives every site."""
        return min(sum(self.sizes[u][site] for u in units) for site in self.sizes[0]) // self.settings.batch

    def _shuffled(self, place: Place, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(self._seed(place.round, place.portion + 1))
        return torch.randperm(count, generator=generator)

    def _seed(self, round_: int, number: int) -> int:
        return (self.settings.shuffle_seed << 40) + (round_ << 24) + number
