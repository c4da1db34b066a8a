"""Masks: phrases, categories, and the way to a grid, against the published rules by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from riebench.masks import ground, pair_instances, to_grid
from riebench.masks.grid import grow, lanczos_matrix
from riebench.util.errors import PairError

IMAGE = np.zeros((64, 64, 3), np.uint8)


class Fixed:
    """Knows where three things are."""

    name = "fixed"
    fingerprint = "0"

    def __init__(self, left: int = 10) -> None:
        self.left = left

    def find(self, image: NDArray[np.uint8], phrase: str) -> NDArray[np.bool_]:
        mask = np.zeros((1, 64, 64), bool)
        if phrase in ("duck", "foreground"):
            mask[0, 20:30, self.left : self.left + 10] = True
            return mask
        if phrase == "hat":
            mask[0, 0:5, 0:5] = True
            return mask
        return mask[:0]


def test_blur_above_zero_is_a_dilation(rng: np.random.Generator) -> None:
    mask = rng.random((40, 50)) > 0.99
    weights = np.exp(-(np.arange(-15, 16) ** 2) / 2 / (31 / 6) ** 2)
    blurred = mask.astype(float)
    for axis in (0, 1):
        blurred = correlate1d(blurred, weights / weights.sum(), axis=axis, mode="constant")
    assert np.array_equal(grow(mask, 31), blurred > 0)


def test_lanczos_rows_sum_to_one_and_sample_the_centre() -> None:
    matrix = lanczos_matrix(4, 64)
    assert matrix.sum(1) == pytest.approx(np.ones(4))
    # The centre of the first cell of 16 pixels lies between pixels 7 and 8; eight pixels around it count.
    assert np.flatnonzero(np.abs(matrix[0]) > 1e-12).tolist() == list(range(4, 12))
    assert matrix[0, 7] == pytest.approx(matrix[0, 8])


def test_grid_by_hand() -> None:
    mask = np.zeros((1, 64, 64), bool)
    mask[0, 0:16, 16:32] = True  # exactly one cell of 16 pixels
    assert to_grid(mask, 4, 4, kernel=1).tolist() == [[j == 1 and i == 0 for j in range(4)] for i in range(4)]
    # Grown by 7 pixels it reaches the eight pixels around the next centres, which lie 8 away.
    grown = to_grid(mask, 4, 4, kernel=15)
    assert grown[0, 1]
    assert not grown[3].any()


def test_tiny_masks_get_their_largest_cell() -> None:
    mask = np.zeros((1, 64, 64), bool)
    mask[0, 30:33, 0:2] = True
    grid = to_grid(mask, 4, 4, kernel=1)
    assert np.argwhere(grid).tolist() == [[1, 0]]


def test_instances_go_to_the_grid_alone_then_unite() -> None:
    masks = np.zeros((2, 64, 64), bool)
    masks[0, 2:14, 2:14] = True
    masks[1, 50:62, 50:62] = True
    both = to_grid(masks, 4, 4, kernel=3)
    assert np.array_equal(both, to_grid(masks[:1], 4, 4, kernel=3) | to_grid(masks[1:], 4, 4, kernel=3))
    assert not to_grid(np.zeros((1, 64, 64), bool), 4, 4).any()
    assert to_grid(np.ones((1, 64, 64), bool), 4, 4).all()


def test_special_phrases() -> None:
    duck = Fixed().find(IMAGE, "duck")[0]
    assert ground(Fixed(), IMAGE, "#everything").all()
    assert np.array_equal(ground(Fixed(), IMAGE, "the background")[0], ~duck)
    assert np.array_equal(ground(Fixed(), IMAGE, "~duck")[0], ~duck)
    with pytest.raises(PairError, match="finds no 'marmot'"):
        ground(Fixed(), IMAGE, "marmot")


@pytest.mark.parametrize("category", range(1, 10))
def test_masks_by_category(category: int) -> None:
    class ByPicture(Fixed):
        def find(self, image: NDArray[np.uint8], phrase: str) -> NDArray[np.bool_]:
            return Fixed(left=40 if image.any() else 10).find(image, phrase)

    base, source = IMAGE, IMAGE + np.uint8(1)
    found_source, found_base = pair_instances(ByPicture(), category, base, source, "duck", "hat")
    hat, duck = Fixed().find(IMAGE, "hat"), Fixed(left=10).find(IMAGE, "duck")
    assert np.array_equal(found_source, duck if category == 3 else hat)
    assert np.array_equal(found_base, hat if category == 2 else duck)
