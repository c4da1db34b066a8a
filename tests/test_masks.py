"""Masks: phrases, categories, and the way to a grid, against the published rules by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from riebench.masks import MaskRules, Region, ground, pair_regions, to_grid
from riebench.masks.grid import grow, lanczos_matrix
from riebench.masks.user_masks import regions_of_user_masks
from riebench.pairs import Pair
from riebench.util.errors import PairError

IMAGE = np.zeros((64, 64, 3), np.uint8)
PAIR = Pair(
    id="p",
    editing_type_id=8,
    original_prompt="a duck",
    editing_prompt="a hat",
    original_gsam_prompt="~duck",
    editing_gsam_prompt="hat",
)


def grid_by_hand(instances: NDArray[np.bool_], cells: int, kernel: int) -> NDArray[np.bool_]:
    """Instances ``[n, height, width]`` on a grid of ``cells x cells``, as PROTOCOL.md says, pixel by pixel."""

    def lanczos(distance: float) -> float:
        return float(np.sinc(distance) * np.sinc(distance / 4))

    def taps(cell: int, size: int) -> list[tuple[int, float]]:
        centre = (cell + 0.5) * size / cells - 0.5
        first = int(centre) - 3
        return [(min(max(tap, 0), size - 1), lanczos(tap - centre)) for tap in range(first, first + 8)]

    reach = kernel // 2
    union = np.zeros((cells, cells), bool)
    for instance in instances:
        wide = np.zeros_like(instance)
        for y, x in np.argwhere(instance):
            wide[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1] = True
        for i, j in product(range(cells), repeat=2):
            pixels = product(taps(i, wide.shape[0]), taps(j, wide.shape[1]))
            union[i, j] |= sum(a * b * wide[y, x] for (y, a), (x, b) in pixels) > 1e-9
    return union


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


def test_blur_above_zero_is_a_dilation() -> None:
    mask = np.zeros((70, 80), bool)
    mask[[0, 33, 35], [3, 40, 60]] = True  # far apart and far from an edge, so that one pixel more is seen
    weights = np.exp(-(np.arange(-15, 16) ** 2) / 2 / (31 / 6) ** 2)
    blurred = mask.astype(float)
    for axis in (0, 1):
        blurred = correlate1d(blurred, weights / weights.sum(), axis=axis, mode="constant")
    assert np.array_equal(grow(mask, 31), blurred > 0)


@pytest.mark.parametrize("kernel", [1, 3, 15, 31])
def test_a_mask_grows_by_half_the_kernel_and_not_by_a_pixel_more(kernel: int) -> None:
    mask = np.zeros((50, 60), bool)
    mask[20:22, 30] = True
    reach = (kernel - 1) // 2
    expected = np.zeros_like(mask)
    expected[20 - reach : 22 + reach, 30 - reach : 31 + reach] = True
    assert np.array_equal(grow(mask, kernel), expected)


def test_lanczos_rows_sum_to_one_and_sample_the_centre() -> None:
    matrix = lanczos_matrix(4, 64)
    assert matrix.sum(1) == pytest.approx(np.ones(4))
    # The centre of the first cell of 16 pixels lies between pixels 7 and 8; eight pixels around it count.
    assert np.flatnonzero(np.abs(matrix[0]) > 1e-12).tolist() == list(range(4, 12))
    assert matrix[0, 7] == pytest.approx(matrix[0, 8])


def test_grid_by_hand() -> None:
    mask = np.zeros((1, 64, 64), bool)
    mask[0, 0:16, 16:32] = True  # exactly one cell of 16 pixels
    one = to_grid(Region(mask), 4, 4, MaskRules(blur_kernel=1))
    assert one.tolist() == [[j == 1 and i == 0 for j in range(4)] for i in range(4)]
    # Grown by 7 pixels it reaches the eight pixels around the next centres, which lie 8 away.
    grown = to_grid(Region(mask), 4, 4, MaskRules(blur_kernel=15))
    assert grown[0, 1]
    assert not grown[3].any()


def test_tiny_masks_get_their_largest_cell() -> None:
    mask = np.zeros((1, 64, 64), bool)
    mask[0, 30:33, 0:2] = True
    grid = to_grid(Region(mask), 4, 4, MaskRules(blur_kernel=1))
    assert np.argwhere(grid).tolist() == [[1, 0]]


def test_instances_go_to_the_grid_alone_then_unite() -> None:
    masks = np.zeros((2, 64, 64), bool)
    masks[0, 2:14, 2:14] = True
    masks[1, 50:62, 50:62] = True
    rules = MaskRules(blur_kernel=3)
    both = to_grid(Region(masks), 4, 4, rules)
    first, second = (to_grid(Region(masks[i : i + 1]), 4, 4, rules) for i in range(2))
    assert np.array_equal(both, first | second)
    assert to_grid(Region(np.ones((1, 64, 64), bool)), 4, 4, rules).all()


def test_pixels_of_a_region() -> None:
    masks = np.zeros((2, 3, 4), bool)
    masks[0, 0, 1] = masks[1, 2, 3] = True
    assert np.argwhere(Region(masks).pixels()).tolist() == [[0, 1], [2, 3]]
    assert np.array_equal(Region(masks, complement=True).pixels(), ~Region(masks).pixels())
    assert not Region(masks[:0]).pixels().any()


@pytest.mark.parametrize("phrase", ["the background", "~duck", " ~ duck "])
@pytest.mark.parametrize("kernel", [1, 7, 31])
def test_a_complement_is_taken_on_the_grid(phrase: str, kernel: int) -> None:
    class TwoDucks(Fixed):
        def find(self, image: NDArray[np.uint8], phrase: str) -> NDArray[np.bool_]:
            return np.concatenate([Fixed(left).find(image, phrase) for left in (5, 48)])

    region = ground(TwoDucks(), IMAGE, phrase)
    grid = to_grid(region, 8, 8, MaskRules(blur_kernel=kernel))
    assert np.array_equal(grid, ~grid_by_hand(TwoDucks().find(IMAGE, "duck"), 8, kernel))
    assert not grid[3, 1]  # in a duck
    assert np.array_equal(region.pixels(), ~TwoDucks().find(IMAGE, "duck").any(0))
    # Taken in pixels, the complement would overlap the ducks.
    in_pixels = to_grid(Region(region.pixels()[np.newaxis]), 8, 8, MaskRules(blur_kernel=kernel))
    assert np.array_equal(in_pixels, grid_by_hand(region.pixels()[np.newaxis], 8, kernel))
    assert (in_pixels & ~grid).any()


def test_the_complement_of_instances_united_before_the_grid() -> None:
    apart = np.zeros((2, 64, 64), bool)
    apart[0, 33, 33], apart[1, 0:32, 0:32] = True, True
    rules = MaskRules(blur_kernel=1, union="before")
    grid = to_grid(Region(apart, complement=True), 4, 4, rules)
    assert np.array_equal(grid, ~grid_by_hand(apart.any(0)[np.newaxis], 4, 1))
    assert grid[2, 2]  # the one pixel of the first instance is lost in the union


def test_a_grid_without_a_cell_is_an_error_of_the_pair() -> None:
    nothing, whole = np.zeros((2, 64, 64), bool), np.ones((1, 64, 64), bool)
    nearly = whole.copy()
    nearly[0, :14] = nearly[0, 50:] = False  # not in pixels, but grown it fills the grid
    for full in (whole, nearly):
        with pytest.raises(PairError, match="leaves no cell for its complement on the grid of 4 x 6") as caught:
            to_grid(Region(full, complement=True), 4, 6, MaskRules())
        assert caught.value.where == "masks"
    for empty in (nothing, nothing[:0]):
        with pytest.raises(PairError, match="the mask has no cell on the grid of 4 x 4"):
            to_grid(Region(empty), 4, 4, MaskRules())


def test_special_phrases() -> None:
    everything = ground(Fixed(), IMAGE, " #everything ")
    assert everything.pixels().all()
    assert to_grid(everything, 4, 4, MaskRules()).all()
    for phrase in ("the background", "~duck"):
        region = ground(Fixed(), IMAGE, phrase)
        assert region.complement
        assert np.array_equal(region.instances, Fixed().find(IMAGE, "duck"))
    assert not ground(Fixed(), IMAGE, "duck").complement


@pytest.mark.parametrize(
    ("phrase", "message"),
    [
        ("marmot", "finds no 'marmot' in the picture$"),
        ("~marmot", "finds no 'marmot' in the picture, so there is no '~marmot'"),
        ("~", "finds no '' in the picture"),
    ],
)
def test_a_phrase_that_is_not_found_is_an_error_of_the_pair(phrase: str, message: str) -> None:
    with pytest.raises(PairError, match=message) as caught:
        ground(Fixed(), IMAGE, phrase)
    assert caught.value.where == "masks"


def test_a_background_without_a_foreground_is_an_error_of_the_pair() -> None:
    class Blind(Fixed):
        def find(self, image: NDArray[np.uint8], phrase: str) -> NDArray[np.bool_]:
            return np.zeros((0, 64, 64), bool)

    with pytest.raises(PairError, match="finds no 'foreground' in the picture, so there is no 'background'"):
        ground(Blind(), IMAGE, "background")
    with pytest.raises(PairError, match=r"finds no 'background' in the picture$"):
        ground(Blind(), IMAGE, "background", special=False)


@pytest.mark.parametrize("category", range(1, 10))
def test_masks_by_category(category: int) -> None:
    class ByPicture(Fixed):
        def find(self, image: NDArray[np.uint8], phrase: str) -> NDArray[np.bool_]:
            return Fixed(left=40 if image.any() else 10).find(image, phrase)

    base, source = IMAGE, IMAGE + np.uint8(1)
    pair = PAIR.model_copy(
        update={"editing_type_id": category, "original_gsam_prompt": "duck", "editing_gsam_prompt": "hat"}
    )
    found_source, found_base = pair_regions(ByPicture(), MaskRules(), pair, base, source)
    hat, duck = Fixed().find(IMAGE, "hat"), Fixed(left=10).find(IMAGE, "duck")
    assert np.array_equal(found_source.instances, duck if category == 3 else hat)
    assert np.array_equal(found_base.instances, hat if category == 2 else duck)


def test_given_masks_become_regions() -> None:
    left = np.zeros((64, 64), bool)
    left[:, :20] = True
    pair = PAIR.model_copy(update={"id": "a"})
    for given in ({"a": (left, np.stack([left, ~left]))}, lambda *_: (left, np.stack([left, ~left]))):
        source, base = regions_of_user_masks(given)(pair, IMAGE, IMAGE)
        assert np.array_equal(source.instances, left[np.newaxis])
        assert np.array_equal(base.instances, [left, ~left])
        assert not source.complement
    for wrong, message in (
        ({}, "no masks were given for the pair 'a'"),
        ({"a": (left,)}, "1 masks were given"),
        ({"a": (left, left[:10])}, r"expected bool and \[64, 64\]"),
        ({"a": (left, left & ~left)}, "a mask is empty"),
    ):
        with pytest.raises(PairError, match=message):
            regions_of_user_masks(wrong)(pair, IMAGE, IMAGE)


def test_regions_of_a_pairs_phrases() -> None:
    source, base = pair_regions(Fixed(), MaskRules(), PAIR, IMAGE, IMAGE)
    assert np.array_equal(source.instances, Fixed().find(IMAGE, "hat"))
    assert np.array_equal(base.pixels(), ~Fixed().find(IMAGE, "duck")[0])
