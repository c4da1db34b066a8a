"""The scores of dictionaries as closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from riebench.features.scores.causality import (
    appeared,
    change_ratio,
    clip_causality,
    pixel_change,
    share_kept,
    vanished,
)
from riebench.features.scores.estimate import mean_estimate, one_minus, rank_correlation, ratio_estimate
from riebench.features.scores.interpretability import (
    active_share,
    auroc,
    best_thresholds,
    captions_naming,
    detect,
    f1_gain,
    mean_similarity,
    specificity,
    top_pictures,
    truths_of,
)
from riebench.features.scores.reconstruction import SquareSums, code_overlap, explained_share, normalised_error


def sums_of(x: np.ndarray, rebuilt: np.ndarray) -> SquareSums:
    """Of values ``[pictures, steps, positions, d]``."""
    return SquareSums(((x - rebuilt) ** 2).sum((2, 3)), (x**2).sum((2, 3)), x.sum(2), x.shape[2])


def test_explained_variance_and_error_are_those_of_all_vectors(rng: np.random.Generator) -> None:
    x = rng.normal(3, 2, (5, 2, 7, 4))
    rebuilt = x + rng.normal(0, 0.5, x.shape)
    flat, error = x.reshape(-1, 4), ((x - rebuilt) ** 2).sum()
    sums = sums_of(x, rebuilt)
    found = explained_share(sums)
    assert found.value == pytest.approx(1 - error / ((flat - flat.mean(0)) ** 2).sum())
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high
    assert normalised_error(sums).value == pytest.approx(error / (x**2).sum())
    one = x[:, 1].reshape(-1, 4)
    error = ((x - rebuilt)[:, 1] ** 2).sum()
    assert explained_share(sums.at_step(1)).value == pytest.approx(1 - error / ((one - one.mean(0)) ** 2).sum())
    assert explained_share(sums_of(x, np.broadcast_to(flat.mean(0), x.shape))).value == pytest.approx(0, abs=1e-9)


def test_codes_of_adjacent_steps() -> None:
    codes = np.array([[[1.0, 0, 0], [3, 4, 0]], [[2, 0, 0], [3, 0, 4]], [[0, 0, 0], [3, 0, 4]]])
    cosine, shared = code_overlap(codes)
    # Position 0: 1, then undefined; position 1: 9 / 25, then 1. Active in both: 1 of 1 and 1 of 3, then 0 and 2 of 2.
    assert cosine.tolist() == pytest.approx([(1 + 9 / 25) / 2, 1])
    assert shared.tolist() == pytest.approx([(1 + 1 / 3) / 2, 0.5])


def test_undefined_is_none_and_no_part_of_a_mean() -> None:
    assert mean_estimate(np.array([np.nan, np.nan])) == (None, None, None, 0)
    assert mean_estimate(np.array([])) == (None, None, None, 0)
    found = mean_estimate(np.array([1.0, np.nan, 3.0]))
    assert (found.value, found.units) == (2, 2)
    assert mean_estimate(np.array([2.0, 2.0])) == (2, None, None, 2)
    assert ratio_estimate(np.array([1.0]), np.array([0.0])).value is None
    assert one_minus(ratio_estimate(np.array([1.0, 1.0]), np.array([2.0, 6.0]))).value == 0.75
    assert rank_correlation(np.array([1.0, 2, 3, 4]), np.array([1.0, 4, 9, 16])).value == pytest.approx(1)
    assert rank_correlation(np.array([1.0, 1, 1]), np.array([1.0, 2, 3])).value is None


def test_resamples_that_are_all_the_same_give_no_interval() -> None:
    assert rank_correlation(np.arange(3.0), np.arange(3.0)) == (1, None, None, 3)
    assert ratio_estimate(np.array([0.1, 0.2, 0.3]), np.array([0.3, 0.6, 0.9])) == (pytest.approx(1 / 3), None, None, 3)


def test_specificity_of_two_kinds_of_pictures() -> None:
    embeddings = np.repeat(np.eye(2), 10, axis=0)  # ten pictures of each kind
    highest = np.zeros((20, 3))
    highest[:10, 0] = np.arange(1, 11)  # only in the first kind
    highest[::2, 1] = 1  # in both kinds evenly
    tops = top_pictures(highest, seed=0)
    assert tops[0].tolist() == list(range(10))
    assert len(tops[2]) == 0
    random = 2 * 90 / 380
    assert mean_similarity(embeddings) == pytest.approx(random)
    found = specificity(embeddings, tops)
    assert found[0] == pytest.approx(1 - random)
    assert found[1] == pytest.approx(2 * 20 / 90 - random)
    assert np.isnan(found[2])


def test_top_pictures_are_drawn_from_the_top_share() -> None:
    highest = np.arange(400.0)[:, None]
    (top,) = top_pictures(highest, seed=0)
    assert len(top) == 10
    assert top.min() >= 380
    assert not np.array_equal(top, top_pictures(highest, seed=1)[0])


def test_the_best_threshold_by_hand() -> None:
    activation = np.array([[5.0, 0], [4, 0], [4, 0], [1, 0], [0, 0]])
    labels = np.array([[1], [1], [0], [0], [0]], bool)
    f1, threshold = best_thresholds(activation, labels)
    # Above 4.5: 1 of 1, of 2: 2/3. Above 2.5, the tie taken whole: 2 of 3, of 2: 4/5.
    assert f1[:, 0].tolist() == pytest.approx([0.8, 0])
    assert threshold[0, 0] == 2.5
    assert np.isinf(threshold[1, 0])


def test_auroc_counts_ties_one_half_and_leaves_unknown_out() -> None:
    activation = np.array([[3.0], [2], [2], [1], [9]])
    labels = np.array([[1], [1], [0], [0], [0]], bool)
    known = np.array([[1], [1], [1], [1], [0]], bool)
    assert auroc(activation, labels, known)[0] == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert np.isnan(auroc(activation, labels & False, known)[0])


def test_the_gain_of_always_saying_yes_is_nothing() -> None:
    assert f1_gain(np.array([2 / 3, 1.0]), np.array([0.5, 0.1])).tolist() == pytest.approx([0, 1])
    assert np.isnan(f1_gain(np.array([1.0]), np.array([1.0]))[0])


def test_detection_chooses_on_one_half_and_reports_the_other(rng: np.random.Generator) -> None:
    shown = [{"colour": str(rng.choice(["red", "blue"])), "size": "big"} for _ in range(200)]
    for picture in shown[::5]:
        del picture["colour"]  # not to be seen there
    truths = truths_of(shown, {"colour": ("red", "blue"), "size": ("big",)})
    red = np.array([s.get("colour") == "red" for s in shown], float)
    blue = np.array([s.get("colour") == "blue" for s in shown], float)
    first = np.arange(200) % 2 == 0
    turned = np.where(first, blue, red)  # blue on the threshold half alone
    whole = np.stack([red * 2, rng.random(200), turned, np.zeros(200)], 1)
    inside = np.stack([rng.random(200), blue * 3, np.zeros(200), np.zeros(200)], 1)
    found = detect([whole, inside], truths, first)
    assert found.value[:3].tolist() == [0, 1, 1]
    assert found.where[:3].tolist() == [0, 1, 0]
    assert found.f1.tolist() == [1, 1, 0, 0]
    assert found.area[:3].tolist() == [1, 1, 0]
    assert found.threshold[:2].tolist() == [1, 1.5]
    assert found.detector[0] == 0
    assert found.detector[1] in (1, 2)
    assert found.coverage[0] == 1


def test_sensitivity_by_hand() -> None:
    share = np.array([[0.5], [0.05], [0.2], [0.0]])
    named = np.array([[1], [1], [0], [0]], bool)
    inside, outside = active_share(share, named, np.ones((4, 1), bool), 0.1)
    assert (inside[0], outside[0]) == (0.5, 0.5)
    assert np.isnan(active_share(share, named & False, np.ones((4, 1), bool), 0.1)[0][0])
    named = captions_naming(["A Red heart", "a hundred", "redheart"], ["red", "a"])
    assert named.tolist() == [[True, True], [False, True], [False, False]]


def test_causality_against_other_features() -> None:
    similarity = np.array([[0.9, 0.1, 0.3], [0.2, 0.2, 0.2], [0.5, 0.1, 0.4]])
    assert clip_causality(similarity, [0, 1]).tolist() == pytest.approx([0.9 - 0.1, 0, 0.4 - 0.3])
    assert np.isnan(clip_causality(similarity[:1, :1], [0])[0])


def test_outcomes_of_an_edit() -> None:
    before = {"colour": "red", "shape": "star", "style": "flat"}
    after = {"colour": "blue", "shape": "star"}
    assert appeared(before, after, "colour", "blue") == 1
    assert appeared(before, after, "colour", "green") == 0
    assert np.isnan(appeared(before, after, "colour", "red"))
    assert vanished(before, after, "colour", "red") == 1
    assert vanished(before, after, "shape", "star") == 0
    assert np.isnan(vanished(before, after, "shape", "heart"))
    assert share_kept(before, after, without="colour") == 0.5
    assert share_kept(before, before) == 1


def test_change_inside_over_outside() -> None:
    base, edited = (np.zeros((2, 2, 3), np.uint8) for _ in range(2))
    edited[0, 0], edited[1, 1] = 255, 51
    inside = np.array([[True, False], [False, False]])
    assert pixel_change(base, edited)[1, 1] == pytest.approx(0.2)
    assert change_ratio(base, edited, inside) == pytest.approx(1 / (0.2 / 3))
    assert np.isnan(change_ratio(base, edited, np.ones((2, 2), bool)))
    assert np.isnan(change_ratio(base, base, inside))
