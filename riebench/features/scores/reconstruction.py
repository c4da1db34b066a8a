"""How well codes rebuild values: explained variance, normalised error, and codes of adjacent steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from riebench.features.scores.estimate import Array, Estimate, one_minus, ratio_estimate


@dataclass(frozen=True)
class SquareSums:
    """Sums over the positions of each picture and step, from which every share of variance follows.

    Attributes:
        error: of ``|x - x'|^2`` ``[pictures, steps]``.
        square: of ``|x|^2`` ``[pictures, steps]``.
        total: of ``x`` ``[pictures, steps, d]``.
        positions: number of positions.
    """

    error: Array
    square: Array
    total: Array
    positions: int

    def at_step(self, step: int) -> SquareSums:
        """The sums of one step alone."""
        part = slice(step, step + 1)
        return SquareSums(self.error[:, part], self.square[:, part], self.total[:, part], self.positions)


def explained_share(sums: SquareSums) -> Estimate:
    """``1 - sum |x - x'|^2 / sum |x - mean x|^2``, the mean over all vectors; interval over pictures."""
    return one_minus(ratio_estimate(sums.error.sum(1), spread_around_mean(sums)))


def spread_around_mean(sums: SquareSums) -> Array:
    """Sum of ``|x - mean x|^2`` of each picture ``[pictures]``: ``sum |x|^2 - 2 m sum x + count |m|^2``."""
    pictures, steps = sums.error.shape
    total = np.asarray(sums.total, float).sum(1)
    mean = total.sum(0) / (pictures * steps * sums.positions)
    spread = np.asarray(sums.square, float).sum(1) - 2 * total @ mean + steps * sums.positions * mean @ mean
    return np.maximum(spread, 0)


def normalised_error(sums: SquareSums) -> Estimate:
    """``sum |x - x'|^2 / sum |x|^2``: the error against that of writing nothing; interval over pictures."""
    return ratio_estimate(sums.error.sum(1), sums.square.sum(1))


def code_overlap(codes: Array) -> tuple[Array, Array]:
    """Likeness of the codes ``[steps, positions, n]`` of adjacent steps, each ``[steps - 1]``, a mean over positions.

    Cosine similarity, and intersection over union of the active features; positions where either is undefined (no
    active feature) are left out.
    """
    codes, following = codes[:-1], codes[1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (codes * following).sum(-1) / (np.linalg.norm(codes, axis=-1) * np.linalg.norm(following, axis=-1))
        both, either = ((codes > 0) & (following > 0)).sum(-1), ((codes > 0) | (following > 0)).sum(-1)
        shared = both / either
    return _mean_defined(cosine), _mean_defined(shared)


def _mean_defined(values: Array) -> Array:
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(defined, values, 0).sum(1) / defined.sum(1))
