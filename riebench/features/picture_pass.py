"""One pass over generated pictures for any number of dictionaries: what their features do, and sums for all scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from riebench.features.scores.estimate import Array
from riebench.features.scores.reconstruction import SquareSums, code_overlap
from riebench.masks.region import Mask
from riebench.models.model import Model
from riebench.models.sae_sites import read_site
from riebench.prompts import Prompted
from riebench.sae.dictionary import Dictionary, rebuilt
from riebench.util.errors import UserError
from riebench.util.progress import Track

LARGEST = torch.finfo(torch.half).max
"""Codes are kept in half precision."""
Area = Callable[[int, str], Mask]
"""Number of a picture and a site to the object's cells ``[positions]`` there."""
Watch = Callable[[int, str, Tensor, Tensor, Tensor], None]
"""Is given the number of a picture, the name of a dictionary, the values ``[steps, positions, d]`` at its site, those
that it encodes, and their codes ``[steps, positions, n]``."""


@dataclass(frozen=True)
class Activity:
    """The activity of each feature in each picture, over all its positions and steps; ``[pictures, n]``, on the CPU.

    Attributes:
        highest: the largest code.
        share: share of the positions at which the code is above zero.
        mean: mean over all positions of the codes above zero, the rest counting as 0; over ``share`` it is that of the
            active ones.
    """

    highest: Tensor
    share: Tensor
    mean: Tensor


def generate_and_encode(
    model: Model,
    dictionaries: Mapping[str, tuple[str, Dictionary]],
    prompted: Sequence[Prompted],
    steps: int = 1,
    track: Track = iter,
    watch: Watch | None = None,
) -> tuple[list[NDArray[np.uint8]], dict[str, Activity]]:
    """Generate a picture for each prompt and encode its values with every dictionary.

    Args:
        model: the model.
        dictionaries: name to the site and its dictionary.
        prompted: prompts and seeds.
        steps: denoising steps.
        track: shows how far the pictures are.
        watch: see :data:`Watch`.

    Returns:
        The pictures ``[height, width, 3]``, and the name of each dictionary to what its features do in them.
    """
    sites = {at for site, dictionary in dictionaries.values() for at in (site, read_site(site, dictionary))}
    images: list[NDArray[np.uint8]] = []
    rows: dict[str, list[list[Tensor]]] = {name: [[], [], []] for name in dictionaries}
    runs = model.runs(prompted, steps, sites)
    with torch.no_grad():
        for _ in track(range(len(prompted))):
            run = next(runs)
            images.append(run.image)
            for name, (site, dictionary) in dictionaries.items():
                read = run.values[read_site(site, dictionary)].float()
                codes = dictionary.encode(read)
                if watch is not None:
                    watch(len(images) - 1, name, run.values[site].float(), read, codes)
                codes = codes.flatten(0, -2)
                measures = codes.amax(0), (codes > 0).float().mean(0), codes.clamp(min=0).mean(0)
                for kept, value in zip(rows[name], measures, strict=True):
                    kept.append(value.half().cpu())
    activity = {name: Activity(*(torch.stack(kept).float() for kept in three)) for name, three in rows.items()}
    return images, activity


@dataclass
class Observations:
    """Sums over the values and codes of each picture, added up as the pictures pass.

    Its call is a :data:`Watch`.

    Attributes:
        dictionaries: name to the site and its dictionary.
        area: where the object is, if that is known.
    """

    dictionaries: Mapping[str, tuple[str, Dictionary]]
    area: Area | None
    _errors: dict[str, list[Array]] = field(default_factory=dict)
    _inside: dict[str, list[Tensor]] = field(default_factory=dict)
    _overlaps: dict[str, list[tuple[Array, Array]]] = field(default_factory=dict)
    _squares: dict[str, list[Array]] = field(default_factory=dict)
    _totals: dict[str, list[Array]] = field(default_factory=dict)
    _positions: dict[str, int] = field(default_factory=dict)

    def __call__(self, number: int, name: str, values: Tensor, read: Tensor, codes: Tensor) -> None:
        """See :data:`Watch`.

        Raises:
            UserError: if a value, a code or a reconstruction is not finite, or a code does not fit half precision.
        """
        site, dictionary = self.dictionaries[name]
        if len(self._squares.setdefault(site, [])) == number:
            self._add_values(site, number, values)
        if not bool(codes.isfinite().all()):
            raise UserError(f"a dictionary at {site} gives codes that are not finite on picture {number}; check it")
        if float(codes.max()) > LARGEST:
            raise UserError(
                f"a dictionary at {site} gives codes above {LARGEST:g} on picture {number}; make its codes smaller and "
                "its directions larger"
            )
        error = (values - rebuilt(dictionary, read, codes)).square().sum((1, 2))
        if not bool(error.isfinite().all()):
            raise UserError(
                f"a dictionary at {site} rebuilds picture {number} with numbers that are not finite; check it"
            )
        self._errors.setdefault(name, []).append(error.double().cpu().numpy())
        if self.area is not None:
            inside = torch.from_numpy(self.area(number, site)).to(codes.device)
            self._inside.setdefault(name, []).append(codes[:, inside].amax((0, 1)).half().cpu())
        if len(codes) > 1:
            self._overlaps.setdefault(name, []).append(code_overlap(codes.float().cpu().numpy()))

    def _add_values(self, site: str, number: int, values: Tensor) -> None:
        if not bool(values.isfinite().all()):
            raise UserError(f"the values at {site} of picture {number} are not finite; check the model's weights")
        self._positions[site] = values.shape[1]
        self._squares[site].append(values.double().square().sum((1, 2)).cpu().numpy())
        self._totals.setdefault(site, []).append(values.sum(1).cpu().numpy())

    def sums(self, name: str) -> SquareSums:
        """Sums of squares of a dictionary's reconstruction."""
        site, _ = self.dictionaries[name]
        total = np.stack(self._totals[site])
        return SquareSums(np.stack(self._errors[name]), np.stack(self._squares[site]), total, self._positions[site])

    def norm(self, site: str) -> float:
        """Root mean square norm of the values at a site."""
        return float(np.sqrt(np.mean(self._squares[site]) / self._positions[site]))

    def inside(self, name: str) -> Array | None:
        """Largest code inside the object ``[pictures, n]``; None where it is not known where that is."""
        return torch.stack(self._inside[name]).float().numpy() if name in self._inside else None

    def overlaps(self, name: str) -> tuple[Array, Array] | None:
        """Cosine similarity and IoU of the codes of adjacent steps ``[pictures, steps - 1]``; None for one step."""
        if name not in self._overlaps:
            return None
        cosine, shared = zip(*self._overlaps[name], strict=True)
        return np.stack(cosine), np.stack(shared)


def joined(parts: Sequence[Array]) -> Array:
    """Features of several dictionaries side by side: ``[pictures, n]`` each to ``[pictures, sum n]``."""
    return np.concatenate(parts, 1)
