"""Does a feature mean one thing? Similarity of its top pictures, detection of true values, activity where named."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from riebench.features.scores.estimate import Array

TOP_SHARE, DRAWN = 0.05, 10
AREAS = (0.01, 0.1, 0.3)
"""The shares of the picture's positions on which a feature has to be active."""
CHUNK = 256  # features whose thresholds are tried at once
Flags = NDArray[np.bool_]
Indices = NDArray[np.intp]


def top_pictures(highest: Array, seed: int, share: float = TOP_SHARE, drawn: int = DRAWN) -> list[Indices]:
    """For each feature the pictures that stand for it, drawn from those in which it is most active.

    Args:
        highest: largest code in each picture ``[pictures, n]``.
        seed: of the draw.
        share: share of all pictures that are drawn from, but at least ``drawn`` pictures.
        drawn: pictures drawn at most; those in which the feature is not active are left out.
    """
    pictures, features = highest.shape
    top = min(pictures, max(drawn, int(np.ceil(share * pictures))))
    order = np.argsort(-highest, axis=0, kind="stable")[:top]
    rng = np.random.default_rng(seed)
    chosen = []
    for feature in range(features):
        best = order[:, feature]
        active = best[highest[best, feature] > 0]
        chosen.append(np.sort(rng.permutation(active)[:drawn]))
    return chosen


def mean_similarity(embeddings: Array) -> float:
    """Mean cosine similarity of all pairs of unit vectors ``[m, d]``; NaN for fewer than two."""
    count = len(embeddings)
    if count < 2:
        return float("nan")
    return float((np.square(embeddings.sum(0)).sum() - count) / (count * (count - 1)))


def specificity(embeddings: Array, tops: Sequence[Indices]) -> Array:
    """Mean pairwise similarity of each feature's top pictures less that of random pictures ``[n]`` (v1 of the paper).

    What ten random pictures give on average is the mean over all pairs of pictures.

    Args:
        embeddings: unit CLIP embeddings of all pictures ``[pictures, d]``.
        tops: of :func:`top_pictures`.
    """
    return np.array([mean_similarity(embeddings[top]) for top in tops]) - mean_similarity(embeddings)


def best_thresholds(activation: Array, labels: Flags) -> tuple[Array, Array]:
    """The best F1 of every feature as a detector of every label, and its threshold, each ``[n, labels]``.

    A threshold lies midway between neighbouring activations, never below 0: where a code is 0 the feature says no. A
    feature that is never active has F1 0 at an infinite threshold.

    Args:
        activation: ``[pictures, n]``, 0 where not active.
        labels: ``[pictures, labels]``.
    """
    positives = labels.sum(0)
    scores, thresholds = [], []
    for start in range(0, activation.shape[1], CHUNK):
        part = activation[:, start : start + CHUNK]
        order = np.argsort(-part, axis=0, kind="stable")
        ordered = np.take_along_axis(part, order, 0)
        below = np.vstack([ordered[1:], np.zeros((1, part.shape[1]), part.dtype)])
        hits = np.cumsum(labels[order], axis=0, dtype=np.float32)  # [pictures, features, labels]
        detected = np.arange(1, len(part) + 1, dtype=np.float32)[:, None, None]
        f1 = 2 * hits / (detected + positives)
        f1 = np.where(((ordered > below) & (ordered > 0))[..., None], f1, 0)
        best = f1.argmax(0)
        score = np.take_along_axis(f1, best[None], 0)[0]
        middle = np.take_along_axis((ordered + below).T / 2, best, 1)
        scores.append(score)
        thresholds.append(np.where(score > 0, middle, np.inf))
    return np.concatenate(scores), np.concatenate(thresholds)


def always_f1(prevalence: Array) -> Array:
    """The F1 of always saying yes: ``2 p / (1 + p)``."""
    return 2 * prevalence / (1 + prevalence)


def f1_gain(f1: Array, prevalence: Array) -> Array:
    """F1 above that of always saying yes, as a share of what is left to 1: 0 for such a detector, 1 at best."""
    floor = always_f1(prevalence)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(floor < 1, (f1 - floor) / (1 - floor), np.nan))


def f1_score(detected: Flags, labels: Flags, known: Flags) -> Array:
    """F1 of each column of ``[pictures, columns]`` over the known pictures; NaN where none has the label."""
    positives, yes = (labels & known).sum(0), (detected & known).sum(0)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(positives > 0, 2 * (detected & labels & known).sum(0) / (positives + yes), np.nan))


def auroc(activation: Array, labels: Flags, known: Flags) -> Array:
    """Area under the ROC curve of each column of ``[pictures, columns]`` over the known pictures, by ranks.

    The chance that a picture with the label has a higher activation than one without, ties counting one half; NaN
    where all or none have it.
    """
    ranks = pd.DataFrame(np.where(known, activation, np.nan)).rank().to_numpy()
    yes, no = (labels & known).sum(0), (~labels & known).sum(0)
    total = np.where(labels & known, ranks, 0).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((total - yes * (yes + 1) / 2) / (yes * no))


@dataclass(frozen=True)
class Truths:
    """The true attributes of pictures.

    Attributes:
        values: every (attribute, value).
        labels: whether a picture shows it ``[pictures, values]``.
        known: whether a picture shows the attribute at all ``[pictures, values]``.
    """

    values: Sequence[tuple[str, str]]
    labels: Flags
    known: Flags


def truths_of(shown: Sequence[Mapping[str, str]], attributes: Mapping[str, Sequence[str]]) -> Truths:
    """Labels of pictures that show values of some attributes; an attribute that one does not show is unknown there."""
    values = [(name, value) for name, several in attributes.items() for value in several]
    labels = [[picture.get(name) == value for name, value in values] for picture in shown]
    known = [[name in picture for name, _ in values] for picture in shown]
    return Truths(values, np.array(labels, bool), np.array(known, bool))


@dataclass(frozen=True)
class Detection:
    """Each feature as a detector of its best value; everything but the choice is of the report half.

    Attributes:
        value: number of the value that it detects best on the threshold half ``[n]``.
        where: number of the activation that does so best ``[n]``.
        threshold: chosen on the threshold half ``[n]``.
        chosen_gain: :func:`f1_gain` on the threshold half ``[n]``, by which the choice was made.
        f1: ``[n]``.
        gain: :func:`f1_gain` ``[n]``.
        area: AUROC ``[n]``.
        coverage: for each value the F1 of the feature that is best on the threshold half ``[values]``.
        detector: that feature ``[values]``.
    """

    value: Indices
    where: Indices
    threshold: Array
    chosen_gain: Array
    f1: Array
    gain: Array
    area: Array
    coverage: Array
    detector: Indices


def detect(activations: Sequence[Array], truths: Truths, first: Flags) -> Detection:
    """Find for each feature the value that it detects best, and say how well on other pictures.

    The value, the kind of activation and the threshold are chosen on the pictures in ``first``, the scores are of the
    others. The choice is by :func:`f1_gain`: by F1 itself every feature would detect the most frequent value.

    Args:
        activations: kinds of activation ``[pictures, n]`` each, as the maximum over the picture or over the object.
        truths: attributes of the pictures.
        first: the threshold half ``[pictures]``.
    """
    fits, levels = zip(*(_fits(activation[first], truths, first) for activation in activations), strict=True)
    fit, level = np.stack(fits), np.stack(levels)  # [kinds, n, values]
    kinds, features, values = fit.shape
    share = _prevalence(truths, first)
    gains = np.nan_to_num(f1_gain(fit, share), nan=-np.inf)
    flat = gains.transpose(1, 0, 2).reshape(features, -1)
    where, value = np.unravel_index(flat.argmax(1), (kinds, values))
    every = np.arange(features)
    threshold = level[where, every, value]
    report = ~first
    tested = np.stack([activation[report] for activation in activations])
    chosen = tested[where, :, every].T
    labels, known = truths.labels[report][:, value], truths.known[report][:, value]
    f1 = f1_score(chosen > threshold, labels, known)
    by_value = gains.transpose(2, 0, 1).reshape(values, -1)
    kind, detector = np.unravel_index(by_value.argmax(1), (kinds, features))
    best = tested[kind, :, detector].T
    detected = best > level[kind, detector, np.arange(values)]
    return Detection(
        value=value,
        where=where,
        threshold=threshold,
        chosen_gain=flat.max(1),
        f1=f1,
        gain=f1_gain(f1, _prevalence(truths, report)[value]),
        area=auroc(chosen, labels, known),
        coverage=f1_score(detected, truths.labels[report], truths.known[report]),
        detector=detector,
    )


def _prevalence(truths: Truths, rows: Flags) -> Array:
    with np.errstate(invalid="ignore"):
        return np.asarray(truths.labels[rows].sum(0) / truths.known[rows].sum(0))


def _fits(activation: Array, truths: Truths, rows: Flags) -> tuple[Array, Array]:
    """Best F1 and threshold ``[n, values]``; values of attributes that are known in the same pictures go together."""
    labels, known = truths.labels[rows], truths.known[rows]
    fit, level = (np.zeros((activation.shape[1], len(truths.values)), np.float32) for _ in range(2))
    patterns = {column.tobytes(): column for column in known.T}
    for pattern in patterns.values():
        columns = (known == pattern[:, None]).all(0)
        fit[:, columns], level[:, columns] = best_thresholds(activation[pattern], labels[pattern][:, columns])
    return fit, level


def active_share(share: Array, named: Flags, known: Flags, area: float) -> tuple[Array, Array]:
    """Share of pictures in which each feature is active on an area, ``[n]``: of those that name its meaning, of others.

    Args:
        share: share of the positions at which a feature is active ``[pictures, n]``.
        named: whether a picture names the meaning of the feature ``[pictures, n]``.
        known: whether it is known ``[pictures, n]``.
        area: from 0 to 1.
    """
    active = share >= area
    with np.errstate(invalid="ignore"):
        inside = (active & named & known).sum(0) / (named & known).sum(0)
        outside = (active & ~named & known).sum(0) / (~named & known).sum(0)
    return np.asarray(inside), np.asarray(outside)


def captions_naming(captions: Sequence[str], phrases: Sequence[str]) -> Flags:
    """Whether each caption holds each phrase as whole words, in any case ``[captions, phrases]``."""
    patterns = [re.compile(rf"(?<!\w){re.escape(phrase.strip())}(?!\w)", re.IGNORECASE) for phrase in phrases]
    return np.array([[bool(p.search(caption)) for p in patterns] for caption in captions], bool)
