"""What each feature detects, where the world is known: its best attribute value and how well it finds that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from riebench.models.model import Model
from riebench.sae.prompts import Prompted

DRAWN = "riebench.mini.drawn_instruments:"


@dataclass(frozen=True)
class Detected:
    """A label and a score for each feature; None where nothing is known."""

    labels: Sequence[str | None]
    scores: Sequence[float | None]
    score_name: str | None


def detect(model: Model, prompted: Sequence[Prompted], activity: NDArray[np.float32]) -> Detected:
    """Name each feature for the attribute value that it detects best, on models of the drawn world.

    Args:
        model: the model.
        prompted: what each picture was made from.
        activity: largest code ``[pictures, n]``.
    """
    count = activity.shape[1]
    shown = attribute_values(prompted) if model.entry.instruments.startswith(DRAWN) else {}
    if not shown:
        return Detected([None] * count, [None] * count, None)
    chosen, reported = best_f1(activity, np.stack(list(shown.values()), 1))
    names, best = list(shown), chosen.argmax(1)
    live = activity.max(0) > 0
    labels = [names[i] if alive else None for i, alive in zip(best, live, strict=True)]
    scores = reported[np.arange(count), best]
    return Detected(labels, [round(float(s), 4) if a else None for s, a in zip(scores, live, strict=True)], "F1")


def attribute_values(prompted: Sequence[Prompted]) -> dict[str, NDArray[np.bool_]]:
    """``attribute: value`` to whether each picture was asked to show it; empty if a prompt is not in the grammar."""
    from riebench.mini.grammar import ATTRIBUTES, PromptError, parse, visible

    try:
        scenes = [parse(prompt) for prompt, _ in prompted]
    except PromptError:
        return {}
    return {
        f"{name}: {value}": np.array([visible(scene, name) and getattr(scene, name) == value for scene in scenes])
        for name, values in ATTRIBUTES.items()
        for value in values
    }


def best_f1(
    activity: NDArray[np.float32], shown: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """F1 ``[n, values]`` of each feature as a detector of each value, on two halves of the pictures.

    A feature says yes where its activity is above a threshold of at least 0. The threshold is chosen on every other picture; the first
    result is the F1 there, the second the F1 on the rest.

    Args:
        activity: ``[pictures, n]``.
        shown: ``[pictures, values]``.
    """
    pick, rest = slice(0, None, 2), slice(1, None, 2)
    chosen, reported = np.zeros((2, activity.shape[1], shown.shape[1]))
    for feature, values in enumerate(activity.T):
        order = np.argsort(-values[pick], kind="stable")
        sorted_values = values[pick][order]
        hits = np.cumsum(shown[pick][order], 0)
        said = np.arange(1, len(order) + 1)[:, None]
        f1 = 2 * hits / (said + shown[pick].sum(0)).clip(1)
        last_of_its_kind = np.append(sorted_values[1:] < sorted_values[:-1], True) & (sorted_values > 0)
        if not last_of_its_kind.any():
            continue
        f1[~last_of_its_kind] = -1
        at = f1.argmax(0)
        chosen[feature] = f1.max(0)
        yes = values[rest][:, None] >= sorted_values[at]
        both = (yes & shown[rest]).sum(0)
        reported[feature] = 2 * both / (yes.sum(0) + shown[rest].sum(0)).clip(1)
    return chosen, reported
